"""The folder of one run: what it was asked (config.json), where it ran (env.json), and whether it ended (done.json).

    config.json  env.json  metrics.jsonl  tensorboard/  checkpoints/  trajectories/  model/  diverged.json
    evaluation/  rubrics.jsonl  quality.json  compilations.json  done.json

A folder belongs to one config: opened again with the same one it is continued, with another it is refused. Keys that no
number depends on (``config.FREE``) may change, and so may all of them while nothing was made in the folder.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from typing import Any

import jax
from etils import epath

from rcsd_jax import compilations, config
from rcsd_jax.files import write_whole

MADE = ("checkpoints", "metrics.jsonl", "rubrics.jsonl", "evaluation", "model", "done.json")  # what costs work to make
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "grain", "numpy")


class Workdir:
    """Opens ``folder`` for ``experiment``, making it where it is missing.

    Raises:
      ValueError: the folder holds a run of another config; the message lists the keys that differ.
    """

    def __init__(self, folder: str | os.PathLike[str], experiment: config.Experiment):
        self.folder = epath.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._config = config.to_json(experiment)
        self._compiled_before = len(compilations.ledger())  # by earlier runs of this process
        path, wanted = self.folder / "config.json", json.loads(self._config)
        old = json.loads(path.read_text()) if path.exists() else None
        if old is not None and any((self.folder / name).exists() for name in MADE):
            _refuse_another(old, wanted, self.folder)
        if old != wanted and jax.process_index() == 0:
            write_json(path, wanted)
            write_json(self.folder / "env.json", environment())

    def __truediv__(self, name: str) -> epath.Path:
        return self.folder / name

    def done(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None."""
        path = self.folder / "done.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Says that everything in the folder is complete."""
        if jax.process_index() == 0:
            compiled = compilations.ledger()[self._compiled_before :]
            write_json(self.folder / "compilations.json", [dataclasses.asdict(line) for line in compiled])
            write_json(self.folder / "done.json", summary)
        return summary


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON for people: indented, keys sorted. The file appears whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def environment() -> dict[str, Any]:
    """Versions, devices and commit: what a number in this folder depends on besides its config."""
    return {
        "command": " ".join(sys.argv),
        "commit": _commit(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "processes": jax.process_count(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _commit() -> str | None:
    """The commit of this code, "-dirty" where it was edited; None outside a clone or without git."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False, cwd=os.path.dirname(__file__))
    except OSError:
        return None
    return git.stdout.strip() or None


def _refuse_another(old: Any, new: Any, folder: epath.Path) -> None:
    differences = list(_differences(config.without_free(old), config.without_free(new), "config"))
    if differences:
        raise ValueError(
            f"{folder} holds a run of another config:\n"
            + "\n".join(f"  - {line}" for line in differences)
            + "\nuse another --workdir, or give the old values"
        )


def _differences(old: Any, new: Any, path: str):
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}")
    elif old != new:
        yield f"{path} was {old!r}, is {new!r}"
