"""Given completions: the hidden states that predict them, and the log-probabilities of their tokens."""

from __future__ import annotations

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp

from rcsd_jax.lm.transformer import Transformer, positions_of
from rcsd_jax.types import Array, PromptBatch, Tree

# The logit of a row of the vocabulary that has no token. Finite: inf - inf would be NaN in a difference of two models.
NEVER = -1e30


def logits_of(hidden_UD: Array, head_VD: Array, vocab_limit: int) -> Array:
    """Float32 logits_UV; rows of the head from ``vocab_limit`` on belong to no token and get ``NEVER``."""
    assert hidden_UD.dtype == head_VD.dtype, f"{hidden_UD.dtype=} {head_VD.dtype=}"
    return only_tokens(jnp.einsum("ud,vd->uv", hidden_UD, head_VD, preferred_element_type=jnp.float32), vocab_limit)


def only_tokens(logits_UV: Array, vocab_limit: int) -> Array:
    """The logits, with ``NEVER`` from ``vocab_limit`` on."""
    if vocab_limit == logits_UV.shape[1]:
        return logits_UV
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, logits_UV.shape, 1) < vocab_limit, logits_UV, NEVER)


def logit_at(logits_UV: Array, token_U: Array) -> Array:
    """The logit of one token a row, float32 [U]; where the vocabulary lies on several devices it stays there."""
    # A comparison with the column number fuses where a gather, and its scatter backward, would not.
    hit_UV = jax.lax.broadcasted_iota(jnp.int32, logits_UV.shape, 1) == token_U[:, None]
    return jnp.max(jnp.where(hit_UV, logits_UV, NEVER), axis=-1)


def hidden_of_completion(
    transformer: Transformer,
    variables: Tree,
    prompts: PromptBatch,
    completion_BC: Array,
    valid_BC: Array,
    *,
    shared: bool,
) -> Array:
    """Hidden states [B, C, D]; those at t predict completion token t.

    Args:
      transformer: the model.
      variables: its weights; gradients flow to them.
      prompts: G left-padded prompts.
      completion_BC: right-padded completions, row b continues prompt b // (B // G).
      valid_BC: True on real tokens.
      shared: compute each prompt once for all its completions; False repeats it in every row. Equal but for rounding.
    """
    if shared:
        rows = (prompts.tokens_GP, prompts.valid_GP, completion_BC, valid_BC)
        return cast(Array, transformer.apply(variables, *rows, method="with_prefix"))
    (G, P), (B, C) = prompts.tokens_GP.shape, completion_BC.shape
    tokens_BT = jnp.concatenate([jnp.repeat(prompts.tokens_GP, B // G, axis=0), completion_BC], axis=1)
    valid_BT = jnp.concatenate([jnp.repeat(prompts.valid_GP, B // G, axis=0), valid_BC], axis=1)
    hidden_BTD = cast(Array, transformer.apply(variables, tokens_BT, positions_of(valid_BT), valid_BT))
    return hidden_BTD[:, P - 1 : P + C - 1]


def logp_of_tokens(hidden_UD: Array, head_VD: Array, tokens_U: Array, *, vocab_limit: int, chunk: int = 512) -> Array:
    """log softmax(hidden head^T)[token] for every row: float32 [U].

    Logits exist for ``chunk`` tokens at a time, forward and backward.

    Args:
      hidden_UD: hidden states.
      head_VD: the LM head; used in the dtype of the hidden states.
      tokens_U: int32, below ``vocab_limit``.
      vocab_limit: rows of the head from here on belong to no token and get no probability.
      chunk: tokens at a time.
    """
    U, D = hidden_UD.shape
    chunks = -(-U // chunk)
    padding = chunks * -(-U // chunks) - U
    # X chunks; token u goes to chunk u % X, so that every device, holding neighbouring tokens, has a share in each.
    hidden_XUD = jnp.pad(hidden_UD, ((0, padding), (0, 0))).reshape(-1, chunks, D).swapaxes(0, 1)
    tokens_XU = jnp.pad(tokens_U, (0, padding)).reshape(-1, chunks).T
    logp_XU = _logp(hidden_XUD, head_VD.astype(hidden_UD.dtype), tokens_XU, vocab_limit)
    return logp_XU.T.reshape(-1)[:U]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _logp(hidden_XUD: Array, head_VD: Array, tokens_XU: Array, vocab_limit: int) -> Array:
    return _logp_forward(hidden_XUD, head_VD, tokens_XU, vocab_limit)[0]


def _logp_forward(hidden_XUD: Array, head_VD: Array, tokens_XU: Array, vocab_limit: int) -> tuple[Array, tuple]:
    def chunk(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden_UD, tokens_U = inputs
        logits_UV = logits_of(hidden_UD, head_VD, vocab_limit)
        total_U = jax.nn.logsumexp(logits_UV, axis=-1)
        return logit_at(logits_UV, tokens_U) - total_U, total_U

    logp_XU, total_XU = jax.lax.map(chunk, (hidden_XUD, tokens_XU))
    return logp_XU, (hidden_XUD, head_VD, tokens_XU, total_XU)


def _logp_backward(vocab_limit: int, residuals: tuple, weight_XU: Array) -> tuple[Array, Array, None]:
    hidden_XUD, head_VD, tokens_XU, total_XU = residuals

    def chunk(head_gradient_VD: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        hidden_UD, tokens_U, total_U, weight_U = inputs
        p_UV = jnp.exp(logits_of(hidden_UD, head_VD, vocab_limit) - total_U[:, None])
        hit_UV = jnp.arange(head_VD.shape[0])[None, :] == tokens_U[:, None]
        gradient_UV = ((hit_UV - p_UV) * weight_U[:, None]).astype(hidden_UD.dtype)
        einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
        head_gradient_VD += einsum("uv,ud->vd", gradient_UV, hidden_UD)
        return head_gradient_VD, einsum("uv,vd->ud", gradient_UV, head_VD).astype(hidden_UD.dtype)

    # Where nobody asks for the head's gradient, the compiler drops its part of the scan.
    zero_VD = jnp.zeros(head_VD.shape, jnp.float32)
    head_gradient_VD, hidden_gradient_XUD = jax.lax.scan(chunk, zero_VD, (hidden_XUD, tokens_XU, total_XU, weight_XU))
    return hidden_gradient_XUD, head_gradient_VD.astype(head_VD.dtype), None


_logp.defvjp(_logp_forward, _logp_backward)
