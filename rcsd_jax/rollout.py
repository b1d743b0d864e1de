"""From questions to a scored batch: the student samples; a teacher looks at every token, or a reward at the whole.

problems ─┬─ student prompts ── sampler ── Rollout ─┬─ score step ── ScoredBatch
          └─ teacher prompts (with an analysis, if reason-first) ─┘
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from rcsd_jax import config, data, learning, lm, rewards, sharding
from rcsd_jax.encoding import Encoder
from rcsd_jax.models import LanguageModel
from rcsd_jax.randomness import key_for, stable_id
from rcsd_jax.types import FINISHED, Array, Problem, PromptBatch, Rollout, Rubric, ScoredBatch, TrainState, Tree


class Generator:
    """Token prompts in, completions out: a sampler with its prompt buckets, on a mesh.

    Args:
      model: what samples; the weights come with every call.
      sampling: how.
      samples: completions a question.
      lengths: the prompt lengths that are compiled; prompts are padded to the next one.
      mesh: where the rows go.
    """

    def __init__(
        self, model: LanguageModel, sampling: lm.SamplingConfig, samples: int, lengths: Sequence[int], mesh: Mesh
    ):
        self.tokenizer = model.tokenizer
        self._lengths, self._mesh = lengths, mesh
        self._sampler = lm.Sampler(
            model.transformer,
            sampling,
            samples=samples,
            eos_ids=self.tokenizer.eos_ids,
            pad_id=self.tokenizer.pad_id,
            vocab_limit=self.tokenizer.vocab_limit,
        )

    def __call__(self, variables: Tree, prompts: Sequence[Sequence[int]], ids: Sequence[str], key: Array) -> Rollout:
        """One rollout; a question's noise is derived from its id, not from its place in the batch."""
        question_G = jnp.asarray([stable_id(name) for name in ids], jnp.int32)
        batch = place_prompts(prompts, self._lengths, self.tokenizer.pad_id, self._mesh)
        compiled = self.compilations
        rollout = self._sampler(variables, batch, key, question_G)
        if self.compilations > max(compiled, len(self._lengths)):
            logging.warning(
                "the sampler was compiled %d times for %d prompt lengths: %d questions are a new batch size",
                self.compilations, len(self._lengths), len(ids),
            )  # fmt: skip
        return rollout

    @property
    def compilations(self) -> int:
        """Shapes compiled so far."""
        return self._sampler.compilations

    def texts(self, rollout: Rollout) -> list[list[str]]:
        """What was written, by question and sample."""
        tokens_BC, valid_BC = np.asarray(rollout.completion_BC), np.asarray(rollout.valid_BC)
        rows = [
            self.tokenizer.decode(tokens[valid].tolist()) for tokens, valid in zip(tokens_BC, valid_BC, strict=True)
        ]
        return [rows[start : start + rollout.samples] for start in range(0, len(rows), rollout.samples)]


def place_prompts(prompts: Sequence[Sequence[int]], lengths: Sequence[int], pad_id: int, mesh: Mesh) -> PromptBatch:
    """Left-padded to the next of ``lengths`` and laid over the devices."""
    batch = data.pad_prompts(prompts, pad_id=pad_id, buckets=lengths)
    return sharding.place_batch(batch, mesh)


class Fitting(NamedTuple):
    """Problems whose prompts fit, and the ids of those dropped, by reason."""

    problems: list[Problem]
    dropped: dict[str, list[str]]


class Collected(NamedTuple):
    """A scored batch, its questions, what was written (decoded when first asked for), and some numbers for people."""

    batch: ScoredBatch
    problems: list[Problem]
    texts: Callable[[], list[list[str]]]
    numbers: dict[str, float]


class Collector:
    """The questions of rollout t, sampled and scored. The batch depends on the seed, t and the weights alone.

    Raises:
      ValueError: no question is left after dropping those without guidance or with over-long prompts.
    """

    def __init__(
        self,
        experiment: config.Experiment,
        model: LanguageModel,
        problems: Sequence[Problem],
        guidance: Mapping[str, Rubric],
        mesh: Mesh,
    ):
        self._experiment, self._guidance, self._mesh = experiment, guidance, mesh
        self.encoder = Encoder(model.tokenizer, experiment.prompts, experiment.task)
        self.generator = Generator(
            model, experiment.sampling, experiment.train.samples, experiment.prompts.student_lengths, mesh
        )
        self._analyst = None
        if experiment.teacher.reason_first:
            analysis = experiment.teacher.analysis
            self._analyst = Generator(model, analysis, 1, experiment.prompts.teacher_lengths, mesh)
        self.fitting = self._fit(problems)
        if not self.fitting.problems:
            counts = {reason: len(ids) for reason, ids in self.fitting.dropped.items()}
            raise ValueError(f"none of {len(problems)} questions can be used, dropped: {counts}")
        self._batches = data.batches(self.fitting.problems, batch_size=experiment.train.questions, seed=experiment.seed)
        objective, weights = experiment.objective, experiment.older_weights
        self._score = self._reward = self._old_logp = self._base_logp = None
        if objective in learning.TAUGHT:
            self._score = learning.make_score_step(model.transformer, weights, mesh=mesh)
        if objective in learning.REWARDED:
            self._reward = rewards.of(experiment)
            logp_step = functools.partial(
                learning.make_logp_step,
                model.transformer,
                temperature=experiment.sampling.temperature,
                vocab_limit=model.tokenizer.vocab_limit,
                mesh=mesh,
            )
            if experiment.policy.importance_cap is not None:
                self._old_logp = logp_step(learning.TeacherConfig("live"))
            if experiment.has_kl_penalty:
                self._base_logp = logp_step(learning.TeacherConfig("base"))

    def __call__(self, state: TrainState, t: int) -> Collected:
        """Rollout t, scored."""
        problems = self._batches[t]
        ids = [problem.id for problem in problems]
        prompts = [self.encoder.student(problem) for problem in problems]
        rollout = self.generator(state.variables, prompts, ids, key_for(self._experiment.seed, "rollout", t))
        texts = functools.cache(functools.partial(self.generator.texts, rollout))
        weight_BC = learning.weights_by_place(
            self._experiment.gates,
            rollout.valid_BC.astype(jnp.float32),
            rollout.completion_BC,
            self.encoder.tokenizer.end_of_thinking,
        )
        batch, numbers = ScoredBatch(rollout, weight_BC), {"teacher_tokens": 0.0}
        if self._reward is not None:
            batch, numbers = self._rewarded(state, batch, self._reward(problems, texts()))
        if self._score is not None:
            teacher_prompts = self._teacher_prompts(state, problems, t)
            lengths, pad_id = self._experiment.prompts.teacher_lengths, self.encoder.tokenizer.pad_id
            placed = place_prompts(teacher_prompts, lengths, pad_id, self._mesh)
            batch = self._score(state, batch, placed)
            numbers["teacher_tokens"] = float(sum(map(len, teacher_prompts)))
        return Collected(batch, problems, texts, numbers)

    def _rewarded(
        self, state: TrainState, batch: ScoredBatch, reward_GN: np.ndarray
    ) -> tuple[ScoredBatch, dict[str, float]]:
        """The batch with its advantages, less what nothing can be learned from, and what there is to say about it."""
        e, rollout = self._experiment, batch.rollout
        advantage_GN, counts_GN = learning.advantages(reward_GN, e.policy.advantage_std)
        known_GN = np.isfinite(reward_GN)
        numbers = {
            "reward": float(reward_GN[known_GN].mean()) if known_GN.any() else 0.0,
            "groups_without_spread": float(np.mean(~counts_GN.any(axis=1))),
            "unjudged": float(np.mean(~known_GN)),
        }
        if e.objective == "best_of_n":
            counts_GN = learning.best(reward_GN, e.reward.threshold)
            numbers["kept"] = float(counts_GN.any(axis=1).mean())
        advantage_B, counts_B = sharding.place_batch(
            (advantage_GN.reshape(-1).astype(np.float32), counts_GN.reshape(-1)), self._mesh
        )
        advantage_B, weight_BC = _counted(
            advantage_B, batch.weight_BC, counts_B, rollout.finish_B, e.policy.mask_truncated
        )
        # Beside a divergence a completion without an advantage still has a teacher to learn from.
        batch = dataclasses.replace(
            batch,
            weight_BC=batch.weight_BC if e.objective in learning.TAUGHT else weight_BC,
            advantage_B=advantage_B,
            old_logp_BC=self._old_logp(state, rollout) if self._old_logp else None,
            base_logp_BC=self._base_logp(state, rollout) if self._base_logp else None,
        )
        return batch, numbers

    def _teacher_prompts(self, state: TrainState, problems: Sequence[Problem], t: int) -> list[list[int]]:
        context = self._experiment.teacher.context
        if self._analyst is None:
            return [self.encoder.teacher(problem, context, self._guidance.get(problem.id)) for problem in problems]
        asked = [self.encoder.analyst(problem, context, self._guidance.get(problem.id)) for problem in problems]
        variables = learning.teacher_variables(self._experiment.teacher.weights, state)
        key = key_for(self._experiment.seed, "analysis", t)
        rollout = self._analyst(variables, asked, [problem.id for problem in problems], key)
        tokens_GC, valid_GC = np.asarray(rollout.completion_BC), np.asarray(rollout.valid_BC)
        # The end of turn comes with what follows the analysis, also where the analysis was cut before its own.
        ends = np.isin(tokens_GC, self.encoder.tokenizer.eos_ids)
        return [
            [*before, *tokens[valid & ~end].tolist(), *self._after(problem)]
            for problem, before, tokens, valid, end in zip(problems, asked, tokens_GC, valid_GC, ends, strict=True)
        ]

    def _after(self, problem: Problem) -> list[int]:
        context = self._experiment.teacher.context
        return self.encoder.after_analysis(problem, context, self._guidance.get(problem.id))

    def _fit(self, problems: Sequence[Problem]) -> Fitting:
        """Drops questions before training rather than cutting their prompts in it."""
        kept, dropped = [], collections.defaultdict(list)
        for problem in problems:
            reason = self._unfit(problem)
            if reason is None:
                kept.append(problem)
            else:
                dropped[reason].append(problem.id)
        return Fitting(kept, dict(dropped))

    def _unfit(self, problem: Problem) -> str | None:
        e, rubric = self._experiment, self._guidance.get(problem.id)
        is_taught = e.objective in learning.TAUGHT
        missing = self.encoder.missing(problem, e.teacher.context, rubric) if is_taught else None
        if missing is not None:
            return f"no {missing}"
        if len(self.encoder.student(problem)) > e.prompts.student_lengths[-1]:
            return "student prompt too long"
        if is_taught and self._teacher_length(problem, rubric) > e.prompts.teacher_lengths[-1]:
            return "teacher prompt too long"
        return None

    def _teacher_length(self, problem: Problem, rubric: Rubric | None) -> int:
        context = self._experiment.teacher.context
        if self._analyst is None:
            return len(self.encoder.teacher(problem, context, rubric))
        room = self._experiment.teacher.analysis.max_new_tokens
        return len(self.encoder.analyst(problem, context, rubric)) + room + len(self._after(problem))


@functools.partial(jax.jit, static_argnums=4)
def _counted(
    advantage_B: Array, weight_BC: Array, counts_B: Array, finish_B: Array, mask_truncated: bool
) -> tuple[Array, Array]:
    """(advantages, weights), both 0 on completions that do not count."""
    if mask_truncated:
        counts_B &= finish_B == FINISHED
    return jnp.where(counts_B, advantage_B, 0), jnp.where(counts_B[:, None], weight_BC, 0)
