"""How far, how fast, how long still: a live line on a terminal, now and then a plain line elsewhere.

rcsd: 120/1000 steps (12%), 0.47 s/step, ETA 0:06:53, loss 1.234
"""

from __future__ import annotations

import atexit
import collections
import datetime
import statistics
import sys
import time
from typing import TextIO

import jax
import rich.console
import rich.progress

_WINDOW = 50  # marks that the speed is the median of
_MARK_SECONDS = 0.2  # Units that come in bursts (the rows of one batch) are measured together.
_PLAIN_SECONDS = 10.0


class Progress:
    """Counts units of work, on process 0; use as a context manager, or close it.

    The speed is a moving median, so compilations and checkpoints do not disturb the ETA for long. Progress lines
    may be nested: on a terminal they stand below each other.

    Args:
      label: what is going on, such as the name of the run.
      total: units of work in all.
      done: units that an earlier, killed run has done.
      unit: their name, in the plural.
      stream: where to write; standard error.
    """

    def __init__(self, label: str, total: int, *, done: int = 0, unit: str = "steps", stream: TextIO | None = None):
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self._stream = stream or sys.stderr
        self._active = jax.process_index() == 0
        self._numbers: dict[str, float] = {}
        self._paces: collections.deque[float] = collections.deque(maxlen=_WINDOW)  # seconds a unit
        self._mark = self._start = time.monotonic()
        self._mark_done = self._start_done = done
        self._next_line = 0.0
        self._line: rich.progress.TaskID | None = None
        if self._active and self._stream.isatty():
            self._line = _Terminal.add(self._stream, str(self))

    def advance(self, units: int = 1, **numbers: float) -> None:
        """``units`` more are done; ``numbers`` are shown until they are given again."""
        self.done += units
        self._numbers |= numbers
        now = time.monotonic()
        if now - self._mark >= _MARK_SECONDS and self.done > self._mark_done:
            self._paces.append((now - self._mark) / (self.done - self._mark_done))
            self._mark, self._mark_done = now, self.done
        if self._line is not None:
            _Terminal.update(self._line, str(self))
        elif self._active and now >= self._next_line:
            self._next_line = now + _PLAIN_SECONDS
            print(self, file=self._stream, flush=True)

    @property
    def pace(self) -> float | None:
        """Median seconds a unit lately; None until the second mark, for the first has all the compiling in it."""
        return statistics.median(self._paces) if len(self._paces) > 1 else None

    @property
    def eta(self) -> float | None:
        """Seconds until the end at this pace."""
        return None if self.pace is None else self.pace * max(0, self.total - self.done)

    def close(self) -> None:
        """Leaves a last line with the time that all took. May be called again."""
        if not self._active:
            return
        self._active = False
        took = _clock(time.monotonic() - self._start)
        last = f"{self.label}: {self.done - self._start_done} {self.unit} in {took}{self._shown()}"
        if self._line is not None:
            _Terminal.remove(self._line, last)
        else:
            print(last, file=self._stream, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __str__(self) -> str:
        share = 100 * self.done // max(1, self.total)
        text = f"{self.label}: {self.done}/{self.total} {self.unit} ({share}%)"
        if self.pace is not None and self.eta is not None:
            one = self.unit.removesuffix("s")
            speed = f"{self.pace:.2f} s/{one}" if self.pace >= 0.1 else f"{1 / max(self.pace, 1e-9):.0f} {self.unit}/s"
            text += f", {speed}, ETA {_clock(self.eta)}"
        return text + self._shown()

    def _shown(self) -> str:
        return "".join(f", {name} {value:.4g}" for name, value in self._numbers.items())


class _Terminal:
    """One live display for all progress lines of the process: rich allows one at a time."""

    _display: rich.progress.Progress | None = None

    @classmethod
    def add(cls, stream: TextIO, text: str) -> rich.progress.TaskID:
        if cls._display is None:
            columns = (rich.progress.SpinnerColumn(), rich.progress.TextColumn("{task.description}", markup=False))
            console = rich.console.Console(file=stream)
            cls._display = rich.progress.Progress(*columns, console=console, refresh_per_second=4, transient=True)
            cls._display.start()
            atexit.register(cls._stop)  # An error must not leave the terminal without its cursor.
        return cls._display.add_task(text, total=None)

    @classmethod
    def update(cls, line: rich.progress.TaskID, text: str) -> None:
        if cls._display is not None:
            cls._display.update(line, description=text)

    @classmethod
    def remove(cls, line: rich.progress.TaskID, last: str) -> None:
        if cls._display is not None:
            cls._display.console.print(last, markup=False, highlight=False, soft_wrap=True)
            cls._display.remove_task(line)
            if not cls._display.tasks:
                cls._stop()

    @classmethod
    def _stop(cls) -> None:
        atexit.unregister(cls._stop)
        if cls._display is not None:
            cls._display.stop()
            cls._display = None


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
