"""Given completions: the hidden states that predict them, and the logits of some of those states."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp

from rcsd_jax import sharding
from rcsd_jax.lm.transformer import Transformer, positions_of
from rcsd_jax.types import Array, PromptBatch, Tree

# The logit of a row of the vocabulary that has no token. Finite: inf - inf would be NaN in a difference of two models.
NEVER = -1e30
# A CPU goes through logits many times: for so many at once they stay in its cache.
BLOCK_BYTES = 3 * 2**20


def logits_of(hidden_UD: Array, head_VD: Array, vocab_limit: int) -> Array:
    """Float32 logits_UV; rows of the head from ``vocab_limit`` on belong to no token and get ``NEVER``."""
    assert hidden_UD.dtype == head_VD.dtype, f"{hidden_UD.dtype=} {head_VD.dtype=}"
    # The head stays where it is, and the tokens of a chunk come to it: no device ever has more of it than its part.
    hidden_UD = sharding.constrain(hidden_UD, "few_rows", None)
    logits_UV = jnp.einsum("ud,vd->uv", hidden_UD, head_VD, preferred_element_type=jnp.float32)
    return only_tokens(sharding.constrain(logits_UV, "few_rows", "vocab"), vocab_limit)


def rows_in_cache(rows: int, V: int) -> int:
    """How many of ``rows`` rows of float32 logits to work on at a time: all, but on a CPU those that its cache holds.

    Those are a power of two; where it does not divide the rows, it is all of them.
    """
    size = 1 << max(0, (BLOCK_BYTES // (4 * V)).bit_length() - 1)
    return size if sharding.platform() == "cpu" and size < rows and rows % size == 0 else rows


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
