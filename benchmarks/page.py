"""docs/results/speed.md: one section for each file in docs/results/speed/, those of ``benchmarks.run`` first."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.side import ROOT

RESULTS = ROOT / "docs" / "results"
INTRODUCTION = """# Speed and memory

Written by `python -m benchmarks.run --save=<name>`, `benchmarks.growth`, `benchmarks.overlap` and `benchmarks.waiting`;
nothing here is typed in by hand.
Random weights, the same sizes on every side; no completion ends early, but in "Rollouts of uneven lengths". Sides are
processes that take turns (A B A B).

- **seconds**: median (least to most) of the rounds; **takes** "2 x ours": median over the rounds of
  this side's time by ours in the same round.
- **busy**: processor time by wall time. Where it is below the number of cores, others had the machine; compare ratios
  of one run, not seconds of two.
- **first**: the first call, with compiling. **peak**: memory of the process above what it held when it was ready; on a
  GPU all device memory.
- **of the bound**: the time that the products and the bytes of the task take at the machine's own rates (measured at
  the start of the run, best of all libraries) by our time. Only real work counts: no recomputation, no padding.
- Peers compute a prompt anew for each of its completions, they have no other way. "unshared" is ours with a prompt for
  each completion, so that nothing can be shared.
"""
TITLES = "| | side | seconds | takes | tokens/s | peak MiB | first s | busy | of the bound | parts |"


def save(name: str, record: dict[str, Any]) -> None:
    """Keeps a record and writes the page anew."""
    folder = RESULTS / "speed"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    write()


def write() -> None:
    """The page from what lies beside it."""
    folder = RESULTS / "speed"
    parts = [section(path.stem, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    parts += [path.read_text() for path in sorted(folder.glob("*.md"))]
    (RESULTS / "speed.md").write_text("\n".join([INTRODUCTION, *parts]))


def section(name: str, record: dict[str, Any]) -> str:
    """One run as Markdown."""
    load = record["load"]
    facts = [
        f"`{record['command']}`",
        f"commit {record['commit']}, {record['started']}, {record.get('minutes', 0):.0f} minutes",
        f"{record['machine']}; cores used: {record['cores']}; load at the start {load[0]:.1f}, most {max(load):.1f}",
        *(f"{who}: {', '.join(f'{k} {v}' for k, v in found.items())}" for who, found in record["versions"].items()),
        *(f"rates reached by {who}: {_rates(found)}" for who, found in record["rates"].items()),
    ]
    if record["noisy"]:
        facts.append("**others had the machine when this began: it shows that everything runs, and no more**")
    table = [TITLES, "|---|---|---|---|---|---|---|---|---|---|", *(row_lines(row) for row in record["rows"])]
    return "\n".join([f"## {name}", "", *(f"- {fact}" for fact in facts), "", *table, ""])


def row_lines(row: dict[str, Any]) -> str:
    """The lines of one row, a side each."""
    return "\n".join(_line(row, side, at) for at, side in enumerate(row["sides"]))


def _line(row: dict[str, Any], side: dict[str, Any], at: int) -> str:
    title = row["says"] if at == 0 else ""
    if "error" in side:
        return f"| {title} | {side['name']} | failed: {side['error'][:120]} | | | | | | | |"
    seconds, bound = side["s"], side["bound_s"]
    spread = f"{_number(side['median_s'])} ({_number(min(seconds))} to {_number(max(seconds))}) of {len(seconds)}"
    ratio = ", ".join(f"{times:.2f} x {name}" for name, times in side["times"].items())
    rate = f"{row['tokens'] / side['median_s']:.0f}" if row["task"] in ("sample", "score", "learn", "step") else ""
    peak = f"{side['peak_bytes'] / 2**20:.0f}"
    share = f"{bound[row['task']] / side['median_s']:.0%}" if row["task"] in bound else ""
    parts = ", ".join(_part(name, took, bound.get(name)) for name, took in side["parts"].items())
    cells = [
        title,
        side["name"],
        spread,
        ratio,
        rate,
        peak,
        f"{side['first_s']:.1f}",
        f"{side['busy']:.2f}",
        share,
        parts,
    ]
    return f"| {' | '.join(cells)} |"


def _part(name: str, took: float, bound: float | None) -> str:
    return f"{name} {_number(took)}" + (f" ({bound / took:.0%})" if bound else "")


def _number(seconds: float) -> str:
    return f"{seconds:.3g}"


def _rates(found: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {rate / 1e9:.1f} G{'B' if name in ('read', 'disk') else 'FLOP'}/s" for name, rate in found.items()
    )
