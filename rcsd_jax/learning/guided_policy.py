"""A teacher and a policy gradient in one look at the logits: distillation on sampled tokens, or beside a reward."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from rcsd_jax.learning.chunked_head import head_sum
from rcsd_jax.learning.divergence import describe, token_divergence
from rcsd_jax.learning.gates import Gates, passes
from rcsd_jax.learning.loss_config import LossConfig
from rcsd_jax.learning.policy import PolicyRows, policy_loss, policy_of_logits
from rcsd_jax.lm import logit_at, logits_of
from rcsd_jax.types import Array


def guided_policy_sum(
    student_hidden_UD: Array,
    student_head_VD: Array,
    teacher_hidden_UD: Array,
    teacher_head_VD: Array,
    rows: PolicyRows,
    weight_U: Array,
    config: LossConfig,
    *,
    vocab_limit: int,
    head_trainable: bool,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum over tokens, chunk by chunk, of a policy loss that a teacher takes part in.

    With advantages in ``rows``, the divergence plus ``policy.reward_coefficient`` times the policy loss. Without, the
    policy loss with log p_T(y) - log p_S(y) as the advantage of token y: where tokens come from the student, its
    gradient is in the mean that of KL(p_S || p_T) at the sampling temperature, and costs one token of the vocabulary.

    Args:
      student_hidden_UD: states after the final norm, one a token that is predicted.
      student_head_VD: the student's LM head.
      teacher_hidden_UD: the teacher's states for the same tokens.
      teacher_head_VD: the teacher's LM head.
      rows: the sampled tokens.
      weight_U: what each token counts; where it is 0 nothing is looked at.
      config: the divergence, the policy loss, and gates by entropy (tokens that they stop add nothing).
      vocab_limit: rows of the heads from here on belong to no token.
      head_trainable: False leaves out the gradient of the student's head.

    Returns:
      the sum, and sums of the metrics of ``policy_sum``, of ``divergence_sum`` or (without advantages) of
      ``divergence.describe`` and ``sampled_divergence``, log p_S(y) - log p_T(y).
    """
    return head_sum(
        functools.partial(_sampled if rows.advantage_U is None else _mixed, config, vocab_limit),
        student_hidden_UD,
        student_head_VD,
        (teacher_hidden_UD, rows),
        teacher_head_VD.astype(teacher_hidden_UD.dtype),
        weight_U,
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
        chunk_tokens=config.divergence.chunk_tokens,
    )


def _mixed(
    config: LossConfig, vocab_limit: int, student_UV: Array, rows: tuple[Array, PolicyRows], teacher_head_VD: Array
) -> tuple[Array, dict[str, Array]]:
    teacher_hidden_UD, policy_rows = rows
    teacher_UV = logits_of(teacher_hidden_UD, teacher_head_VD, vocab_limit)
    divergence_U, metrics = token_divergence(student_UV, teacher_UV, config.divergence)
    policy_U, of_policy = policy_of_logits(config.policy, config.temperature, student_UV, policy_rows, None)
    metrics |= of_policy | {"policy_loss": policy_U}
    return _gated(config.gates, divergence_U + config.policy.reward_coefficient * policy_U, metrics)


def _sampled(
    config: LossConfig, vocab_limit: int, student_UV: Array, rows: tuple[Array, PolicyRows], teacher_head_VD: Array
) -> tuple[Array, dict[str, Array]]:
    teacher_hidden_UD, policy_rows = rows
    teacher_UV = logits_of(teacher_hidden_UD, teacher_head_VD, vocab_limit) / config.temperature
    student_UV = student_UV / config.temperature
    logp_U, teacher_logp_U = (
        logit_at(logits_UV, policy_rows.token_U) - jax.nn.logsumexp(logits_UV, axis=-1)
        for logits_UV in (student_UV, teacher_UV)
    )
    advantage_U = jax.lax.stop_gradient(teacher_logp_U - logp_U)
    loss_U, metrics = policy_loss(logp_U, policy_rows._replace(advantage_U=advantage_U), config.policy)
    metrics |= describe(student_UV, teacher_UV) | {"sampled_divergence": -advantage_U}
    return _gated(config.gates, loss_U, metrics)


def _gated(gates: Gates, loss_U: Array, metrics: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    if not gates.look_at_entropy:
        return loss_U, metrics
    passed_U = passes(gates, metrics["student_entropy"], metrics["teacher_entropy"])
    return jnp.where(passed_U, loss_U, 0), metrics | {"passed": passed_U}
