"""What can be learned from a batch. An objective is a function; none brings a trainer of its own.

    (transformer, variables, batch, config, *, teacher_head_VD, vocab_limit, head_trainable)
        -> (total, count, metrics: {name: (sum, count)})

``total / count`` is the loss. Neither is divided before the global batch is summed up, so the loss is the same for
any split into micro-batches or devices.
"""

from __future__ import annotations

import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rcsd_jax import lm
from rcsd_jax.learning.cross_entropy import cross_entropy_sum
from rcsd_jax.learning.divergence import Sampled, divergence_sum
from rcsd_jax.learning.guided_policy import guided_policy_sum
from rcsd_jax.learning.loss_config import LossConfig
from rcsd_jax.learning.policy import PolicyConfig, PolicyRows, aggregated, policy_sum
from rcsd_jax.types import Array, Rollout, ScoredBatch, TokenBatch, Tree

Sums = tuple[Array, Array, dict[str, tuple[Array, Array]]]


def sft_sum(
    transformer: lm.Transformer,
    variables: Tree,
    batch: TokenBatch,
    config: LossConfig | None = None,
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
    config: LossConfig,
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
      config: its ``divergence``: which one, and how it is reduced.
      teacher_head_VD: the LM head that belongs to those hidden states.
      vocab_limit: ids from here on are no tokens.
      head_trainable: whether the gradient of the LM head is wanted.

    Returns:
      the sum over tokens, the count of tokens or of completions (``config.reduction``), and the metrics of
      ``divergence_sum`` by token.
    """
    assert batch.teacher_hidden_BCD is not None
    rollout = batch.rollout
    total, sums = divergence_sum(
        _hidden(transformer, variables, rollout),
        lm.head_VD(variables, transformer.architecture),
        _by_token(batch.teacher_hidden_BCD),
        teacher_head_VD,
        batch.weight_BC.reshape(-1),
        config.divergence,
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
        sampled=Sampled(
            rollout.completion_BC.reshape(-1),
            rollout.logp_BC.reshape(-1),
            rollout.tempered_logp_BC.reshape(-1),
            config.temperature,
        ),
        gates=config.gates,
    )
    tokens = _count(batch.weight_BC)
    by_token = config.divergence.reduction == "token"
    count = sums.get("passed", tokens) if by_token else _count(jnp.any(batch.weight_BC > 0, axis=1))
    return total, count, _paired(sums, tokens)


def guided_policy(
    transformer: lm.Transformer,
    variables: Tree,
    batch: ScoredBatch,
    config: LossConfig,
    *,
    teacher_head_VD: Array,
    vocab_limit: int,
    head_trainable: bool,
) -> Sums:
    """A teacher's word as the advantage of each sampled token, or, where the batch has rewards, divergence and reward.

    Args: as of ``distill_sum``; ``config`` also with its ``policy``.

    Returns:
      sum and count over tokens, and the metrics of ``guided_policy_sum``.
    """
    assert batch.teacher_hidden_BCD is not None
    total, sums = guided_policy_sum(
        _hidden(transformer, variables, batch.rollout),
        lm.head_VD(variables, transformer.architecture),
        _by_token(batch.teacher_hidden_BCD),
        teacher_head_VD,
        _policy_rows(batch, config.policy),
        batch.weight_BC.reshape(-1),
        config,
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
    )
    tokens = _count(batch.weight_BC)
    return total, sums.get("passed", tokens), _paired(sums, tokens)


def grpo_sum(
    transformer: lm.Transformer,
    variables: Tree,
    batch: ScoredBatch,
    config: LossConfig,
    *,
    teacher_head_VD: Array | None = None,
    vocab_limit: int,
    head_trainable: bool,
) -> Sums:
    """Rewards of whole completions, against the others of their question (GRPO and relatives; see ``policy``).

    Args:
      transformer: the model.
      variables: its weights; gradients flow into them.
      batch: completions with their advantages.
      config: its ``policy`` and ``temperature``.
      teacher_head_VD: not used.
      vocab_limit: ids from here on are no tokens.
      head_trainable: whether the gradient of the LM head is wanted.

    Returns:
      the sum over tokens and the count that ``policy.aggregation`` asks for, and the metrics of ``policy_sum``.
    """
    weight_BC, count = aggregated(batch.weight_BC, config.policy.aggregation)
    total, sums = policy_sum(
        _hidden(transformer, variables, batch.rollout),
        lm.head_VD(variables, transformer.architecture),
        _policy_rows(batch, config.policy),
        weight_BC.reshape(-1),
        config.policy,
        temperature=config.temperature,
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
    )
    return total, count.astype(jnp.float32), _paired(sums, _count(weight_BC))


def imitate_sum(
    transformer: lm.Transformer,
    variables: Tree,
    batch: ScoredBatch,
    config: LossConfig | None = None,
    *,
    teacher_head_VD: Array | None = None,
    vocab_limit: int,
    head_trainable: bool,
) -> Sums:
    """Cross-entropy of the completions that count: the best of each question (RuFT, best-of-n).

    Args: as of ``distill_sum``; neither ``config`` nor the teacher plays a part.

    Returns:
      sum and count over tokens, and ``accuracy``.
    """
    total, sums = cross_entropy_sum(
        _hidden(transformer, variables, batch.rollout),
        lm.head_VD(variables, transformer.architecture),
        batch.rollout.completion_BC.reshape(-1),
        batch.weight_BC.reshape(-1),
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
    )
    tokens = _count(batch.weight_BC)
    return total, tokens, _paired(sums, tokens)


def _policy_rows(batch: ScoredBatch, policy: PolicyConfig) -> PolicyRows:
    """What the policy loss needs to know of each token of the completions."""
    rollout, then_BC, correction_BC = batch.rollout, batch.rollout.tempered_logp_BC, None
    if batch.old_logp_BC is not None:
        assert policy.importance_cap is not None
        correction_BC = jnp.minimum(jnp.exp(batch.old_logp_BC - then_BC), policy.importance_cap)
        then_BC = batch.old_logp_BC
    advantage_B = batch.advantage_B
    advantage_BC = None if advantage_B is None else jnp.broadcast_to(advantage_B[:, None], then_BC.shape)
    rows = PolicyRows(rollout.completion_BC, advantage_BC, then_BC, batch.base_logp_BC, correction_BC)
    return jax.tree.map(lambda x: x.reshape(-1), rows)


def _hidden(transformer: lm.Transformer, variables: Tree, rollout: Rollout) -> Array:
    """States [U, D] that predict the completions' tokens; a question's prompt is computed once."""
    return _by_token(
        lm.hidden_of_completion(
            transformer, variables, rollout.prompts, rollout.completion_BC, rollout.valid_BC, shared=True
        )
    )


def _by_token(hidden_BCD: Array) -> Array:
    return hidden_BCD.reshape(-1, hidden_BCD.shape[-1])


def _count(weight: Array) -> Array:
    return jnp.sum(weight.astype(jnp.float32))


def _paired(sums: dict[str, Array], count: Array) -> dict[str, tuple[Array, Array]]:
    return {name: (total, count) for name, total in sums.items()}


Objective = Callable[..., Sums]
OBJECTIVES: dict[str, Objective] = {
    "sft": sft_sum,
    "distill": distill_sum,
    "distill_sampled": guided_policy,
    "distill_grpo": guided_policy,
    "grpo": grpo_sum,
    "best_of_n": imitate_sum,
}
# What they need besides the student's own completions ("sft" learns from given text): a teacher's look, a reward.
TAUGHT = ("distill", "distill_sampled", "distill_grpo")
REWARDED = ("distill_grpo", "grpo", "best_of_n")
