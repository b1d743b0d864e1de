"""What a check is asked and what it answers, and the two things that checks share."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import TypeVar

from rcsd_jax import config

T = TypeVar("T")
PATIENCE = 120.0  # seconds for what may wait for ever: devices of other hosts, a bucket


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a run would be given: its config, its folder, its judge; None for what is not known."""

    experiment: config.Experiment | None = None
    workdir: str | None = None
    judge: str | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """``status`` is "ok", "warning", "failed" or "skipped"; ``says`` is what was found, and the cure."""

    status: str
    says: str


def within(seconds: float, function: Callable[[], T]) -> T:
    """``function()``, or TimeoutError if it takes longer; then it is left behind, for nothing can stop it."""
    got: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            got.append((function(), None))
        except BaseException as error:
            got.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not got:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    [(value, error)] = got
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def size(number: float) -> str:
    """A number of bytes for people."""
    return f"{number / 2**30:.1f} GiB"
