"""What goes into a comparison, and what it says, as records: the schema of comparison.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rcsd_jax import evaluation
from rcsd_jax.evaluation import EvaluationRecord, Interval, PairedTest

SCHEMA = 1


def is_share(name: str) -> bool:
    """Whether this number of a rubric's quality lies in [0, 1]; the others are counts."""
    return name == "valid" or name.startswith("match_")


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a method cost: steps, tokens that it sampled, tokens that its teacher read or wrote, wall time, memory.

    ``peak_memory`` is in bytes, of the fullest device or of the process; 0 where it is not known.
    """

    steps: int = 0
    sampled_tokens: int = 0
    teacher_tokens: int = 0
    seconds: float = 0.0
    peak_memory: int = 0


@dataclasses.dataclass(frozen=True)
class MethodResult:
    """All that is known of one finished run of a method.

    ``records`` are its evaluations by name ("eval_sampled", "eval_greedy", "transfer_sampled"); ``metrics`` the rows
    of its metrics.jsonl, empty for a model that was not trained.
    """

    name: str
    description: str
    records: Mapping[str, Sequence[EvaluationRecord]]
    metrics: Sequence[Mapping[str, float]] = ()
    budget: Budget = Budget()
    seed: int = 0


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
    ``by_seed["eval_sampled/accuracy"]`` has the mean of each of ``seeds``. ``differences`` is by column key;
    ``gap_closed`` is the share of the way from the baseline to the first ceiling, in the first column. The groups of
    ``by_source`` and ``by_criterion`` have the samples of all seeds; their intervals are over questions only.
    """

    name: str
    description: str
    budget: Budget
    seeds: tuple[int, ...]
    samples: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, Interval]]
    by_source: Mapping[str, Mapping[str, Interval]]
    by_criterion: Mapping[str, Mapping[str, Interval]]
    by_seed: Mapping[str, tuple[float, ...]]
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
