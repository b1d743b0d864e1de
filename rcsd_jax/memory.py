"""How much memory a piece of work needed at most."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import jax

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures from the moment that it is made.

    On CPUs it is the process that is measured. Devices forget no peak: on them, work that needs less than earlier work
    of the same process is not known.
    """

    def __init__(self) -> None:
        with contextlib.suppress(
            OSError
        ):  # where that is forbidden, only a peak that was never reached before is known
            _RESET.write_text("5")  # Linux: the peak of the process is counted anew
        self._before = _peak()

    def __call__(self) -> int:
        """The most bytes that were in use at a time, on the fullest device; 0 if that is not known."""
        peak = _peak()
        return peak if peak > self._before else 0


def _peak() -> int:
    of_devices = _of_devices()
    return _of_process() if of_devices is None else of_devices


def _of_devices() -> int | None:
    found = [device.memory_stats() for device in jax.local_devices()]
    return max(stats.get("peak_bytes_in_use", 0) for stats in found if stats) if all(found) else None


def _of_process() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()) if _STATUS.exists() else None
    return 1024 * int(found[1]) if found else 0
