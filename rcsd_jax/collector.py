"""From questions to a scored batch: the student samples; a teacher looks at every token, or a reward at the whole.

problems ─┬─ student prompts ── sampler ── Rollout ─┬─ score step ── ScoredBatch
          └─ teacher prompts (with an analysis, if reason-first) ─┘

``begin`` dispatches what is sampled and waits for nothing; ``finish`` waits where somebody on the host must read it.
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
from jax.sharding import Mesh

from rcsd_jax import config, data, evaluation, learning, rewards, rubrics, sharding
from rcsd_jax.encoding import Encoder
from rcsd_jax.models import LanguageModel
from rcsd_jax.randomness import key_for
from rcsd_jax.rollout import Generator, place_prompts, shortened
from rcsd_jax.types import FINISHED, Array, Problem, PromptBatch, Rollout, Rubric, ScoredBatch, TrainState, Tree


class Fitting(NamedTuple):
    """Problems whose prompts fit, and the ids of those dropped, by reason."""

    problems: list[Problem]
    dropped: dict[str, list[str]]


class Begun(NamedTuple):
    """A rollout under way. ``seen`` is the same, whole on every host, and so is the teacher's ``analysis``, if any."""

    problems: list[Problem]
    rollout: Rollout
    seen: Rollout
    analysis: Rollout | None


class Collected(NamedTuple):
    """A scored batch, its questions, what was written (decoded when first asked for), and some numbers for people.

    ``rollout`` is that of the batch, whole on every host. ``reads`` is how often other weights or contexts than the
    student's own have read the completions; the tokens of their prompts are the number ``teacher_tokens``.
    """

    batch: ScoredBatch
    rollout: Rollout
    problems: list[Problem]
    texts: Callable[[], list[list[str]]]
    numbers: dict[str, float]
    reads: int


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
            model,
            experiment.sampling,
            experiment.train.samples,
            experiment.prompts.student_lengths,
            mesh,
            batch=experiment.train.sampling_batch,
        )
        self._analyst = None
        if experiment.teacher.reason_first:
            analysis, longest = experiment.teacher.analysis, experiment.prompts.teacher_lengths
            # A teacher's prompt holds the analyst's and the room of an analysis, so that much shorter is the analyst's.
            lengths = [length - analysis.max_new_tokens for length in longest if length > analysis.max_new_tokens]
            self._analyst = Generator(model.teacher or model, analysis, 1, lengths or longest, mesh)
        self._wrong = rubrics.CONTROLS["random"].apply(guidance, experiment.seed) if experiment.teacher.contrast else {}
        self.fitting = self._fit(problems)
        if not self.fitting.problems:
            counts = {reason: len(ids) for reason, ids in self.fitting.dropped.items()}
            raise ValueError(f"none of {len(problems)} questions can be used, dropped: {counts}")
        self._batches = data.batches(self.fitting.problems, batch_size=experiment.train.questions, seed=experiment.seed)
        objective, weights = experiment.objective, experiment.older_weights
        self._score = self._reward = self._old_logp = self._base_logp = None
        if objective in learning.TAUGHT:
            self._score = learning.make_score_step(
                (model.teacher or model).transformer, weights, micro_batches=experiment.train.micro_batches, mesh=mesh
            )
        if experiment.is_rewarded:
            self._reward = rewards.Reward(experiment, model, mesh)
            logp_step = functools.partial(
                learning.make_logp_step,
                model.transformer,
                temperature=experiment.sampling.temperature,
                vocab_limit=model.tokenizer.vocab_limit,
                micro_batches=experiment.train.micro_batches,
                mesh=mesh,
            )
            learns_from_reward = objective in learning.REWARDED
            if learns_from_reward and experiment.policy.importance_cap is not None:
                self._old_logp = logp_step(learning.TeacherConfig("live"))
            if experiment.has_kl_penalty:
                self._base_logp = logp_step(learning.TeacherConfig("base"))

    def begin(self, state: TrainState, t: int) -> Begun:
        """Rollout t, and the teacher's analysis, by the weights of ``state``, which may be donated then.

        The devices have it before all that they are given later, and so have the hosts.
        """
        problems = self._batches[t]
        ids = [problem.id for problem in problems]
        prompts, analysis = [self.encoder.student(problem) for problem in problems], None
        rollout = self.generator(state.variables, prompts, ids, key_for(self._experiment.seed, "rollout", t))
        seen = sharding.everywhere(rollout, self._mesh)
        if self._analyst is not None:
            variables = learning.teacher_variables(self._experiment.teacher.weights, state)
            key = key_for(self._experiment.seed, "analysis", t)
            analysis = sharding.everywhere(self._analyst(variables, self._analysts(problems), ids, key), self._mesh)
        return Begun(problems, rollout, seen, analysis)

    def begun(self, t: int, seen: Rollout, analysis: Rollout | None) -> Begun:
        """What ``begin`` gave a run that was killed, of what it had sampled: numpy arrays, the same on every host."""
        return Begun(self._batches[t], sharding.place_batch(seen, self._mesh), seen, analysis)

    def finish(self, state: TrainState, begun: Begun) -> Collected:
        """The rollout with all that is said about it, by the weights of ``state``."""
        e, (problems, rollout, seen, _) = self._experiment, begun
        if e.train.completion_lengths:
            rollout, seen = shortened(rollout, seen, e.train.completion_lengths)
        texts = functools.cache(functools.partial(self.generator.texts, seen))
        weight_BC = learning.weights_by_place(
            e.gates, rollout.valid_BC.astype(jnp.float32), rollout.completion_BC, self.encoder.tokenizer.end_of_thinking
        )
        old_logp_BC, base_logp_BC = (
            None if logp is None else logp(state, rollout) for logp in (self._old_logp, self._base_logp)
        )
        batch = ScoredBatch(rollout, weight_BC, old_logp_BC=old_logp_BC, base_logp_BC=base_logp_BC)
        prompts = [self.encoder.student(problem) for problem in problems]
        read = [prompts for logp in (old_logp_BC, base_logp_BC) if logp is not None]  # by others than the student
        numbers = {"teacher_tokens": 0.0}
        # While a judge elsewhere is waited for, the teacher looks. The model itself judges first, for it needs the room
        # that the teacher's states would take; and siblings are shown once they are judged.
        looks_first = not (e.judges_itself or e.teacher.solutions == "sibling")
        if self._score is not None and looks_first:
            batch, looks = self._taught(state, batch, problems, self._teacher_prompts(begun))
            read += looks
        if self._reward is not None:
            reward_GN, of_judge = self._reward(problems, texts(), self._variables_of_judge(state))
            batch, of_reward = self._rewarded(batch, reward_GN)
            numbers |= of_judge | of_reward
            if self._score is not None and not looks_first:
                teacher_prompts = self._teacher_prompts(begun)
                if e.teacher.solutions == "sibling":
                    teacher_prompts, has_one_B = self._sibling_prompts(problems, texts(), reward_GN)
                    numbers["with_sibling"] = float(has_one_B.mean())
                    has_one_B1 = sharding.place_batch(has_one_B[:, None], self._mesh)
                    batch = dataclasses.replace(batch, weight_BC=batch.weight_BC * has_one_B1)
                batch, looks = self._taught(state, batch, problems, teacher_prompts)
                read += looks
        numbers["teacher_tokens"] = float(sum(len(prompt) for prompts in read for prompt in prompts))
        return Collected(batch, seen, problems, texts, numbers, len(read))

    def _taught(
        self, state: TrainState, batch: ScoredBatch, problems: Sequence[Problem], teacher_prompts: list[list[int]]
    ) -> tuple[ScoredBatch, list[list[list[int]]]]:
        """The batch with the teacher's states, and the prompts of every pass that this takes."""
        looks = [teacher_prompts, *([others(problem) for problem in problems] for others in self._other_prompts)]
        assert self._score is not None
        batch = self._combined([self._score(state, batch, self._placed(prompts)) for prompts in looks])
        return batch, looks * (2 if self._experiment.teacher.weights.kind == "trust_region" else 1)

    def _rewarded(self, batch: ScoredBatch, reward_GN: np.ndarray) -> tuple[ScoredBatch, dict[str, float]]:
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
        if e.objective not in learning.REWARDED:
            return batch, numbers  # only wanted to know which completions succeeded
        if e.has_kl_penalty:
            counts_GN = known_GN  # a group without spread has no advantage, and is still held near the base
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
        )
        return batch, numbers

    def _variables_of_judge(self, state: TrainState) -> Tree:
        e = self._experiment
        return learning.teacher_variables(e.older_weights, state) if e.judges_itself else state.variables

    def _placed(self, teacher_prompts: Sequence[Sequence[int]]) -> PromptBatch:
        lengths, pad_id = self._experiment.prompts.teacher_lengths, self.encoder.tokenizer.pad_id
        return place_prompts(teacher_prompts, lengths, pad_id, self._mesh)

    def _wrong_prompt(self, problem: Problem) -> list[int]:
        return self.encoder.teacher(problem, self._experiment.teacher.context, self._wrong[problem.id])

    def _context_alone(self, problem: Problem) -> list[int]:
        return self.encoder.context_alone(problem, self._experiment.teacher.context, self._guidance.get(problem.id))

    def _question_alone(self, problem: Problem) -> list[int]:
        return self.encoder.teacher(problem, (), None)

    @property
    def _other_prompts(self) -> Sequence[Callable[[Problem], list[int]]]:
        """What else the teacher reads before the same completions, besides the question and its context."""
        if self._experiment.divergence.purify is not None:
            return self._context_alone, self._question_alone
        return (self._wrong_prompt,) if self._wrong else ()

    def _combined(self, looks: Sequence[ScoredBatch]) -> ScoredBatch:
        """The batch with what the teacher has made of it with all of its prompts."""
        if len(looks) == 1:
            return looks[0]
        hidden = [look.teacher_hidden_BCD for look in looks if look.teacher_hidden_BCD is not None]
        if self._experiment.divergence.purify is not None:
            combined_BCD = jnp.concatenate(hidden, axis=-1)
        else:
            guided_BCD, wrong_BCD = hidden
            combined_BCD = _away_from(guided_BCD, wrong_BCD, self._experiment.teacher.contrast)
        return dataclasses.replace(looks[0], teacher_hidden_BCD=combined_BCD)

    def _sibling_prompts(
        self, problems: Sequence[Problem], texts: Sequence[Sequence[str]], reward_GN: np.ndarray
    ) -> tuple[list[list[int]], np.ndarray]:
        """A teacher prompt for every completion, with the first other one that succeeded; and which have one that fits.

        The others get the student's prompt: they do not count.
        """
        e, prompts, found = self._experiment, [], []
        for problem, samples, reward_N in zip(problems, texts, reward_GN, strict=True):
            succeeded = [n for n, reward in enumerate(reward_N) if reward > e.reward.threshold]
            bare = self.encoder.student(problem)
            for n in range(len(samples)):
                sibling = next((s for s in succeeded if s != n), None)
                prompt = None
                if sibling is not None and (text := evaluation.strip_thinking(samples[sibling]).strip()):
                    shown = dataclasses.replace(problem, solution=text)
                    prompt = self.encoder.teacher(shown, e.teacher.context, self._guidance.get(problem.id))
                fits = prompt is not None and len(prompt) <= e.prompts.teacher_lengths[-1]
                prompts.append(prompt if prompt is not None and fits else bare)
                found.append(fits)
        return prompts, np.array(found)

    def _teacher_prompts(self, begun: Begun) -> list[list[int]]:
        if begun.analysis is None:
            context, known = self._experiment.teacher.context, self._guidance.get
            return [self.encoder.teacher(problem, context, known(problem.id)) for problem in begun.problems]
        asked = self._analysts(begun.problems)
        tokens_GC, valid_GC = np.asarray(begun.analysis.completion_BC), np.asarray(begun.analysis.valid_BC)
        # The end of turn comes with what follows the analysis, also where the analysis was cut before its own.
        ends = np.isin(tokens_GC, self.encoder.tokenizer.eos_ids)
        return [
            [*before, *tokens[valid & ~end].tolist(), *self._after(problem)]
            for problem, before, tokens, valid, end in zip(
                begun.problems, asked, tokens_GC, valid_GC, ends, strict=True
            )
        ]

    def _analysts(self, problems: Sequence[Problem]) -> list[list[int]]:
        context, known = self._experiment.teacher.context, self._guidance.get
        return [self.encoder.analyst(problem, context, known(problem.id)) for problem in problems]

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
        has_siblings = e.teacher.solutions == "sibling"
        known = dataclasses.replace(problem, solution=problem.answer or "?") if has_siblings else problem
        is_taught = e.objective in learning.TAUGHT
        missing = self.encoder.missing(known, e.teacher.context, rubric) if is_taught else None
        if missing is not None:
            return f"no {missing}"
        if e.is_rewarded and not rewards.can_judge(e.reward, problem):
            return "no rubric"
        if len(self.encoder.student(problem)) > e.prompts.student_lengths[-1]:
            return "student prompt too long"
        if is_taught and self._teacher_length(known, rubric) > e.prompts.teacher_lengths[-1]:
            return "teacher prompt too long"
        return None

    def _teacher_length(self, problem: Problem, rubric: Rubric | None) -> int:
        context = self._experiment.teacher.context
        if self._analyst is None:
            others = (len(prompt_of(problem)) for prompt_of in self._other_prompts)
            return max(len(self.encoder.teacher(problem, context, rubric)), *others, 0)
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


@functools.partial(jax.jit, static_argnums=2)
def _away_from(right_BCD: Array, wrong_BCD: Array, strength: float) -> Array:
    """States whose logits are (1 + strength) right - strength wrong; the head is the same for both."""
    right, wrong = right_BCD.astype(jnp.float32), wrong_BCD.astype(jnp.float32)
    return (right + strength * (right - wrong)).astype(right_BCD.dtype)
