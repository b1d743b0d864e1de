"""What an evaluation leaves behind: one record a question, and the numbers that are made of them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from rcsd_jax.evaluation.answers import grade, vote_key
from rcsd_jax.evaluation.statistics import Interval, majority_at_k, mean_interval, pass_at_k, rate_interval
from rcsd_jax.files import write_whole
from rcsd_jax.types import Criterion, Problem

Check = Callable[[Problem, str], Sequence[bool]]

# A student was never shown a rubric or a reference; it should not speak of one.
_GUIDANCE = re.compile(r"\b(?:rubric|grading criteri|reference (?:answer|solution)|(?:the|my) guidance)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
    """One question and its S samples.

    ``extracted`` and ``how`` are those of ``answers.Grade``. ``criteria[s][m]`` says whether sample s meets
    criterion m (one of negative weight by not doing what it describes); it is empty where nothing checks criteria, and
    ``criterion_titles`` names them. ``lengths`` are tokens, ``finished`` is False for completions that ran out of room.
    """

    id: str
    source: str
    question: str
    reference: str
    texts: tuple[str, ...]
    correct: tuple[bool, ...]
    extracted: tuple[str | None, ...]
    how: tuple[str, ...]
    lengths: tuple[int, ...]
    finished: tuple[bool, ...]
    criteria: tuple[tuple[bool, ...], ...] = ()
    criterion_titles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = {name: len(getattr(self, name)) for name in ("correct", "extracted", "how", "lengths", "finished")}
        if self.criteria:
            columns["criteria"] = len(self.criteria)
        if not self.texts or set(columns.values()) != {len(self.texts)}:
            raise ValueError(f"record {self.id!r}: {len(self.texts)} texts, but {columns}: one of each a sample")
        if any(len(met) != len(self.criterion_titles) for met in self.criteria):
            raise ValueError(f"record {self.id!r}: every sample wants one verdict for each of {self.criterion_titles}")

    @property
    def samples(self) -> int:
        """How many completions the question has."""
        return len(self.texts)


def grade_samples(
    problem: Problem,
    texts: Sequence[str],
    *,
    lengths: Sequence[int],
    finished: Sequence[bool],
    check: Check | None = None,
    tolerance: float = 0.01,
) -> EvaluationRecord:
    """Grades the completions of one problem.

    Args:
      problem: with a rubric where ``check`` is given; its criteria name the verdicts.
      texts: S completions.
      lengths: tokens of each.
      finished: whether each ended by itself.
      check: (problem, text) -> one verdict a criterion: is what it describes in the text? A criterion of negative
        weight is met where it is not.
      tolerance: see ``answers.grade``.
    """
    grades = [grade(problem, text, tolerance=tolerance) for text in texts]
    asked = problem.rubric.criteria if check and problem.rubric else ()
    criteria = tuple(_met(asked, check(problem, text)) for text in texts) if check else ()
    titles = tuple(criterion.title for criterion in asked)
    return EvaluationRecord(
        id=problem.id,
        source=problem.source,
        question=problem.question,
        reference=problem.answer,
        texts=tuple(texts),
        correct=tuple(one.correct for one in grades),
        extracted=tuple(one.extracted for one in grades),
        how=tuple(one.how for one in grades),
        lengths=tuple(map(int, lengths)),
        finished=tuple(map(bool, finished)),
        criteria=criteria,
        criterion_titles=titles,
    )


def write_records(path: str | os.PathLike[str], records: Sequence[EvaluationRecord]) -> None:
    """Writes one JSON object a line. The file appears whole or not at all."""
    write_whole(path, "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records))


def read_records(path: str | os.PathLike[str]) -> list[EvaluationRecord]:
    """Reads what ``write_records`` wrote.

    Raises:
      ValueError: a line that is no record, with its file and number, or a question that stands there twice.
    """
    records: list[EvaluationRecord] = []
    for number, line in enumerate(epath.Path(path).read_text().split("\n"), start=1):
        if not line:
            continue
        try:
            fields = json.loads(line)
            columns = {name: _tuples(value) for name, value in fields.items()}
            records.append(EvaluationRecord(**columns))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{os.fspath(path)}:{number}: not an evaluation record ({error}): evaluate again"
            ) from error
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise ValueError(f"{os.fspath(path)}: question {record.id!r} stands there twice: evaluate again")
        seen.add(record.id)
    return records


def pooled(records: Sequence[EvaluationRecord]) -> EvaluationRecord:
    """The samples that several models gave for one question, as one record."""
    names = ("texts", "correct", "extracted", "how", "lengths", "finished", "criteria")
    columns: dict[str, Any] = {name: tuple(x for record in records for x in getattr(record, name)) for name in names}
    return dataclasses.replace(records[0], **columns)


def per_question(records: Sequence[EvaluationRecord]) -> dict[str, np.ndarray]:
    """Metrics with one number a question, in the order of the records.

    accuracy (avg@n), pass@k and maj@k for k = 2, 4, ... up to the fewest samples of a question, criteria (share
    met, where every record has some), length (tokens), finished, ungraded, and guidance_mentions (share of
    completions that speak of a rubric or a reference answer, which no student ever saw).
    """
    fewest = min((record.samples for record in records), default=0)
    samples_G = np.array([record.samples for record in records])
    correct_G = np.array([sum(record.correct) for record in records])
    columns: dict[str, Sequence[Any]] = {
        "accuracy": [np.mean(record.correct) for record in records],
        "length": [np.mean(record.lengths) for record in records],
        "finished": [np.mean(record.finished) for record in records],
        "ungraded": [np.mean([how == "ungraded" for how in record.how]) for record in records],
        "guidance_mentions": [np.mean([bool(_GUIDANCE.search(t)) for t in record.texts]) for record in records],
    }
    if records and all(record.criteria and record.criterion_titles for record in records):
        columns["criteria"] = [np.mean(record.criteria) for record in records]
    for k in (2**power for power in range(1, fewest.bit_length())):
        columns[f"pass@{k}"] = pass_at_k(samples_G, correct_G, k).tolist()
        votes = [[vote_key(answer) for answer in record.extracted] for record in records]
        columns[f"maj@{k}"] = [majority_at_k(v, r.correct, k) for v, r in zip(votes, records, strict=True)]
    return {name: np.array(values, np.float64) for name, values in columns.items()}


def is_rate(metric: str) -> bool:
    """Whether this metric of ``per_question`` lies in [0, 1]; else it counts tokens."""
    return metric != "length"


def summarise(records: Sequence[EvaluationRecord], *, seed: int = 0) -> dict[str, Interval]:
    """Every metric of ``per_question`` as a mean over questions with its 95% interval.

    Raises:
      ValueError: no records.
    """
    return {
        name: (rate_interval if is_rate(name) else mean_interval)(values_G, seed=seed)
        for name, values_G in per_question(records).items()
    }


def accuracy_by_source(records: Sequence[EvaluationRecord], *, seed: int = 0) -> dict[str, Interval]:
    """avg@n for each template or data set, by name."""
    groups: dict[str, list[float]] = {}
    for record in records:
        groups.setdefault(record.source, []).append(float(np.mean(record.correct)))
    return {source: rate_interval(np.array(groups[source]), seed=seed) for source in sorted(groups)}


def met_by_criterion(records: Sequence[EvaluationRecord], *, seed: int = 0) -> dict[str, Interval]:
    """Share of samples that meet the criteria of one title, over the questions that have it, by title."""
    groups: dict[str, list[float]] = {}
    for record in records:
        if record.criteria:
            rates_M = np.mean(record.criteria, axis=0)
            for title in dict.fromkeys(record.criterion_titles):
                same = [rate for rate, other in zip(rates_M, record.criterion_titles, strict=True) if other == title]
                groups.setdefault(title, []).append(float(np.mean(same)))
    return {title: rate_interval(np.array(groups[title]), seed=seed) for title in sorted(groups)}


def _met(criteria: Sequence[Criterion], verdicts: Sequence[bool]) -> tuple[bool, ...]:
    """What is asked for is there, and what a negative weight punishes is not."""
    return tuple(bool(seen) == (c.weight > 0) for c, seen in zip(criteria, verdicts, strict=True))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
