"""What completions earn: the right answer, or the share of a rubric that they meet.

reward = rewards.of(experiment)
reward(problems, texts)  ->  float64 [G, N]; NaN where nobody can say
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rcsd_jax import config, evaluation, hosts, questions
from rcsd_jax.types import Criterion, Problem, Rubric

Reward = Callable[[Sequence[Problem], Sequence[Sequence[str]]], np.ndarray]

# Rubrics as Rewards (arXiv 2507.17746). A criterion names its category at the head of its description, or its weight
# tells it, as the prompt that asks for rubrics has it: 7 to 10 essential, 3 to 6 important, below optional.
CATEGORIES = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}


def of(experiment: config.Experiment) -> Reward:
    """The reward that ``experiment.reward`` names."""
    if experiment.reward.kind == "accuracy":
        score = _accuracy(experiment.evaluation.tolerance)
    else:
        check = questions.check_of(experiment.data)
        assert check is not None, f"{experiment.data.source=}"
        score = _rubric(check, experiment.reward.weights)

    def reward(problems: Sequence[Problem], texts: Sequence[Sequence[str]]) -> np.ndarray:
        def graded(at: int) -> list[float]:
            return [score(problems[at], text) for text in texts[at]]

        return np.array(hosts.divided(graded, len(problems)), np.float64)

    return reward


def explicit(rubric: Rubric, met: Sequence[bool], weights: str = "integers") -> float:
    """Sum of the weights of what is there, over the sum of the positive weights; at most 1.

    A criterion of negative weight describes a violation: it is subtracted where the violation is there, so the result
    may be negative. NaN for a rubric without a positive weight.

    Args:
      rubric: the criteria.
      met: one verdict a criterion: is what it describes in the text?
      weights: the rubric's "integers", or those of ``CATEGORIES``.
    """
    value = {"integers": lambda criterion: criterion.weight, "categories": _by_category}[weights]
    values = [value(criterion) for criterion in rubric.criteria]
    most = sum(value for value in values if value > 0)
    return sum(v for v, is_met in zip(values, met, strict=True) if is_met) / most if most > 0 else float("nan")


def _by_category(criterion: Criterion) -> float:
    named = criterion.description.split(":")[0].strip().lower()
    if criterion.weight < 0:
        return -CATEGORIES["pitfall"]
    if named in CATEGORIES:
        return CATEGORIES[named]
    return CATEGORIES["essential" if criterion.weight >= 7 else "important" if criterion.weight >= 3 else "optional"]


def _accuracy(tolerance: float) -> Callable[[Problem, str], float]:
    return lambda problem, text: float(evaluation.grade(problem, text, tolerance=tolerance).correct)


def _rubric(check: questions.Check, weights: str) -> Callable[[Problem, str], float]:
    def score(problem: Problem, text: str) -> float:
        return explicit(problem.rubric, check(problem, text), weights) if problem.rubric else float("nan")

    return score
