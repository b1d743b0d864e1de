"""``python -m rcsd_jax.doctor [--config=FILE] [--workdir=FOLDER] [--judge=URL]``: would a run work here?

Every check is a line, with the cure where something is wrong; what was not asked for is skipped. The exit code is 1 if
a check failed. On several hosts all must run it.

    ok       versions  python 3.11.7, jax 0.10.2, jaxlib 0.10.2; all 19 packages as requirements.txt asks
    warning  devices   1 x cpu; this machine has an NVIDIA GPU: pip install -r requirements-cuda.txt
    skipped  judge     no --judge
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from rcsd_jax import checks, command, config

_JUDGE = flags.DEFINE_string("judge", None, "the base URL of a judge, such as http://localhost:8000/v1")


def examine(asked: checks.Asked, tell: Callable[[str], Any]) -> bool:
    """Runs all checks and tells each as a line.

    Returns:
      whether none failed.
    """
    healthy = True
    prefix = f"host {jax.process_index()}: " if jax.distributed.is_initialized() else ""
    for name, check in checks.CHECKS.items():
        try:
            finding = check(asked)
        except ValueError as error:  # has what, where and the cure
            finding = checks.Finding("failed", str(error))
        except Exception as error:  # a check that breaks has found something, too
            finding = checks.Finding("failed", f"{type(error).__name__}: {error}")
        tell(f"{prefix}{finding.status:<8} {name:<8}  " + finding.says.replace("\n", "\n" + " " * 19))
        healthy = healthy and finding.status != "failed"
    return healthy


def _main() -> None:
    raw, workdir = flags.FLAGS["config"].value, flags.FLAGS["workdir"].value
    # The parts of a pipeline share one experiment.
    experiment = None if raw is None else config.read(raw.common if "common" in raw else raw)
    if not examine(checks.Asked(experiment, workdir, _JUDGE.value), functools.partial(print, flush=True)):
        sys.exit(1)


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    command.start(_main)
