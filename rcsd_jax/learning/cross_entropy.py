"""The negative log-likelihood of given tokens, with the LM head inside."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rcsd_jax.learning.chunked_head import States, head_sum
from rcsd_jax.lm import logit_at
from rcsd_jax.types import Array


def cross_entropy_sum(
    hidden_UD: Array,
    head_VD: Array,
    tokens_U: Array,
    weight_U: Array,
    *,
    vocab_limit: int,
    head_trainable: bool,
    chunk_tokens: int | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum over tokens of -log p(token), in nats, and of ``accuracy`` (the token is the likeliest one).

    Args:
      hidden_UD: states after the final norm; row u predicts ``tokens_U[u]``.
      head_VD: the LM head.
      tokens_U: int32, below ``vocab_limit``.
      weight_U: what each token counts; where it is 0 nothing is looked at.
      vocab_limit: rows of the head from here on belong to no token.
      head_trainable: False leaves out the gradient of the head.
      chunk_tokens: tokens whose logits exist at one time; None chooses from a memory budget.
    """
    return head_sum(
        _loss_of_logits,
        States(hidden_UD, head_VD),
        None,
        tokens_U,
        weight_U,
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
        chunk_tokens=chunk_tokens,
    )


def _loss_of_logits(logits_UV: Array, _: Array | None, tokens_U: Array) -> tuple[Array, dict[str, Array]]:
    token_logit_U = logit_at(logits_UV, tokens_U)
    loss_U = jax.nn.logsumexp(logits_UV, axis=-1) - token_logit_U
    return loss_U, {"accuracy": token_logit_U >= jnp.max(logits_UV, axis=-1)}
