"""Methods side by side on the same questions: means with intervals, paired tests, and what they add up to.

A method may have run several times, with other seeds: then it stands there as often, and all its numbers are means.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rcsd_jax import evaluation
from rcsd_jax.evaluation import EvaluationRecord, Interval
from rcsd_jax.report.records import (
    COLUMNS,
    Budget,
    Column,
    Comparison,
    Difference,
    MethodResult,
    Pair,
    Row,
    RubricResult,
    RubricRow,
    is_share,
)

MOST_PAIRED = 12  # methods that are compared each with each; of more nobody would read the table


def compare(
    methods: Sequence[MethodResult],
    *,
    baseline: str,
    ceilings: Sequence[MethodResult] = (),
    rubrics: Sequence[RubricResult] = (),
    columns: Sequence[Column] = COLUMNS,
    seed: int = 0,
    manifest: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compares methods with the baseline and with each other, question by question.

    Args:
      methods: what is compared, in the order of the table; all were asked the same questions. Those with one name are
        runs of one method, with other seeds; then all methods have the same seeds.
      baseline: the name of one of them.
      ceilings: models that answered with guidance in their prompt. The first is the end of the gap to close.
      rubrics: rubric sources to describe; each is compared with the first where both wrote for the same questions.
      columns: of the table; the first one is the main one.
      seed: of resampling.
      manifest: what else the reader must know to make the numbers again (configs, seeds, versions).

    Raises:
      ValueError: no such baseline, a name twice with one seed, no column that the baseline has, or methods with other
        questions or seeds.
    """
    names = [method.name for method in (*methods, *ceilings)]
    runs = {(method.name, method.seed) for method in (*methods, *ceilings)}
    if len(runs) < len(names) or baseline not in [method.name for method in methods]:
        raise ValueError(
            f"methods are {names}, the baseline is {baseline!r}: name each once (a seed), the baseline among them"
        )
    methods_by_name, ceilings_by_name = _by_name(methods), _by_name(ceilings)
    base = methods_by_name[baseline]
    for found in (*methods_by_name.values(), *ceilings_by_name.values()):
        _refuse_other_seeds(found, base)
        for method in found:
            _refuse_other_questions(method, base[0])
    values = {name: _values(found) for name, found in (methods_by_name | ceilings_by_name).items()}
    columns = tuple(column for column in columns if any(column.key in values[name] for name in methods_by_name))
    if not columns or columns[0].key not in values[baseline]:
        raise ValueError(
            f"baseline {baseline!r} has {sorted(base[0].records)}: evaluate it on {columns[:1] or COLUMNS}"
        )
    differences = _differences(list(methods_by_name), baseline, columns, values, seed)
    rows = [
        dataclasses.replace(_row(found, values[name], seed), differences=differences.get(name, {}))
        for name, found in methods_by_name.items()
    ]
    tops = [_row(found, values[name], seed) for name, found in ceilings_by_name.items()]
    rows = [dataclasses.replace(row, gap_closed=_gap_closed(row, tops, columns[0])) for row in rows]
    main = columns[0].key
    paired = [name for name in methods_by_name if main in values[name]]
    pairs = [
        Pair(one, two, evaluation.paired_test(values[one][main], values[two][main], seed=seed))
        for one, two in itertools.permutations(paired if len(paired) <= MOST_PAIRED else (), 2)
    ]
    return Comparison(
        baseline=baseline,
        seed=seed,
        columns=columns,
        methods=tuple(rows),
        ceilings=tuple(tops),
        pairs=tuple(pairs),
        rubrics=tuple(_rubric_row(source, rubrics[0], seed) for source in rubrics),
        manifest=dict(manifest or {}),
    )


def _by_name(methods: Sequence[MethodResult]) -> dict[str, list[MethodResult]]:
    """The runs of each method, in the order of their seeds."""
    found: dict[str, list[MethodResult]] = {}
    for method in methods:
        found.setdefault(method.name, []).append(method)
    return {name: sorted(runs, key=lambda run: run.seed) for name, runs in found.items()}


def _values(runs: Sequence[MethodResult]) -> dict[str, np.ndarray]:
    """Column key -> one number a question for every run [R, G], the questions sorted by id."""
    each = [
        {
            f"{name}/{metric}": values_G
            for name, records in run.records.items()
            if records
            for metric, values_G in evaluation.per_question(sorted(records, key=lambda record: record.id)).items()
        }
        for run in runs
    ]
    return {key: np.stack([of[key] for of in each]) for key in each[0] if all(key in of for of in each)}


def _refuse_other_seeds(runs: Sequence[MethodResult], base: Sequence[MethodResult]) -> None:
    ours, theirs = ([run.seed for run in found] for found in (runs, base))
    if ours != theirs and max(len(ours), len(theirs)) > 1:
        raise ValueError(
            f"{runs[0].name!r} ran with seeds {ours}, the baseline {base[0].name!r} with {theirs}: give both with "
            "the same seeds"
        )


def _refuse_other_questions(method: MethodResult, base: MethodResult) -> None:
    for name in sorted(method.records.keys() & base.records.keys()):
        ours = {record.id for record in method.records[name]}
        theirs = {record.id for record in base.records[name]}
        if ours != theirs:
            raise ValueError(
                f"{method.name!r} and {base.name!r} were asked other questions in {name!r}: {len(ours - theirs)} only "
                f"the first, {len(theirs - ours)} only the second (one is {min(ours ^ theirs)!r}): evaluate both on "
                "the same split and limit"
            )


def _differences(
    methods: Sequence[str],
    baseline: str,
    columns: Sequence[Column],
    values: Mapping[str, Mapping[str, np.ndarray]],
    seed: int,
) -> dict[str, dict[str, Difference]]:
    """Method -> column key -> difference to the baseline."""
    found: dict[str, dict[str, Difference]] = {}
    for key in (column.key for column in columns if column.key in values[baseline]):
        tests = {
            method: evaluation.paired_test(values[method][key], values[baseline][key], seed=seed)
            for method in methods
            if method != baseline and key in values[method]
        }
        corrected = evaluation.holm([test.p for test in tests.values()])
        for (name, test), p_holm in zip(tests.items(), corrected, strict=True):
            found.setdefault(name, {})[key] = Difference(**dataclasses.asdict(test), p_holm=p_holm)
    return found


def _row(runs: Sequence[MethodResult], values: Mapping[str, np.ndarray], seed: int) -> Row:
    metrics: dict[str, dict[str, Interval]] = {}
    for key, values_RG in values.items():
        name, metric = key.split("/")
        interval = evaluation.rate_interval if evaluation.is_rate(metric) else evaluation.mean_interval
        metrics.setdefault(name, {})[metric] = interval(values_RG, seed=seed)
    records = {name: _pooled([run.records[name] for run in runs]) for name in metrics}
    return Row(
        name=runs[0].name,
        description=runs[0].description,
        budget=_mean_budget([run.budget for run in runs]),
        seeds=tuple(run.seed for run in runs),
        samples={name: min(r.samples for run in runs for r in run.records[name]) for name in metrics},
        metrics=metrics,
        by_source={name: evaluation.accuracy_by_source(found, seed=seed) for name, found in records.items()},
        by_criterion={name: evaluation.met_by_criterion(found, seed=seed) for name, found in records.items()},
        by_seed={key: tuple(values_RG.mean(axis=1).tolist()) for key, values_RG in values.items()},
    )


def _pooled(runs: Sequence[Sequence[EvaluationRecord]]) -> list[EvaluationRecord]:
    """One record a question, with the samples of all runs."""
    others = [{record.id: record for record in records} for records in runs[1:]]
    return [evaluation.pooled([record, *(other[record.id] for other in others)]) for record in runs[0]]


def _mean_budget(budgets: Sequence[Budget]) -> Budget:
    """The mean of each number, and the most memory."""
    mean = {
        field.name: float(np.mean([getattr(b, field.name) for b in budgets])) for field in dataclasses.fields(Budget)
    }
    return Budget(
        steps=round(mean["steps"]),
        sampled_tokens=round(mean["sampled_tokens"]),
        teacher_tokens=round(mean["teacher_tokens"]),
        seconds=mean["seconds"],
        peak_memory=max(budget.peak_memory for budget in budgets),
    )


def _gap_closed(row: Row, ceilings: Sequence[Row], column: Column) -> float | None:
    gain = row.differences.get(column.key)
    top, here = (ceilings[0].cell(column) if ceilings else None), row.cell(column)
    if gain is None or top is None or here is None:
        return None
    gap = top.mean - (here.mean - gain.difference)
    return gain.difference / gap if gap > 0 else None


def _rubric_row(source: RubricResult, first: RubricResult, seed: int) -> RubricRow:
    rows = list(source.quality.values())
    columns = {
        name: np.array([row[name] for row in rows if name in row]) for name in dict.fromkeys(n for r in rows for n in r)
    }
    means = {
        name: (evaluation.rate_interval if is_share(name) else evaluation.mean_interval)(values_G, seed=seed)
        for name, values_G in columns.items()
    }
    ids = sorted(source.quality)
    differences = {}
    if source is not first and ids == sorted(first.quality):
        for name in filter(is_share, means):
            if all(name in quality for side in (source, first) for quality in side.quality.values()):
                ours, theirs = (np.array([side.quality[i][name] for i in ids]) for side in (source, first))
                differences[name] = evaluation.paired_test(ours, theirs, seed=seed)
    return RubricRow(source.name, source.description, means, differences)
