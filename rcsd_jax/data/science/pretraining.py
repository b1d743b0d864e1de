"""What the base model learns before any method starts: to answer imperfectly, and to use what its prompt holds."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from rcsd_jax.data.science.criteria import FLAWS, rubric_of
from rcsd_jax.data.science.rationale import rationales
from rcsd_jax.data.science.world import instance_of
from rcsd_jax.types import Problem, Rubric


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """The mixture: one share for each kind of example (they need not add up to 1).

    A teacher must read its rubric, not just notice that there is one: on ``flawed_guides`` of the examples with a
    rubric, the rubric is flawed and the target follows it. ``flawed_attempts`` of the rubrics written from the
    question alone are flawed, which leaves stage 1 something to learn. A worked solution in a prompt is right, and the
    target is the same: only a method whose teacher reads solutions (SDPO) needs that share.
    """

    seed: int = 0
    examples: int = 30000
    answer: float = 0.4
    answer_with_rubric: float = 0.3
    answer_with_reference: float = 0.1
    rubric: float = 0.1
    rubric_with_reference: float = 0.05
    rubric_with_rubric: float = 0.05
    answer_with_solution: float = 0.0
    flawed_guides: float = 0.2
    flawed_attempts: float = 0.4


@dataclasses.dataclass(frozen=True)
class PretrainingExample:
    """One prompt and its target.

    ``kind`` is a share of ``PretrainingConfig``: what is written ("answer" or "rubric"), and what the prompt shows
    beside the question (nothing, ``problem.answer``, ``problem.solution`` or ``rubric``). The target is a rationale
    (``target``) or a rubric (``target_rubric``).
    """

    kind: str
    problem: Problem
    rubric: Rubric | None = None
    target: str | None = None
    target_rubric: Rubric | None = None


KINDS = (
    "answer",
    "answer_with_rubric",
    "answer_with_reference",
    "rubric",
    "rubric_with_reference",
    "rubric_with_rubric",
    "answer_with_solution",
)


def pretraining_examples(
    problems: Sequence[Problem], config: PretrainingConfig = PretrainingConfig()
) -> list[PretrainingExample]:
    """``config.examples`` examples in random order; the problems take turns."""
    rng = random.Random(f"{config.seed} pretraining")
    kinds = rng.choices(KINDS, [getattr(config, kind) for kind in KINDS], k=config.examples)
    examples: list[PretrainingExample] = []
    while len(examples) < config.examples:
        for problem in rng.sample(problems, min(len(problems), config.examples - len(examples))):
            examples.append(_example(kinds[len(examples)], problem, config, rng))
    return examples


def _example(kind: str, problem: Problem, config: PretrainingConfig, rng: random.Random) -> PretrainingExample:
    instance = instance_of(problem)
    if kind == "answer":
        return PretrainingExample(kind, problem, target=problem.solution)
    if kind == "answer_with_rubric":
        flaw = rng.choice(FLAWS) if rng.random() < config.flawed_guides else ""
        return PretrainingExample(
            kind, problem, rubric_of(instance, flaw), target=rationales(instance)[flaw or "clean"]
        )
    if kind == "answer_with_reference":
        return PretrainingExample(kind, problem, target=rationales(instance)["clean"])
    if kind == "answer_with_solution":
        clean = rationales(instance)["clean"]
        return PretrainingExample(kind, dataclasses.replace(problem, solution=clean), target=clean)
    if kind == "rubric":
        flaw = rng.choice(FLAWS) if rng.random() < config.flawed_attempts else ""
        return PretrainingExample(kind, problem, target_rubric=rubric_of(instance, flaw))
    shown = problem.rubric if kind == "rubric_with_rubric" else None
    return PretrainingExample(kind, problem, shown, target_rubric=problem.rubric)
