"""One side of a comparison: a process that does its task once each time it is told to. Standard library only.

The child gets a task and a case, prepares and warms up, answers; then it answers every line of its standard input with
one measurement. It stays alive while the other sides have their turns, so that A B A B is real and the peak of memory
is its own.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.case import Case

ROOT = Path(__file__).parents[1]
# Does the task once and returns when the result is there. It may say how many seconds its parts took, and with "s" how
# many itself, where that is not the time until it returned.
Once = Callable[[], dict[str, float] | None]


def serve(tasks: Mapping[str, Callable[[Case], Once]], device_peak: Callable[[], int | None] = lambda: None) -> None:
    """The child: ``python -m <module> <task> <case>``.

    Args:
      tasks: name to a function that prepares a case.
      device_peak: bytes of accelerator memory used at most, or None on a CPU, where the process is looked at.
    """
    name, case = sys.argv[1], Case.from_json(sys.argv[2])
    # Libraries print; what they print must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    once = tasks[name](case)
    first = time.perf_counter()
    once()
    print(json.dumps({"first_s": time.perf_counter() - first}), file=answers)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what a side has freed and kept is not its own
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _resident("VmRSS")
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        parts = once() or {}
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        on_device = device_peak()
        peak = _resident("VmHWM") - before if on_device is None else on_device
        said = {"s": parts.pop("s", wall), "busy": cpu / wall, "parts": parts, "peak_bytes": peak}
        print(json.dumps(said), file=answers)


def _resident(name: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {name}: peak memory can only be read on Linux")


class Side:
    """The parent's handle of one such process; a context manager that ends it.

    Args:
      name: how tables call it.
      python: the interpreter of its environment.
      module: a module of this package that calls ``serve``.
      task: one of its tasks.
      case: the sizes.
      core: the one core that it may use, or None for all.
      environment: variables beside those of this process.
      log: where its standard error goes.

    Raises:
      RuntimeError: it ended without an answer; the message is the last line of its log.
    """

    def __init__(
        self,
        name: str,
        python: str,
        module: str,
        task: str,
        case: Case,
        *,
        core: int | None,
        environment: Mapping[str, str],
        log: Path,
    ):
        self.name, self._log = name, log
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        with open(log, "w") as stderr:
            self._process = subprocess.Popen(
                [*pinned, python, "-m", module, task, case.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
                env={**os.environ, **environment},
            )
        self._stdin, self._stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        self.measurements: list[dict[str, Any]] = []
        try:
            self.first_s: float = self._answer()["first_s"]
        except RuntimeError:
            self.close()
            raise

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def go(self) -> None:
        """One measurement."""
        self._stdin.write("go\n")
        self._stdin.flush()
        self.measurements.append(self._answer())

    def close(self) -> None:
        """Lets the process end, and waits for it."""
        self._stdin.close()
        self._stdout.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._stdout.readline()
        if not line:
            said = [text for text in self._log.read_text().splitlines() if text.strip()]
            raise RuntimeError(f"{self.name} gave no answer: {said[-1] if said else 'and said nothing'}")
        return json.loads(line)
