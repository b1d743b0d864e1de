"""Questions in, graded answers out: the measurement that training, evaluation and the pipeline share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rcsd_jax import evaluation, questions
from rcsd_jax.rollout import Generator
from rcsd_jax.types import FINISHED, Array, Problem, Tree


def completions(
    generator: Generator,
    variables: Tree,
    prompts: Sequence[Sequence[int]],
    ids: Sequence[str],
    key: Array,
    *,
    batch: int,
) -> Iterator[tuple[list[str], list[int], list[bool]]]:
    """(texts, lengths in tokens, finished) of the samples of each question, in order.

    ``batch`` questions are sampled at a time; what finishes makes room for the next. The tokens do not depend on it.
    """
    if not prompts:
        return
    early, at = {}, 0  # finished before a question that comes before them
    for places, rollout in generator.stream(variables, prompts, ids, key, batch=batch):
        lengths_GN = rollout.valid_BC.sum(axis=1).reshape(len(places), -1)
        finished_GN = (rollout.finish_B == FINISHED).reshape(len(places), -1)
        for row, (place, texts) in enumerate(zip(places, generator.texts(rollout), strict=True)):
            early[place] = texts, lengths_GN[row].tolist(), finished_GN[row].tolist()
        while at in early:
            yield early.pop(at)
            at += 1


def measure(
    generator: Generator,
    variables: Tree,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    key: Array,
    *,
    batch: int,
    check: questions.Check | None,
    tolerance: float,
    progress: Callable[[], None] = lambda: None,
) -> list[evaluation.EvaluationRecord]:
    """A graded record of every problem.

    Args:
      generator: samples the answers.
      variables: its weights.
      problems: what is asked.
      prompts: how, as token ids; one a problem.
      key: the noise.
      batch: questions sampled at once.
      check: says which criteria a text meets, or None.
      tolerance: relative, for numbers.
      progress: called after every question.
    """
    records = []
    answers = completions(generator, variables, prompts, [problem.id for problem in problems], key, batch=batch)
    for problem, (texts, lengths, finished) in zip(problems, answers, strict=True):
        record = evaluation.grade_samples(
            problem, texts, lengths=lengths, finished=finished, check=check, tolerance=tolerance
        )
        records.append(record)
        progress()
    return records
