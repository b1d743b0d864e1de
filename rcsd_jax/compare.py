"""``python -m rcsd_jax.compare --runs=runs/a,runs/b --baseline=a --workdir=runs/comparison``: finished runs, one table.

What a run is, its files say: one that was measured with guidance in its prompt is a ceiling, one that wrote rubrics
has its quality shown, every other one that was measured is a method. Runs in folders of one name (a/seed_0/opsd,
a/seed_1/opsd) are one method with several seeds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Sequence
from typing import Any

from absl import flags
from etils import epath

from rcsd_jax import command, evaluation, metrics, report

_RUNS = flags.DEFINE_list("runs", [], "workdirs of finished runs, separated by commas")
_BASELINE = flags.DEFINE_string("baseline", "", "the folder name of the run that the others are compared with")
Quality = dict[str, dict[str, float]]  # question -> the numbers of its rubric
CURVES = {
    "loss": "loss",
    "measured_accuracy": "accuracy of evaluation.every",
    "reward": "reward",
    "rollout_accuracy": "accuracy of the student's own rollouts",
    "rollout_valid": "share of valid rubrics",
    "rollout_length": "tokens of a rollout",
    "grad_norm": "gradient norm",
}


def compare_runs(
    runs: Sequence[str | os.PathLike[str]], workdir: str | os.PathLike[str], *, baseline: str, title: str, seed: int = 0
) -> str:
    """Writes comparison.json and .csv, report.md and its pictures into ``workdir``.

    Returns:
      the table for the terminal.

    Raises:
      ValueError: a run that is not finished, or nothing to compare.
    """
    methods, ceilings, rubric_rows, environments = [], [], {}, {}
    for folder in map(epath.Path, runs):
        if not (folder / "done.json").exists():
            raise ValueError(f"{folder} is not finished (no done.json): run its command again first")
        experiment = json.loads((folder / "config.json").read_text())
        summary = json.loads((folder / "done.json").read_text())
        name = f"{folder.name}, seed {experiment['seed']}" if folder.name in environments else folder.name
        environments[name] = json.loads((folder / "env.json").read_text())
        if (folder / "quality.json").exists():
            quality = json.loads((folder / "quality.json").read_text())
            rubric_rows.setdefault(folder.name, (experiment["description"], []))[1].append(quality)
        elif (folder / "evaluation").exists():
            guided = experiment["evaluation"]["context"]
            (ceilings if guided else methods).append(_method(folder, experiment, summary))
    comparison = report.compare(
        methods,
        baseline=baseline,
        ceilings=ceilings,
        rubrics=_on_the_same_questions(rubric_rows),
        seed=seed,
        manifest={"environments": environments},
    )
    report.write(workdir, comparison, methods, title=title, curves=CURVES)
    return report.terminal_table(comparison)


def _method(folder: epath.Path, experiment: dict[str, Any], summary: dict[str, Any]) -> report.MethodResult:
    records = {path.stem: evaluation.read_records(path) for path in sorted((folder / "evaluation").glob("*.jsonl"))}
    log = folder / "metrics.jsonl"
    budget = report.Budget(**{field.name: summary.get(field.name, 0) for field in dataclasses.fields(report.Budget)})
    rows = metrics.read_metrics(log) if log.exists() else []
    curve = json.loads((folder / "curve.json").read_text()) if (folder / "curve.json").exists() else {}
    if curve:
        mode = "sampled" if experiment["evaluation"]["samples"] else "greedy"
        part = f"{experiment['evaluation']['splits'][0]}_{mode}"
        last = summary["evaluation"]["results"][part]["accuracy"]["mean"]
        measured = {int(step): found[part] for step, found in curve.items()} | {summary["steps"]: last}
        rows += [{"step": step, "measured_accuracy": measured[step]} for step in sorted(measured)]
    description = experiment["description"] + (f"; rubrics: {summary['rubrics']}" if "rubrics" in summary else "")
    return report.MethodResult(folder.name, description, records, rows, budget, experiment["seed"])


def _on_the_same_questions(rows: dict[str, tuple[str, list[Quality]]]) -> list[report.RubricResult]:
    """Only questions that all sources wrote a rubric for, or tried to, in all of their runs."""
    results = []
    # Writers are compared on what all were asked; an effect was measured where there was a rubric, which says nothing
    # of who did not write one.
    for writes in (True, False):
        kind = {name: row for name, row in rows.items() if _tells_validity(row[1]) == writes}
        each = [quality for _, runs in kind.values() for quality in runs]
        common = sorted(set.intersection(*map(set, each))) if each else []
        results += [
            report.RubricResult(name, description, {q: _mean([quality[q] for quality in runs]) for q in common})
            for name, (description, runs) in kind.items()
        ]
    return results


def _tells_validity(runs: Sequence[Quality]) -> bool:
    return any("valid" in numbers for quality in runs for numbers in quality.values())


def _mean(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each number over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: statistics.fmean(run[name] for run in runs if name in run) for name in names}


def _main() -> None:
    workdir = command.required_workdir()
    print(compare_runs(_RUNS.value, workdir, baseline=_BASELINE.value, title="Comparison"))


if __name__ == "__main__":
    command.start(_main)
