"""Measures a suite.

    python -m benchmarks.run --suite=cpu [--peers[=trl,tunix]] [--only=learn,step] [--cores=1] [--save=quiet]

The sides of a row are processes of their own that take turns: A B A B. Times are medians over the rounds, ratios are
medians of the ratios within a round. With --save the numbers go to docs/results/speed/<name>.json after every row, and
docs/results/speed.md is written anew from all files there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, page
from benchmarks.case import TINY, Case
from benchmarks.rows import SUITES, WORK, Row
from benchmarks.side import ROOT, Side

OURS = "ours"
PEERS = ("transformers", "trl", "liger", "tunix")


@dataclasses.dataclass(frozen=True)
class Conditions:
    """How sides are run."""

    suite: str
    rounds: int
    patience: float
    pinned: bool
    logs: Path

    def side(self, name: str, task: str, case: Case) -> Side:
        """A side that is ready; ``name`` is "ours", a variant's or a peer's."""
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # sides share a GPU
        core = max(os.sched_getaffinity(0)) if self.pinned else None
        if self.suite == "cpu":
            environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        log = self.logs / f"{name}-{task}.log"
        return Side(name, interpreter(name), module(name), task, case, core=core, environment=environment, log=log)


def module(name: str) -> str:
    """Where the tasks of a side are."""
    return f"benchmarks.peers.{name}" if name in PEERS else "benchmarks.ours"


def interpreter(name: str) -> str:
    """The Python of a side's environment."""
    return str(ROOT / f"benchmarks/peers/.venv-{name}/bin/python") if name in PEERS else sys.executable


def measure(row: Row, peers: tuple[str, ...], conditions: Conditions) -> list[dict[str, Any]]:
    """What each side of a row took, ours first; a side that could not do it has an "error" instead."""
    names = [OURS, *row.variants, *peers]
    with contextlib.ExitStack() as stack:
        sides: dict[str, Side | str] = {}
        for name in names:
            try:
                sides[name] = stack.enter_context(conditions.side(name, *row.side(name)))
            except (RuntimeError, OSError) as error:
                sides[name] = str(error)
        started = time.monotonic()
        for _ in range(conditions.rounds):
            for name, side in sides.items():
                sides[name] = _turn(side)
            if time.monotonic() - started > conditions.patience:
                break
    references = {name: side for name in (OURS, "unshared") if isinstance(side := sides.get(name), Side)}
    return [_summary(name, side, references) for name, side in sides.items()]


def _turn(side: Side | str) -> Side | str:
    if isinstance(side, Side):
        try:
            side.go()
        except RuntimeError as error:
            return str(error)
    return side


def _summary(name: str, side: Side | str, references: dict[str, Side]) -> dict[str, Any]:
    if isinstance(side, str):
        return {"name": name, "error": side}
    rounds, seconds = side.measurements, [m["s"] for m in side.measurements]
    ratios = {
        reference: [s / m["s"] for s, m in zip(seconds, other.measurements, strict=True)]
        for reference, other in references.items()
        if reference != name
    }
    return {
        "name": name,
        "s": seconds,
        "median_s": statistics.median(seconds),
        "times": {reference: statistics.median(values) for reference, values in ratios.items()},
        "busy": statistics.median(m["busy"] for m in rounds),
        "peak_bytes": max(m["peak_bytes"] for m in rounds),
        "first_s": side.first_s,
        "parts": {part: statistics.median(m["parts"][part] for m in rounds) for part in rounds[0]["parts"]},
    }


def rates(peers: Sequence[str], conditions: Conditions) -> dict[str, dict[str, float]]:
    """The machine's rates, by who reached them."""
    found = {}
    for name in (OURS, "transformers") if "transformers" in peers else (OURS,):
        with contextlib.suppress(RuntimeError, OSError), conditions.side(name, "rates", Case(TINY)) as side:
            side.go()
            found[name] = side.measurements[0]["parts"]
    return found


def bounds(task: str, case: Case, limits: dict[str, float]) -> dict[str, float]:
    """Seconds that the task and each of its parts take at least."""
    names = (task, *{"learn": ("score", "train"), "step": ("sample", "score", "train")}.get(task, ()))
    return {name: sum(phase.seconds(limits) for phase in WORK[name](case)) for name in names if name in WORK}


def entry(row: Row, sides: list[dict[str, Any]], limits: dict[str, float]) -> dict[str, Any]:
    """The record of a row; peers are measured against the bound of our way, which does no more than it must."""
    found = [side | {"bound_s": bounds(row.task, row.side(side["name"])[1], limits)} for side in sides]
    about = {"name": row.name, "says": row.says, "task": row.task, "tokens": row.case.tokens}
    return about | {"case": dataclasses.asdict(row.case), "sides": found}


def measured(rows: list[Row], asked: Sequence[str], conditions: Conditions) -> Iterator[dict[str, Any]]:
    """The record of the run, after each row."""
    load, started = machine.settled(), time.monotonic()
    reached = rates(asked, conditions)
    record: dict[str, Any] = {
        "suite": conditions.suite,
        "command": shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
        "commit": machine.commit(),
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": machine.describe({"JAX_PLATFORMS": "cpu"} if conditions.suite == "cpu" else {}),
        "cores": "1 (pinned)" if conditions.pinned else "all",
        "versions": {OURS: machine.versions(sys.executable)},
        "rates": reached,
        "load": [load],
        "noisy": load > len(os.sched_getaffinity(0)) / 2,
        "rows": [],
    }
    for row in rows:
        peers = tuple(peer for peer in row.peers if peer in asked)
        record["rows"].append(entry(row, measure(row, peers, conditions), machine.best(reached.values())))
        record["load"].append(machine.load())
        record["minutes"] = (time.monotonic() - started) / 60
        for name in peers:
            if name not in record["versions"] and Path(interpreter(name)).exists():
                record["versions"][name] = machine.versions(interpreter(name))
        yield record


def chosen(suite: str, only: list[str], tiny: bool) -> list[Row]:
    """The rows that are asked for.

    Raises:
      ValueError: ``only`` names a row that the suite does not have.
    """
    rows = SUITES[suite]()
    unknown = set(only) - {row.name for row in rows}
    if unknown:
        raise ValueError(f"--only names {sorted(unknown)}: the rows are {[row.name for row in rows]}")
    rows = [row for row in rows if not only or row.name in only]
    return [row.tiny() for row in rows] if tiny else rows


def flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument("--only", default="", help="names of rows, with commas between them; all if empty")
    parser.add_argument("--peers", nargs="?", const=",".join(PEERS), default="", help="which of them; --peers: all")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side")
    parser.add_argument("--patience", type=float, default=600, help="seconds after which a row begins no new round")
    parser.add_argument("--cores", choices=("1", "all"), default="all", help="1 pins every side to the last core")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--save", help="a name for these numbers in docs/results/speed/")
    return parser.parse_args()


def main() -> None:
    """See the module."""
    asked = flags()
    rows = chosen(asked.suite, asked.only.split(",") if asked.only else [], asked.tiny)
    with tempfile.TemporaryDirectory() as logs:
        pinned = asked.cores == "1"
        conditions = Conditions(asked.suite, asked.rounds, asked.patience, pinned=pinned, logs=Path(logs))
        record: dict[str, Any] = {}
        for record in measured(rows, asked.peers.split(","), conditions):
            print(page.row_lines(record["rows"][-1]), flush=True)
            if asked.save:
                page.save(asked.save, record)
    print(page.section(asked.save or asked.suite, record))


if __name__ == "__main__":
    main()
