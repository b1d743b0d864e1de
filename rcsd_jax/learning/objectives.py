"""What can be learned from a batch. An objective is a function; none brings a trainer of its own.

    (transformer, variables, batch, config, *, teacher_head_VD, vocab_limit, head_trainable)
        -> (total, count, metrics: {name: (sum, count)})

``total / count`` is the loss. Neither is divided before the global batch is summed up, so the loss is the same for
any split into micro-batches or devices.
"""

from __future__ import annotations

import typing
from collections.abc import Callable

import jax.numpy as jnp

from rcsd_jax import lm
from rcsd_jax.learning.cross_entropy import cross_entropy_sum
from rcsd_jax.learning.divergence import DivergenceConfig, divergence_sum
from rcsd_jax.types import Array, ScoredBatch, TokenBatch, Tree

Sums = tuple[Array, Array, dict[str, tuple[Array, Array]]]


def sft_sum(
    transformer: lm.Transformer,
    variables: Tree,
    batch: TokenBatch,
    config: DivergenceConfig | None = None,
    *,
    teacher_head_VD: Array | None = None,
    vocab_limit: int,
    head_trainable: bool,
) -> Sums:
    """Cross-entropy of given text; neither ``config`` nor the teacher plays a part.

    Args:
      transformer: the model.
      variables: its weights; gradients flow into them.
      batch: rows of text; the weight at t is what predicting token t counts.
      config: not used.
      teacher_head_VD: not used.
      vocab_limit: ids from here on are no tokens.
      head_trainable: whether the gradient of the LM head is wanted.

    Returns:
      sum and count over tokens, and ``accuracy``.
    """
    hidden_BTD = typing.cast(
        Array, transformer.apply(variables, batch.tokens_BT, batch.positions_BT, batch.segments_BT)
    )
    # The state at t predicts token t + 1. Column 0 is the first token of a segment, so it wraps round with weight 0.
    target_BT, weight_BT = jnp.roll(batch.tokens_BT, -1, axis=1), jnp.roll(batch.weight_BT, -1, axis=1)
    total, sums = cross_entropy_sum(
        hidden_BTD.reshape(-1, hidden_BTD.shape[-1]),
        lm.head_VD(variables, transformer.architecture),
        target_BT.reshape(-1),
        weight_BT.reshape(-1),
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
    )
    tokens = _count(weight_BT)
    return total, tokens, _paired(sums, tokens)


def distill_sum(
    transformer: lm.Transformer,
    variables: Tree,
    batch: ScoredBatch,
    config: DivergenceConfig,
    *,
    teacher_head_VD: Array,
    vocab_limit: int,
    head_trainable: bool,
) -> Sums:
    """Divergence from the teacher on the student's own completions (RCSD, OPSD, RGSD, stage 1: method.md sections 2-4).

    Args:
      transformer: the model.
      variables: the student's weights; gradients flow into them.
      batch: completions with the teacher's hidden states.
      config: which divergence, and how it is reduced.
      teacher_head_VD: the LM head that belongs to those hidden states.
      vocab_limit: ids from here on are no tokens.
      head_trainable: whether the gradient of the LM head is wanted.

    Returns:
      the sum over tokens, the count of tokens or of completions (``config.reduction``), and the metrics of
      ``divergence_sum`` by token.
    """
    rollout = batch.rollout
    hidden_BCD = lm.hidden_of_completion(
        transformer, variables, rollout.prompts, rollout.completion_BC, rollout.valid_BC, shared=True
    )
    width = hidden_BCD.shape[-1]
    total, sums = divergence_sum(
        hidden_BCD.reshape(-1, width),
        lm.head_VD(variables, transformer.architecture),
        batch.teacher_hidden_BCD.reshape(-1, width),
        teacher_head_VD,
        batch.weight_BC.reshape(-1),
        config,
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
        sampled=(rollout.completion_BC.reshape(-1), rollout.logp_BC.reshape(-1)),
    )
    tokens = _count(batch.weight_BC)
    count = tokens if config.reduction == "token" else _count(jnp.any(batch.weight_BC > 0, axis=1))
    return total, count, _paired(sums, tokens)


def _count(weight: Array) -> Array:
    return jnp.sum(weight.astype(jnp.float32))


def _paired(sums: dict[str, Array], count: Array) -> dict[str, tuple[Array, Array]]:
    return {name: (total, count) for name, total in sums.items()}


Objective = Callable[..., Sums]
OBJECTIVES: dict[str, Objective] = {"sft": sft_sum, "distill": distill_sum}
