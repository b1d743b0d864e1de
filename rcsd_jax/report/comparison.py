"""Methods side by side on the same questions: means with intervals, paired tests, and what they add up to."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rcsd_jax import evaluation
from rcsd_jax.evaluation import EvaluationRecord, Interval, PairedTest

SCHEMA = 1
CLEAR = 0.05  # p after correction


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a method cost: steps, tokens that it sampled, tokens that its teacher read or wrote, wall time."""

    steps: int = 0
    sampled_tokens: int = 0
    teacher_tokens: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class MethodResult:
    """All that is known of one finished method.

    ``records`` are its evaluations by name ("eval_sampled", "eval_greedy", "transfer_sampled"); ``metrics`` the rows
    of its metrics.jsonl, empty for a model that was not trained.
    """

    name: str
    description: str
    records: Mapping[str, Sequence[EvaluationRecord]]
    metrics: Sequence[Mapping[str, float]] = ()
    budget: Budget = Budget()


@dataclasses.dataclass(frozen=True)
class RubricResult:
    """Rubrics from one source; ``quality`` has the numbers of each question by its id ("valid", "match_f1", ...)."""

    name: str
    description: str
    quality: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Column:
    """One metric of one evaluation, as a column of the table. Rates are shown in percent."""

    title: str
    records: str
    metric: str

    @property
    def key(self) -> str:
        """Its name in comparison.json."""
        return f"{self.records}/{self.metric}"

    @property
    def is_rate(self) -> bool:
        """Whether it lies in [0, 1]."""
        return evaluation.is_rate(self.metric)


COLUMNS = (
    Column("accuracy", "eval_sampled", "accuracy"),
    Column("greedy", "eval_greedy", "accuracy"),
    Column("criteria", "eval_sampled", "criteria"),
    Column("transfer", "transfer_sampled", "accuracy"),
    Column("tokens", "eval_sampled", "length"),
)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired test against the baseline; ``p_holm`` is corrected for the number of methods compared."""

    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True)
class Row:
    """One method, or one ceiling, in numbers.

    ``metrics["eval_sampled"]["accuracy"]`` is an interval, and so is ``by_source["eval_sampled"][template]``.
    ``differences`` is by column key; ``gap_closed`` is the share of the way from the baseline to the first ceiling,
    in the first column.
    """

    name: str
    description: str
    budget: Budget
    samples: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, Interval]]
    by_source: Mapping[str, Mapping[str, Interval]]
    by_criterion: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Difference] = dataclasses.field(default_factory=dict)
    gap_closed: float | None = None

    def cell(self, column: Column) -> Interval | None:
        """The number of a column, None where the method has none."""
        return self.metrics.get(column.records, {}).get(column.metric)


@dataclasses.dataclass(frozen=True)
class Pair:
    """``method`` minus ``other`` in the first column."""

    method: str
    other: str
    test: PairedTest


@dataclasses.dataclass(frozen=True)
class RubricRow:
    """Rubrics from one source: means over questions, and the shares minus those of the first source."""

    name: str
    description: str
    quality: Mapping[str, Interval]
    differences: Mapping[str, PairedTest]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything that the report says, as numbers. ``columns`` are those that some method has, the main one first."""

    baseline: str
    seed: int
    columns: tuple[Column, ...]
    methods: tuple[Row, ...]
    ceilings: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    rubrics: tuple[RubricRow, ...]
    manifest: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The content of comparison.json; the fields of the classes above are its keys."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}


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
      methods: what is compared, in the order of the table; all were asked the same questions.
      baseline: the name of one of them.
      ceilings: models that answered with guidance in their prompt. The first is the end of the gap to close.
      rubrics: rubric sources to describe; each is compared with the first where both wrote for the same questions.
      columns: of the table; the first one is the main one.
      seed: of resampling.
      manifest: what else the reader must know to make the numbers again (configs, seeds, versions).

    Raises:
      ValueError: no such baseline, a name twice, no column that the baseline has, or methods with other questions.
    """
    names = [method.name for method in (*methods, *ceilings)]
    if len(set(names)) < len(names) or baseline not in [method.name for method in methods]:
        raise ValueError(f"methods are {names}, the baseline is {baseline!r}: name each once, the baseline among them")
    base = next(method for method in methods if method.name == baseline)
    values = {method.name: _values(method) for method in (*methods, *ceilings)}
    columns = tuple(column for column in columns if any(column.key in values[method.name] for method in methods))
    if not columns or columns[0].key not in values[baseline]:
        raise ValueError(f"baseline {baseline!r} has {sorted(base.records)}: evaluate it on {columns[:1] or COLUMNS}")
    for method in (*methods, *ceilings):
        _refuse_other_questions(method, base)
    differences = _differences(methods, baseline, columns, values, seed)
    rows = [dataclasses.replace(_row(m, seed), differences=differences.get(m.name, {})) for m in methods]
    tops = [_row(ceiling, seed) for ceiling in ceilings]
    rows = [dataclasses.replace(row, gap_closed=_gap_closed(row, tops, columns[0])) for row in rows]
    main = columns[0].key
    pairs = [
        Pair(one.name, two.name, evaluation.paired_test(values[one.name][main], values[two.name][main], seed=seed))
        for one, two in itertools.permutations(methods, 2)
        if main in values[one.name] and main in values[two.name]
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


def _values(method: MethodResult) -> dict[str, np.ndarray]:
    """Column key -> one number a question, the questions sorted by id."""
    return {
        f"{name}/{metric}": values_G
        for name, records in method.records.items()
        for metric, values_G in evaluation.per_question(sorted(records, key=lambda record: record.id)).items()
    }


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
    methods: Sequence[MethodResult],
    baseline: str,
    columns: Sequence[Column],
    values: Mapping[str, Mapping[str, np.ndarray]],
    seed: int,
) -> dict[str, dict[str, Difference]]:
    """Method -> column key -> difference to the baseline."""
    found: dict[str, dict[str, Difference]] = {}
    for key in (column.key for column in columns if column.key in values[baseline]):
        tests = {
            method.name: evaluation.paired_test(values[method.name][key], values[baseline][key], seed=seed)
            for method in methods
            if method.name != baseline and key in values[method.name]
        }
        corrected = evaluation.holm([test.p for test in tests.values()])
        for (name, test), p_holm in zip(tests.items(), corrected, strict=True):
            found.setdefault(name, {})[key] = Difference(**dataclasses.asdict(test), p_holm=p_holm)
    return found


def _row(method: MethodResult, seed: int) -> Row:
    records = {name: found for name, found in method.records.items() if found}
    return Row(
        name=method.name,
        description=method.description,
        budget=method.budget,
        samples={name: min(record.samples for record in found) for name, found in records.items()},
        metrics={name: evaluation.summarise(found, seed=seed) for name, found in records.items()},
        by_source={name: evaluation.accuracy_by_source(found, seed=seed) for name, found in records.items()},
        by_criterion={name: evaluation.met_by_criterion(found, seed=seed) for name, found in records.items()},
    )


def _gap_closed(row: Row, ceilings: Sequence[Row], column: Column) -> float | None:
    gain = row.differences.get(column.key)
    top, here = (ceilings[0].cell(column) if ceilings else None), row.cell(column)
    if gain is None or top is None or here is None:
        return None
    gap = top.mean - (here.mean - gain.difference)
    return gain.difference / gap if gap > 0 else None


def is_share(name: str) -> bool:
    """Whether this number of a rubric's quality lies in [0, 1]; the others are counts."""
    return name == "valid" or name.startswith("match_")


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
