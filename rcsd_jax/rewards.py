"""What completions earn: the right answer, or what a judge finds of the rubric of its question.

reward = rewards.Reward(experiment, model, mesh)
reward(problems, texts, variables)  ->  Earned: float64 [G, N], NaN where nobody could say; and numbers for people
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jax.sharding import Mesh

from rcsd_jax import config, evaluation, hosts, judges, questions
from rcsd_jax.encoding import Encoder
from rcsd_jax.judges import Case, Judgement
from rcsd_jax.measure import completions
from rcsd_jax.models import LanguageModel
from rcsd_jax.randomness import key_for
from rcsd_jax.rollout import Generator
from rcsd_jax.types import Problem, Tree

Judge = Callable[[Sequence[Case], Tree], list[Judgement]]


class JudgeFailed(ValueError):
    """Too many judgements of a rollout failed: what is left is not the batch that was asked for."""


class Earned(NamedTuple):
    """``reward_GN`` is NaN where no judgement could be had; such a sample is left out of all that follows."""

    reward_GN: np.ndarray
    numbers: dict[str, float]


class Reward:
    """What ``experiment.reward`` says that an answer is worth.

    Raises:
      ValueError: the judge cannot be set up; the message says what it lacks.
    """

    def __init__(self, experiment: config.Experiment, model: LanguageModel, mesh: Mesh):
        self._settings = experiment.reward
        self._scale = judges.Scale(self._settings.scale, self._settings.weights)
        self._judge = judge_of(experiment, model, mesh)

    def __call__(self, problems: Sequence[Problem], texts: Sequence[Sequence[str]], variables: Tree) -> Earned:
        """The rewards of the samples of each problem; ``variables`` are the weights of a model that judges itself.

        With them a judge is shown answers that deserve nothing, in the place of the first question's: the share of
        those that succeed is the number ``master_keys_passed``. ``judgements`` is how many it was asked for in all.

        Raises:
          JudgeFailed: more than ``reward.max_failed`` of the judgements failed.
        """
        cases = [
            Case(problem, evaluation.strip_thinking(text).strip(), self._scale)
            for problem, samples in zip(problems, texts, strict=True)
            for text in samples
        ]
        keys = judges.attacks(cases[0]) if self._settings.kind == "rubric" else []
        # Equal answers get equal rewards, and nobody is asked about nothing: it meets nothing.
        asked = list(dict.fromkeys(case for case in (*cases, *keys) if case.answer))
        found = dict(zip(asked, self._judge(asked, variables), strict=True))
        judged = [found.get(case, Judgement(0.0)) for case in cases]
        self._look_for_failures(judged)
        reward_GN = np.array([judgement.reward for judgement in judged]).reshape(len(problems), -1)
        return Earned(
            reward_GN, {"judgements": float(len(asked)), **self._look_for_passes(found, keys)} if keys else {}
        )

    def _look_for_passes(self, found: Mapping[Case, Judgement], keys: Sequence[Case]) -> dict[str, float]:
        of_keys = np.array([found[key].reward for key in keys])
        passed = of_keys[np.isfinite(of_keys)] > self._settings.threshold
        if passed.any():
            told = "%d of %d answers without content have passed the judge"
            logging.log_first_n(logging.WARNING, told, 3, passed.sum(), passed.size)
        return {"master_keys_passed": float(passed.mean())} if passed.size else {}

    def _look_for_failures(self, judged: Sequence[Judgement]) -> None:
        reasons = collections.Counter(judgement.failure for judgement in judged if judgement.failure)
        if not reasons:
            return
        failed = sum(reasons.values())
        told = f"{failed} of {len(judged)} judgements failed ({_told(reasons)})"
        if failed > self._settings.max_failed * len(judged):
            raise JudgeFailed(
                f"{told}, more than config.reward.max_failed {self._settings.max_failed:g}: see to the judge, then the "
                "same command goes on from the last checkpoint; what an endpoint has judged is in its cache"
            )
        logging.warning("%s; these answers are left out", told)


def judge_of(experiment: config.Experiment, model: LanguageModel, mesh: Mesh) -> Judge:
    """The grader that ``experiment.reward`` names."""
    settings = experiment.reward
    if settings.kind == "accuracy":
        return _each(lambda case: _accuracy(case, experiment.evaluation.tolerance))
    if settings.judge == "endpoint":
        return _divided(judges.Endpoint(settings.endpoint, settings.attempts))
    if settings.judge == "self":
        return SelfJudge(experiment, model, mesh)
    check = questions.check_of(experiment.data)
    assert check is not None, f"{experiment.data.source=}"
    return _each(lambda case: judges.explicit(case.rubric, check(case.problem, case.answer), case.scale.weights))


def can_judge(settings: config.Reward, problem: Problem) -> bool:
    """Whether answers to a problem can earn anything: by a rubric, if it has a criterion that counts for something."""
    if settings.kind == "accuracy":
        return True
    return problem.rubric is not None and any(criterion.weight > 0 for criterion in problem.rubric.criteria)


class SelfJudge:
    """The model that is trained as its own judge, through the sampler that all else goes through."""

    def __init__(self, experiment: config.Experiment, model: LanguageModel, mesh: Mesh):
        settings, self._lengths = experiment.reward, experiment.prompts.judge_lengths
        self._attempts, self._batch = settings.attempts, experiment.train.questions
        self._encoder = Encoder(model.tokenizer, experiment.prompts)
        self._generator = Generator(model, settings.sampling, 1, self._lengths, mesh)
        self._key = key_for(experiment.seed, "judge")

    def __call__(self, cases: Sequence[Case], variables: Tree) -> list[Judgement]:
        """One judgement a case. A reply that is no verdict is asked for again, with another code at the fences."""
        judged = [Judgement(float("nan"), "prompt too long")] * len(cases)
        prompts, left = {}, list(range(len(cases)))
        for attempt in range(self._attempts):
            for at in left:
                prompts[at] = self._encoder.judge(cases[at].messages(attempt))
            left = [at for at in left if len(prompts[at]) <= self._lengths[-1]]
            # The noise of a reply depends on what is asked alone.
            ids = [str(prompts[at]) for at in left]
            replies = completions(
                self._generator, variables, [prompts[at] for at in left], ids, self._key, batch=self._batch
            )
            for at, ([reply], _, _) in zip(left, replies, strict=True):
                judged[at] = _read(cases[at], reply)
            left = [at for at in left if judged[at].failure]
        return judged


def _read(case: Case, reply: str) -> Judgement:
    try:
        return Judgement(case.read(reply))
    except judges.VerdictError as error:
        return Judgement(float("nan"), str(error))


def _each(score: Callable[[Case], float]) -> Judge:
    """A judge that needs nobody else."""
    return _divided(lambda cases: [Judgement(score(case)) for case in cases])


def _divided(judge: Callable[[Sequence[Case]], list[Judgement]]) -> Judge:
    """A judge that needs no devices: every host asks it for its share, and all hear the whole."""
    return lambda cases, variables: [Judgement(*said) for said in hosts.divided(judge, cases)]


def _accuracy(case: Case, tolerance: float) -> float:
    return float(evaluation.grade(case.problem, case.answer, tolerance=tolerance).correct)


def _told(reasons: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
