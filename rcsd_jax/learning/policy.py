"""Learning from rewards: the clipped policy-gradient loss of GRPO and its relatives, token by token.

    r = p_now(y) / p_then(y),  q = p_base(y) / p_now(y)
    loss = -w min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coefficient (q - log q - 1)

for a sampled token y with advantage A (GRPO, arXiv 2402.03300, eq. 3 and 4; a higher upper clip is DAPO's, arXiv
2503.14476). All probabilities are those of the model at the sampling temperature **over the whole vocabulary**.

What top-k, top-p and min-p do to it. Tokens then come from p_then / m on the kept ones, where m is the mass that the
filters keep. Taken against that, every ratio would begin at m instead of 1, and below the lower clip wherever the
filters drop more than ``clip_low``; the ratio of whole distributions begins at 1 at every token. The price is a bias:
the mean of grad log p(y) over such tokens is grad log m, not 0. An advantage that is the same for all samples (a
baseline that is off) then moves mass into or out of the kept tokens. Advantages that sum to zero in every group
keep that small; filters that keep nearly everything, or none, remove it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rcsd_jax.learning.chunked_head import States, head_sum
from rcsd_jax.lm import logit_at
from rcsd_jax.types import Array

AGGREGATIONS = ("grpo", "bnpo", "dapo", "dr_grpo")
SPREADS = ("group", "batch", "none")


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """How rewards become a loss.

    Attributes:
      clip_low: a token of negative advantage has no gradient once its ratio is below 1 - clip_low.
      clip_high: one of positive advantage has none above 1 + clip_high.
      kl_coefficient: of the KL divergence to the weights that training began with (estimator k3: never negative, and
        unbiased on tokens of the current policy). 0 saves the pass that it needs.
      advantage_std: what rewards, less the mean of their group, are divided by: the standard deviation of the "group",
        of the whole "batch", or 1 ("none", as in Dr. GRPO, arXiv 2503.20783).
      aggregation: "dapo" is the mean over the tokens of the global batch that count (those of groups without spread
        only where there is a KL penalty), "grpo" the mean over completions of their token means, "dr_grpo" the sum over
        completions and their room (a constant). "bnpo" is the mean over the micro-batches of their token means: the
        only one that depends on ``train.micro_batches``.
      mask_truncated: completions that ran out of room leave the loss; their rewards stay in the group's statistics.
      reward_coefficient: what the reward counts beside the divergence, for objective "distill_grpo" only.
      importance_cap: None takes the ratio against the sampler's own log-probabilities. A number takes it against those
        that the scorer gives before the first update (one more pass), and weights each token by what the scorer makes
        of it over what the sampler did, capped at this number (truncated importance sampling; 2 is usual). With
        ``train.staleness`` the clips then hold a step near the weights of now, and not near those that have sampled
        (decoupled PPO, arXiv 2110.00641).

    Raises:
      ValueError: a value out of range.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    kl_coefficient: float = 0.0
    advantage_std: str = "group"
    aggregation: str = "dapo"
    mask_truncated: bool = False
    reward_coefficient: float = 1.0
    importance_cap: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("advantage_std", SPREADS), ("aggregation", AGGREGATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"policy.{name} is {getattr(self, name)!r}: use one of {known}")
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"policy.clip_low is {self.clip_low}: a ratio is never negative, use 0 to 1")
        for name in ("clip_high", "kl_coefficient", "reward_coefficient"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"policy.{name} is {getattr(self, name)}: it must be finite and at least 0")
        if self.importance_cap is not None and not self.importance_cap > 0:
            raise ValueError(f"policy.importance_cap is {self.importance_cap}: it must be positive, or None")


class PolicyRows(NamedTuple):
    """What the loss needs to know of each sampled token; what plays no part is None.

    ``prefix_importance_U`` is what a divergence beside it is weighted with.
    """

    token_U: Array
    advantage_U: Array | None
    then_logp_U: Array
    base_logp_U: Array | None = None
    correction_U: Array | None = None
    prefix_importance_U: Array | None = None


def policy_sum(
    hidden_UD: Array,
    head_VD: Array,
    rows: PolicyRows,
    weight_U: Array,
    config: PolicyConfig,
    *,
    temperature: float,
    vocab_limit: int,
    head_trainable: bool,
    chunk_tokens: int | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum over tokens of the loss above, chunk by chunk, and of its metrics.

    Args:
      hidden_UD: the student's states after the final norm; row u predicts token u.
      head_VD: its LM head.
      rows: the tokens, their advantages and log-probabilities.
      weight_U: what each token counts; where it is 0 nothing is looked at.
      config: clips and coefficients.
      temperature: the completions were sampled at.
      vocab_limit: rows of the head from here on belong to no token.
      head_trainable: False leaves out the gradient of the head.
      chunk_tokens: tokens whose logits exist at one time; None chooses from a memory budget.

    Returns:
      the sum, and sums of ``student_entropy`` (nats, at the temperature) and of what ``policy_loss`` tells.
    """
    return head_sum(
        functools.partial(policy_of_logits, config, temperature),
        States(hidden_UD, head_VD),
        None,
        rows,
        weight_U,
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
        chunk_tokens=chunk_tokens,
    )


def policy_of_logits(
    config: PolicyConfig, temperature: float, logits_UV: Array, _: Array | None, rows: PolicyRows
) -> tuple[Array, dict[str, Array]]:
    """The loss of each token from its logits, and the metrics of ``policy_sum``, each of shape U."""
    logits_UV = logits_UV / temperature
    total_U = jax.nn.logsumexp(logits_UV, axis=-1)
    loss_U, metrics = policy_loss(logit_at(logits_UV, rows.token_U) - total_U, rows, config)
    p_UV = jnp.exp(jax.lax.stop_gradient(logits_UV - total_U[:, None]))
    return loss_U, metrics | {"student_entropy": total_U - jnp.sum(p_UV * logits_UV, axis=-1)}


def policy_loss(logp_U: Array, rows: PolicyRows, config: PolicyConfig) -> tuple[Array, dict[str, Array]]:
    """The loss of each token from its log-probability now, and its metrics, each of shape U.

    Metrics: ``ratio``, ``clipped_low`` and ``clipped_high`` (the token has no policy gradient), ``policy_gap`` (by how
    many nats its log-probability differs from then), ``kl_to_base`` and ``importance`` where they play a part.
    """
    assert rows.advantage_U is not None
    gap_U = logp_U - rows.then_logp_U
    ratio_U, advantage_U = jnp.exp(gap_U), rows.advantage_U
    clipped_U = jnp.clip(ratio_U, 1 - config.clip_low, 1 + config.clip_high)
    loss_U = -jnp.minimum(ratio_U * advantage_U, clipped_U * advantage_U)
    metrics = {
        "ratio": ratio_U,
        "clipped_low": (ratio_U < clipped_U) & (advantage_U < 0),
        "clipped_high": (ratio_U > clipped_U) & (advantage_U > 0),
        "policy_gap": jnp.abs(gap_U),
    }
    if rows.correction_U is not None:
        loss_U *= rows.correction_U
        metrics["importance"] = rows.correction_U
    if rows.base_logp_U is not None:
        log_q_U = rows.base_logp_U - logp_U
        kl_U = jnp.expm1(log_q_U) - log_q_U
        loss_U += config.kl_coefficient * kl_U
        metrics["kl_to_base"] = kl_U
    return loss_U, metrics


def aggregated(weight_BC: Array, aggregation: str) -> tuple[Array, Array]:
    """(weights, count): the loss is the sum over tokens with these weights, divided by this count."""
    assert aggregation in AGGREGATIONS, f"{aggregation=}"
    if aggregation == "grpo":
        row_B1 = jnp.sum(weight_BC, axis=1, keepdims=True)
        return weight_BC / jnp.where(row_B1 > 0, row_B1, 1.0), jnp.sum(row_B1 > 0)
    if aggregation == "dr_grpo":
        return weight_BC, jnp.float32(weight_BC.size)
    total = jnp.sum(weight_BC)
    return (weight_BC / jnp.where(total > 0, total, 1.0), total > 0) if aggregation == "bnpo" else (weight_BC, total)
