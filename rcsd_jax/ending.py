"""How a run ends before its work is done: it was asked to, or it hangs.

Asked by SIGTERM or SIGINT it saves and leaves with 85, which launchers take for "run me again"; asked by a file STOP in
its folder, with 0. Of several hosts all leave at the same point, whichever was asked. While nothing is unsaved, as
before the first step and in the last measurement, it leaves at once, also out of a compilation. What hangs shows the
stacks of all its threads and leaves with 134, the code of an abort.
"""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import itertools
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator

import jax
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from rcsd_jax import hosts

PREEMPTED, ABORTED = 85, 134
# A pulse is late after 10 times the median of the last ones, and no sooner than this; the first ones have all the
# compiling in them.
_LATE, _SECONDS, _WARM = 10, 1800.0, 3
_LOOK_SECONDS = 5.0  # between two looks for the file STOP
_LISTEN_SECONDS = 1.0  # between two looks whether the run was asked to end while it compiles
_PARTING_SECONDS = 5.0  # for a thread that may wait for a host that is gone
# Where jax's preemption service tells all hosts that one of them was asked. Should it have another name one day, hosts
# leave only between steps.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"
_STDERR = 2  # whatever sys.stderr has become, as in a notebook

_signalled = threading.Event()
_ears: list[int] = []  # where the number of a signal can be read while the main thread is in a compilation
_open: list[Pulse] = []  # the loops that look whether to end
_AT_ONCE = "asked to end, and nothing is unsaved; the same command goes on"
_pulses = itertools.count()  # each has one vote of the hosts on leaving at once
_points = itertools.count(1)  # where all hosts are asked whether to end: equally often on each


class Ended(Exception):
    """The run was asked to end and everything is saved; ``code`` is for the process to exit with."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def listen() -> None:
    """Takes SIGTERM and SIGINT as the wish to end from now on; a second one ends the process at once.

    Of several hosts jax itself takes SIGTERM, and tells the others: a handler of ours would take it away from it.
    """
    faulthandler.enable(_STDERR)  # stacks also where the runtime aborts, as it does when another host is gone
    if not jax.distributed.is_initialized():
        ear, mouth = os.pipe()
        for end in (ear, mouth):
            os.set_blocking(end, False)
        _ears[:] = [ear]
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _take)


def _take(number: int, frame: object) -> None:
    del frame
    if not _open:  # nothing is under way
        sys.exit(PREEMPTED)
    if not any(pulse.is_unsaved for pulse in _open):
        _leave(PREEMPTED)
    _signalled.set()
    signal.signal(number, signal.SIG_DFL)
    print("asked to end: saving as soon as nothing is under way; once more ends at once", file=sys.stderr, flush=True)


def _leave(code: int) -> None:
    """Ends this process now: an exception on its way out of a compilation can end in a segmentation fault."""
    if not jax.distributed.is_initialized() or hosts.is_first():
        shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a progress line hides
        print(f"{shown}{_AT_ONCE}", file=sys.stderr, flush=True)
    os._exit(code)


def _was_asked() -> bool:
    """Whether a signal has come, as a thread can know it."""
    if jax.distributed.is_initialized():
        return hosts.posted(_NOTICE)
    try:
        return bool(_ears and os.read(_ears[0], 100))
    except BlockingIOError:
        return False


class Alone(OSError):
    """One of several hosts cannot do what the others wait for, nor can it tell them where they wait."""


def lost_host(error: BaseException) -> bool:
    """Whether hosts wait for each other for good: one has learned that another is gone, or cannot follow the others."""
    before: BaseException | None = error
    while before is not None:  # what was raised on the way out hides it
        if isinstance(before, Alone):
            return True
        before = before.__context__
    is_of_runtime = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error)
    return is_of_runtime and jax.process_count() > 1


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """For what has timeouts of its own and may take longer than any step, such as a download: no pulse is late."""
    for pulse in _open:
        pulse.rest(True)
    try:
        yield
    finally:
        for pulse in _open:
            pulse.rest(False)


class Pulse:
    """What a loop calls once a step: it keeps the watchdog quiet and says whether to end. A context manager.

    Args:
      stop: the file whose being there asks the run to end; only host 0 looks.
    """

    def __init__(self, stop: epath.Path):
        self._stop, self._next_look = stop, 0.0
        self._seconds = float(os.environ.get("RCSD_HANG_SECONDS", _SECONDS))
        self._paces: collections.deque[float] = collections.deque(maxlen=50)
        self._beat, self._last = threading.Condition(), time.monotonic()
        self._open, self._is_resting = True, False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.is_unsaved, self._deciding, self._number = False, threading.Lock(), next(_pulses)
        self._closed = threading.Event()
        self._ear = threading.Thread(target=self._listen, name="ear", daemon=True)

    def __enter__(self) -> Pulse:
        _open.append(self)
        self._last = time.monotonic()
        self._thread.start()
        self._ear.start()
        return self

    def __exit__(self, *exception: object) -> None:
        _open.remove(self)
        with self._beat:
            self._open = False
            self._beat.notify()
        self._closed.set()
        self._thread.join()
        self._ear.join(_PARTING_SECONDS)

    def rest(self, is_resting: bool) -> None:
        """Whether no pulse is expected, see ``unwatched``."""
        with self._beat:
            self._is_resting, self._last = is_resting, time.monotonic()
            self._beat.notify()

    def owes(self, something: bool = True) -> None:
        """Whether from now on an end at once would lose work. All hosts must call it at the same points."""
        with self._deciding:
            self.is_unsaved = something

    def __call__(self) -> bool:
        """A step is done; whether to end now, the same on every host. All hosts must call it equally often."""
        with self._beat:
            now = time.monotonic()
            self._paces.append(now - self._last)
            self._last = now
            self._beat.notify()
        if hosts.is_first() and not _signalled.is_set() and now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            if self._stop.exists():
                _signalled.set()
                if jax.distributed.is_initialized():
                    os.kill(os.getpid(), signal.SIGTERM)  # the way on which all hosts hear of it
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(next(_points))
        return _signalled.is_set()

    def ended(self, what: str) -> Ended:
        """To be raised once everything is saved. ``what`` says how far the run is: "step 12 is saved"."""
        _signalled.clear()  # who catches it may begin another run, which was not asked
        _was_asked()
        if hosts.from_first(self._stop.exists):
            return Ended(f"{what}; {self._stop} was there: remove it, the same command goes on", 0)
        return Ended(f"{what}; the same command goes on", PREEMPTED)

    @property
    def patience(self) -> float:
        """Seconds until the next pulse is late."""
        if len(self._paces) <= _WARM:
            return 2 * self._seconds
        return max(self._seconds, _LATE * statistics.median(self._paces))

    def _watch(self) -> None:
        with self._beat:
            while self._open:
                left = self._last + self.patience - time.monotonic()
                if self._is_resting or left > 0:
                    self._beat.wait(None if self._is_resting else left)
                    continue
                logging.error(
                    "no step has ended for %.0f s, the stacks follow; the same command goes on", self.patience
                )
                faulthandler.dump_traceback(_STDERR, all_threads=True)
                os._exit(ABORTED)

    def _listen(self) -> None:
        while not self._closed.wait(_LISTEN_SECONDS):
            if _was_asked():
                with self._deciding:
                    self._leave_if_free()
                return

    def _leave_if_free(self) -> None:
        if jax.distributed.is_initialized():
            name = f"leave/{self._number}"
            code = hosts.verdict(name, not self.is_unsaved, lambda: 0 if self._stop.exists() else PREEMPTED)
        else:
            code = None if self.is_unsaved else PREEMPTED
        if code is not None:
            _leave(code)
