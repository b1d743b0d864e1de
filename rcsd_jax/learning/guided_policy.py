"""A teacher and a policy gradient in one look at the logits: distillation on sampled tokens, or beside a reward."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rcsd_jax.learning.chunked_head import States, head_sum
from rcsd_jax.learning.divergence import describe, target_logits, token_divergence
from rcsd_jax.learning.gates import Gates, passes
from rcsd_jax.learning.loss_config import LossConfig
from rcsd_jax.learning.policy import PolicyRows, policy_loss, policy_of_logits
from rcsd_jax.lm import logit_at
from rcsd_jax.types import Array


def sampled_divergence_sum(
    student: States,
    teacher: States,
    rows: PolicyRows,
    weight_U: Array,
    config: LossConfig,
    *,
    vocab_limit: int,
    head_trainable: bool,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum over tokens of the policy loss whose advantage for token y is log p_T(y) - log p_S(y).

    Where tokens come from the student, its gradient is in the mean that of KL(p_S || p_T) at the sampling temperature,
    and costs one token of the vocabulary.

    Args:
      student: its states, one a token that is predicted, and its LM head; gradients flow into both.
      teacher: the same of the teacher.
      rows: the sampled tokens, without advantages.
      weight_U: what each token counts; where it is 0 nothing is looked at.
      config: the policy loss, and gates by entropy (tokens that they stop add nothing).
      vocab_limit: rows of the heads from here on belong to no token.
      head_trainable: False leaves out the gradient of the student's head.

    Returns:
      the sum, and sums of the metrics of ``policy_loss``, of ``divergence.describe`` and of ``sampled_divergence``,
      log p_S(y) - log p_T(y).
    """
    assert rows.advantage_U is None
    return _guided_sum(_sampled, student, teacher, rows, weight_U, config, vocab_limit, head_trainable)


def divergence_and_policy_sum(
    student: States,
    teacher: States,
    rows: PolicyRows,
    weight_U: Array,
    config: LossConfig,
    *,
    vocab_limit: int,
    head_trainable: bool,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum over tokens of the divergence plus ``policy.reward_coefficient`` times the policy loss.

    Args: as of ``sampled_divergence_sum``; ``rows`` with advantages, ``config`` also with its divergence.

    Returns:
      the sum, and sums of the metrics of ``divergence_sum``, of ``policy_sum``, and of ``policy_loss``.
    """
    assert rows.advantage_U is not None
    return _guided_sum(_mixed, student, teacher, rows, weight_U, config, vocab_limit, head_trainable)


def _guided_sum(
    loss_of_logits: Callable,
    student: States,
    teacher: States,
    rows: PolicyRows,
    weight_U: Array,
    config: LossConfig,
    vocab_limit: int,
    head_trainable: bool,
) -> tuple[Array, dict[str, Array]]:
    return head_sum(
        functools.partial(loss_of_logits, config),
        student,
        teacher,
        rows,
        weight_U,
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
        chunk_tokens=config.divergence.chunk_tokens,
    )


def _mixed(
    config: LossConfig, student_UV: Array, teacher_UV: Array, rows: PolicyRows
) -> tuple[Array, dict[str, Array]]:
    divergence_U, metrics = token_divergence(student_UV, teacher_UV, config.divergence)
    policy_U, of_policy = policy_of_logits(config.policy, config.temperature, student_UV, None, rows)
    metrics |= of_policy | {"policy_loss": policy_U}
    if rows.prefix_importance_U is not None:
        metrics["prefix_importance"] = rows.prefix_importance_U
        divergence_U *= rows.prefix_importance_U
    return _gated(config.gates, divergence_U + config.policy.reward_coefficient * policy_U, metrics)


def _sampled(
    config: LossConfig, student_UV: Array, teacher_UV: Array, rows: PolicyRows
) -> tuple[Array, dict[str, Array]]:
    teacher_UV = target_logits(teacher_UV, config.divergence.purify)
    student_UV, teacher_UV = student_UV / config.temperature, teacher_UV / config.temperature
    logp_U, teacher_logp_U = (
        logit_at(logits_UV, rows.token_U) - jax.nn.logsumexp(logits_UV, axis=-1)
        for logits_UV in (student_UV, teacher_UV)
    )
    advantage_U = jax.lax.stop_gradient(teacher_logp_U - logp_U)
    loss_U, metrics = policy_loss(logp_U, rows._replace(advantage_U=advantage_U), config.policy)
    metrics |= describe(student_UV, teacher_UV) | {"sampled_divergence": -advantage_U}
    return _gated(config.gates, loss_U, metrics)


def _gated(gates: Gates, loss_U: Array, metrics: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    if not gates.look_at_entropy:
        return loss_U, metrics
    passed_U = passes(gates, metrics["student_entropy"], metrics["teacher_entropy"])
    return jnp.where(passed_U, loss_U, 0), metrics | {"passed": passed_U}
