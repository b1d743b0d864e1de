"""How good is a rubric, without a judge: numbers from its text and from the ground truth."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from rcsd_jax.rubrics.rubric import RubricRules, count_duplicates, gives_away, plain, validate
from rcsd_jax.types import Criterion, Problem, Rubric


@dataclasses.dataclass(frozen=True)
class CriterionMatch:
    """How much of a rubric is in the reference (precision) and how much of the reference it covers (recall)."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean; 0 where nothing matches."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def criterion_match(rubric: Rubric, reference: Rubric) -> CriterionMatch:
    """Lexical match of two rubrics: criteria are paired one to one so that the sum of their token F1 is largest.

    Precision is that sum over the criteria of ``rubric``, recall over those of ``reference``. 1 for the same rubric in
    any order; weights are not compared.
    """
    if not rubric.criteria or not reference.criteria:
        return CriterionMatch(0.0, 0.0)
    ours, theirs = (_tokens_of_criteria(rubric.criteria), _tokens_of_criteria(reference.criteria))
    similarity = np.array([[_token_f1(a, b) for b in theirs] for a in ours])
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    matched = float(similarity[rows, columns].sum())
    return CriterionMatch(matched / len(ours), matched / len(theirs))


def quality(rubric: Rubric | None, problem: Problem, rules: RubricRules | None = None) -> dict[str, float]:
    """The numbers of one rubric; None stands for a rubric that could not be read.

    ``valid`` (nothing that ``rules`` reject) is always there, and so is the match with ``problem.rubric`` where the
    problem has one: an unreadable rubric matches nothing, so that writing few good rubrics is no advantage. A wrong
    word in a long rubric hardly lowers ``match_f1``; ``match_exact`` says whether all criteria are the reference's. The
    others describe readable rubrics only: ``criteria``, ``negative``, ``duplicates``, ``giving_answer_away`` are
    numbers of criteria, ``words`` those of all descriptions together.
    """
    rules = rules or RubricRules()
    numbers: dict[str, float] = {"valid": 0.0}
    if rubric is not None:
        found = validate(rubric, answer=problem.answer, choices=problem.choices, rules=rules)
        numbers["valid"] = float(not set(found) & set(rules.rejecting))
        numbers["criteria"] = float(len(rubric.criteria))
        numbers["negative"] = float(sum(c.weight < 0 for c in rubric.criteria))
        numbers["duplicates"] = float(count_duplicates(rubric))
        numbers["giving_answer_away"] = float(
            sum(gives_away(c, problem.answer, problem.choices) for c in rubric.criteria)
        )
        numbers["words"] = float(sum(len(c.description.split()) for c in rubric.criteria))
    if problem.rubric is not None:
        match = criterion_match(rubric, problem.rubric) if rubric is not None else CriterionMatch(0.0, 0.0)
        numbers |= {"match_precision": match.precision, "match_recall": match.recall, "match_f1": match.f1}
        numbers["match_exact"] = float(match.precision == match.recall == 1.0)
    return numbers


def mean_quality(
    rubrics: Sequence[Rubric | None], problems: Sequence[Problem], rules: RubricRules | None = None
) -> dict[str, float]:
    """Means of ``quality`` over questions; each number over the questions that have it."""
    if len(rubrics) != len(problems):
        raise ValueError(f"one rubric (or None) a problem, got {len(rubrics)} rubrics for {len(problems)} problems")
    rows = [quality(rubric, problem, rules) for rubric, problem in zip(rubrics, problems, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _tokens_of_criteria(criteria: Sequence[Criterion]) -> list[Counter[str]]:
    """Words, numbers and operators of title and description; the category ("Essential:") is no content."""
    texts = (f"{plain(c.title)} {plain(c.description)}" for c in criteria)
    return [Counter(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+|[-+*/=^<>%]", text)) for text in texts]


def _token_f1(ours: Counter[str], theirs: Counter[str]) -> float:
    """2 |ours and theirs| / (|ours| + |theirs|), tokens counted as often as they occur."""
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 0.0
