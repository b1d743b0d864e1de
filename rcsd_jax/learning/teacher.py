"""Whose weights the teacher has. Its context is another matter: that is in the prompt.

base      the weights that training began with (with adapters: the adapters are off, nothing is kept)
live      the student's own, as they are at the time
ema       a running mean of the student's: decay * teacher + (1 - decay) * student after every update
snapshot  the student's of the last update whose number is a multiple of ``snapshot_every``
trust_region  two at once: the normalised geometric mean of what base and live weights predict, so that the teacher
          follows the student and stays near the base (SDPO, arXiv 2601.20802)
separate  those of another model with the same tokenizer, which never change (on-policy distillation, arXiv 2306.13649);
          whoever makes the state puts them into ``TrainState.teacher``
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rcsd_jax import lm
from rcsd_jax.types import Array, TrainState, Tree

TEACHERS = ("base", "live", "ema", "snapshot", "trust_region", "separate")


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Which weights; see the module for what the names mean.

    Attributes:
      kind: one of ``TEACHERS``.
      ema_decay: 0.999 by default; SDPO's "rate 0.05" is a decay of 0.95.
      snapshot_every: updates between two snapshots.
      live_share: of trust_region: log-probabilities are this share of live's and the rest of base's.

    Raises:
      ValueError: an unknown name or a value out of range.
    """

    kind: str = "base"
    ema_decay: float = 0.999
    snapshot_every: int = 50
    live_share: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in TEACHERS:
            raise ValueError(f"weights.kind is {self.kind!r}: use one of {TEACHERS}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"weights.ema_decay is {self.ema_decay}: use 0 <= ema_decay < 1, or kind 'base' for 1")
        if self.snapshot_every < 1:
            raise ValueError(f"weights.snapshot_every is {self.snapshot_every}: use at least 1")
        if not 0 < self.live_share < 1:
            raise ValueError(f"weights.live_share is {self.live_share}: use 0 < live_share < 1, or kind base or live")


def initial_teacher(config: TeacherConfig, variables: Tree, trainable: str) -> Tree | None:
    """What ``TrainState.teacher`` starts as: a copy of the trainable collection, or None where none is needed."""
    if config.kind in ("live", "separate") or (config.kind in ("base", "trust_region") and trainable != "params"):
        return None
    # A mean over a thousand bfloat16 steps would not move: it is kept in float32.
    return jax.tree.map(lambda x: jnp.copy(_float32(x) if config.kind == "ema" else x), variables[trainable])


def teacher_variables(config: TeacherConfig, state: TrainState) -> Tree:
    """The teacher's variables, for ``Transformer.apply`` and ``lm.head_VD``; of trust_region the base's, see below."""
    if config.kind == "live":
        return state.variables
    if config.kind == "separate":
        assert state.teacher is not None
        return {"params": state.teacher}
    if state.teacher is None:
        return {name: tree for name, tree in state.variables.items() if name != state.trainable}
    current = state.variables[state.trainable]
    weights = jax.tree.map(lambda old, now: old.astype(now.dtype), state.teacher, current)
    return {**state.variables, state.trainable: weights}


def teacher_hidden(config: TeacherConfig, state: TrainState, hidden_of: Callable[[Tree], Array]) -> Array:
    """What ``hidden_of`` (variables -> [..., D]) gives for the teacher; of trust_region [..., 2 D].

    A mean of log-probabilities is, but for a constant, one of logits; those are products with a head. So the states of
    both weights, scaled by their shares, stand side by side, and so do the heads of ``teacher_head``.
    """
    if config.kind != "trust_region":
        return hidden_of(teacher_variables(config, state))
    base, live = hidden_of(teacher_variables(config, state)), hidden_of(state.variables)
    return jnp.concatenate([(1 - config.live_share) * base, config.live_share * live], axis=-1)


def teacher_head(config: TeacherConfig, state: TrainState, architecture: lm.Architecture, vocab_size: int) -> Array:
    """The LM head [V, D] that belongs to ``teacher_hidden``; of trust_region [V, 2 D].

    ``architecture`` is the teacher's, ``vocab_size`` the student's V: models of one tokenizer may have other numbers of
    rows behind it, which belong to no token.
    """
    head_VD = lm.head_VD(teacher_variables(config, state), architecture)
    if config.kind == "separate":
        return jnp.pad(head_VD, ((0, max(0, vocab_size - len(head_VD))), (0, 0)))[:vocab_size]
    if config.kind != "trust_region":
        return head_VD
    return jnp.concatenate([head_VD, lm.head_VD(state.variables, architecture)], axis=-1)


def update_teacher(config: TeacherConfig, teacher: Tree | None, student: Tree, updates: Array) -> Tree | None:
    """The teacher after update number ``updates`` (counted from 1), which made the student's weights ``student``."""
    if config.kind == "ema":
        decay = config.ema_decay
        return jax.tree.map(lambda old, new: decay * old + (1 - decay) * _float32(new), teacher, student)
    if config.kind == "snapshot":
        due = updates % config.snapshot_every == 0
        return jax.tree.map(lambda old, new: jnp.where(due, new, old), teacher, student)
    return teacher


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)
