"""Every function of a run that is worth a name, with abstract arguments; no weights, no data.

Those are the functions of the ledger of compilations, and what makes and fingerprints the state. All others move, cut
or compare arrays that lie there anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

from rcsd_jax import config, fingerprints, learning, models
from rcsd_jax.ahead.drawing import Function, drawings, functions_of
from rcsd_jax.ahead.subject import Subject, abstract_state, how_to_learn, prompts_of, rows
from rcsd_jax.types import Rollout, ScoredBatch, TokenBatch, TrainState


def functions(s: Subject) -> list[Function]:
    """The functions of a run, each for the longest prompts: of its start, of a step, of an evaluation."""
    state = abstract_state(s)
    drawn = [x for name, drawing in drawings(s).items() for x in functions_of(name, drawing, s, state)]
    of_step = [x for x in drawn if x.during == "step"]
    if s.run == "train":
        of_step += _of_step(s, state)
    return [*_of_start(s, state), *of_step, *(x for x in drawn if x.during != "step")]


def _of_start(s: Subject, state: TrainState) -> Iterator[Function]:
    """What a run begins with: the weights that stay as they are get fingerprints, the state is made of all weights."""
    frozen = {name: tree for name, tree in state.variables.items() if s.run != "train" or name != state.trainable}
    others = {name: tree for name, tree in state.variables.items() if name not in frozen}
    teacher = state.teacher if s.teacher is not None else ()
    leaves = jax.tree.leaves((frozen, teacher))
    if leaves and s.run != "evaluate":
        yield Function("fingerprint", fingerprints.sums, (leaves,), during="start", beside=others)
    if s.run == "train":
        build = functools.partial(learning.init_state, s.transformer, mesh=s.mesh, **how_to_learn(s))
        build = jax.jit(build, donate_argnums=0)  # it takes the weights over, as they lie
        yield Function("state", build, (state.variables,), during="start", beside=teacher)


def _of_step(s: Subject, state: TrainState) -> Iterator[Function]:
    """What a step calls once its tokens are drawn; a restore calls what a save does."""
    e, each = s.experiment, 1 / s.experiment.train.updates_per_rollout
    if e.objective == "sft":
        batch: TokenBatch | ScoredBatch = _text(s)
    else:
        rollout = _rollout(s)
        batch = _scored(s, rollout)
        for name, weights in _logp_weights(e).items():
            step = learning.make_logp_step(
                s.transformer,
                weights,
                temperature=e.sampling.temperature,
                vocab_limit=s.vocabulary.vocab_limit,
                micro_batches=e.train.micro_batches,
                mesh=s.mesh,
            )
            yield Function(name, step, (state, rollout), each)
        if e.objective in learning.TAUGHT:
            yield _score(s, state, ScoredBatch(rollout, batch.weight_BC))
    yield Function("train_step", train_step(s), (state, batch))
    learned = models.learned(state, has_separate_teacher=s.teacher is not None)
    yield Function("checkpoint", fingerprints.sums, (jax.tree.leaves(learned),), 1 / e.train.checkpoint_every)


def _score(s: Subject, state: TrainState, given: ScoredBatch) -> Function:
    e = s.experiment
    score = learning.make_score_step(
        s.teacher or s.transformer, e.older_weights, micro_batches=e.train.micro_batches, mesh=s.mesh
    )
    number = e.train.questions * (e.train.samples if e.teacher.solutions == "sibling" else 1)
    looks = 3 if e.divergence.purify else 2 if e.teacher.contrast else 1
    shown = prompts_of(s, number, e.prompts.teacher_lengths[-1])
    return Function("score", score, (state, given, shown), looks / e.train.updates_per_rollout)


def train_step(s: Subject) -> Callable[..., Any]:
    """The jitted train step of the run."""
    e = s.experiment
    return learning.make_train_step(
        s.transformer,
        learning.OBJECTIVES[e.objective],
        e.loss,
        vocab_limit=s.vocabulary.vocab_limit,
        micro_batches=e.train.micro_batches,
        optimizer=e.optimizer,
        teacher=e.older_weights,
        mesh=s.mesh,
        teacher_architecture=s.teacher.architecture if s.teacher else None,
    )


def _logp_weights(e: config.Experiment) -> dict[str, learning.TeacherConfig]:
    """Whose log-probabilities of a rollout the loss wants."""
    found = {}
    if e.objective in learning.REWARDED and e.policy.importance_cap is not None:
        found["old_logp"] = learning.TeacherConfig("live")
    if e.has_kl_penalty:
        found["base_logp"] = learning.TeacherConfig("base")
    return found


def _rollout(s: Subject) -> Rollout:
    e = s.experiment
    G, B, C = e.train.questions, e.train.questions * e.train.samples, e.sampling.max_new_tokens
    return Rollout(
        prompts=prompts_of(s, G, e.prompts.student_lengths[-1]),
        completion_BC=rows(s, "int32", B, C),
        valid_BC=rows(s, "bool", B, C),
        logp_BC=rows(s, "float32", B, C),
        tempered_logp_BC=rows(s, "float32", B, C),
        sampling_logp_BC=rows(s, "float32", B, C),
        finish_B=rows(s, "int32", B),
        question_G=rows(s, "int32", G),
        sample_B=rows(s, "int32", B),
    )


def _scored(s: Subject, rollout: Rollout) -> ScoredBatch:
    e, (B, C) = s.experiment, rollout.completion_BC.shape
    width = (s.teacher or s.transformer).architecture.width * (2 if e.older_weights.kind == "trust_region" else 1)
    width *= 3 if e.divergence.purify else 1
    logps = _logp_weights(e)
    return ScoredBatch(
        rollout,
        weight_BC=rows(s, "float32", B, C),
        teacher_hidden_BCD=(rows(s, e.model.compute.dtype, B, C, width) if e.objective in learning.TAUGHT else None),
        advantage_B=rows(s, "float32", B) if e.objective in learning.REWARDED else None,
        old_logp_BC=rows(s, "float32", B, C) if "old_logp" in logps else None,
        base_logp_BC=rows(s, "float32", B, C) if "base_logp" in logps else None,
    )


def _text(s: Subject) -> TokenBatch:
    shape = s.experiment.train.rows, s.experiment.train.row_length
    return TokenBatch(*(rows(s, "int32", *shape) for _ in range(3)), weight_BT=rows(s, "float32", *shape))
