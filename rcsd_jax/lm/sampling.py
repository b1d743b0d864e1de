"""From logits to a token: the filters, the noise, the draw.

The filters come in the order of Hugging Face transformers (5.23, ``GenerationMixin._get_logits_processor``):
temperature, top-k, top-p, min-p, each on what the one before it left. Nothing sorts the vocabulary. Where tokens are
equally likely, the one with the smaller id comes first.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rcsd_jax.types import Array

# The inner width of the two-level draw: the lane width of a TPU, and a divisor of most published vocabularies.
BLOCK = 128


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn.

    ``temperature`` divides the logits; 0 is greedy, whatever the filters say. ``top_k`` keeps the k likeliest tokens
    (0: all). ``top_p`` keeps the fewest likeliest tokens whose mass reaches it (1: all), so the token that crosses
    the threshold stays. ``min_p`` keeps tokens at least that likely as the likeliest one, times it (0: all).
    ``max_new_tokens`` is C, the room for a completion with its EOS token.

    Raises:
      ValueError: a value outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 128

    def __post_init__(self):
        ranges = {
            "temperature": (self.temperature == 0 or 1e-4 <= self.temperature <= 1e4, "0 (greedy) or in 1e-4 .. 1e4"),
            "top_k": (self.top_k >= 0 and int(self.top_k) == self.top_k, "a whole number, 0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1], 1 is off"),
            "min_p": (0 <= self.min_p <= 1, "in [0, 1], 0 is off"),
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
        }
        for name, (good, cure) in ranges.items():
            if not good:
                raise ValueError(f"sampling.{name} is {getattr(self, name)!r}: it must be {cure}")


def row_noise(key: Array, question_B: Array, sample_B: Array, length: int) -> Array:
    """The uniform numbers in [0, 1) that choose the tokens of each row.

    The number of token ``t`` is a function of (key, question id, sample index, t) and of nothing else: not of the
    row, the batch, the samples beside it, ``length`` or the mesh. So a question gets the same completion wherever it is
    sampled, as long as the logits agree to rounding.

    Returns:
      uniform_BC float32, C = ``length``.
    """

    def row(question, sample):
        row_key = jax.random.fold_in(jax.random.fold_in(key, question), sample)
        return jax.vmap(lambda t: jax.random.uniform(jax.random.fold_in(row_key, t)))(jnp.arange(length))

    return jax.vmap(row)(question_B, sample_B)


def draw(logits_BV: Array, uniform_B: Array, sampling: SamplingConfig) -> tuple[Array, Array]:
    """Draws one token a row.

    Args:
      logits_BV: float32; far below all others on what has no token.
      uniform_B: in [0, 1); unused when greedy.
      sampling: temperature and filters.

    Returns:
      token_B int32, and its log-probability under the distribution it was drawn from (greedy: 0).
    """
    if sampling.temperature == 0:
        token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        return token_B, jnp.zeros(token_B.shape, jnp.float32)
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        logits_BV, token_BV = jax.lax.top_k(logits_BV, sampling.top_k)
        weight_BV = _weights(logits_BV, sampling, nucleus_of_descending)
        index_B = inverse_cdf(weight_BV, uniform_B)
        return _at(token_BV, index_B), _logp(weight_BV, index_B)
    weight_BV = _weights(logits_BV, sampling, nucleus)
    index_B = inverse_cdf(weight_BV, uniform_B)
    return index_B, _logp(weight_BV, index_B)


def nucleus(weight_BV: Array, top_p: float) -> Array:
    """The weights of the smallest likeliest set with ``top_p`` of each row's mass, and 0 elsewhere.

    No sort: the least weight that is kept is found by halving the interval of its float32 bits, whose order is that of
    the weights. After 30 halvings one value is left, so the set is exact (the mass is a float32 sum).

    Args:
      weight_BV: float32 in [0, 1], not normalised.
      top_p: in (0, 1).
    """
    wanted_B = top_p * jnp.sum(weight_BV, axis=-1)
    bits_BV = jax.lax.bitcast_convert_type(weight_BV, jnp.int32)

    def halve(_, interval):
        low_B, high_B = interval  # keeping all from `low` up is enough; all from above `high` is not
        middle_B = low_B + (high_B - low_B + 1) // 2
        mass_B = jnp.sum(jnp.where(bits_BV >= middle_B[:, None], weight_BV, 0.0), axis=-1)
        enough_B = mass_B >= wanted_B
        return jnp.where(enough_B, middle_B, low_B), jnp.where(enough_B, high_B, middle_B - 1)

    low_B = jnp.zeros_like(wanted_B, jnp.int32)
    high_B = jnp.full_like(low_B, jax.lax.bitcast_convert_type(jnp.float32(1), jnp.int32))
    least_B, _ = jax.lax.fori_loop(0, 30, halve, (low_B, high_B))

    # Of the tokens that weigh exactly the least, only as many as the mass still lacks.
    above_BV, tied_BV = bits_BV > least_B[:, None], bits_BV == least_B[:, None]
    lacking_B = wanted_B - jnp.sum(jnp.where(above_BV, weight_BV, 0.0), axis=-1)
    needed_B = jnp.ceil(lacking_B / jax.lax.bitcast_convert_type(least_B, jnp.float32))
    kept_BV = above_BV | (tied_BV & (jnp.cumsum(tied_BV, axis=-1) <= needed_B[:, None]))
    return jnp.where(kept_BV, weight_BV, 0.0)


def nucleus_of_descending(weight_BV: Array, top_p: float) -> Array:
    """The same as :func:`nucleus`, for weights that already descend."""
    before_BV = jnp.cumsum(weight_BV, axis=-1) - weight_BV
    return jnp.where(before_BV < top_p * jnp.sum(weight_BV, axis=-1, keepdims=True), weight_BV, 0.0)


def inverse_cdf(weight_BV: Array, uniform_B: Array) -> Array:
    """Draws an index in proportion to its weight; what weighs 0 is never drawn.

    Exact up to float32 rounding of the cumulated mass (about 1e-7). One number a row decides, and only a block of
    ``BLOCK`` weights is cumulated one by one, which makes it far cheaper than a Gumbel number for every token.

    Args:
      weight_BV: non-negative float32, not normalised, at least one of a row positive.
      uniform_B: in [0, 1).
    """
    rows, size = weight_BV.shape
    blocks = -(-size // BLOCK)
    weight_BXY = jnp.pad(weight_BV, ((0, 0), (0, blocks * BLOCK - size))).reshape(rows, blocks, BLOCK)
    mass_BX = jnp.sum(weight_BXY, axis=-1)
    block_B, rest_B = _first_to_reach(mass_BX, uniform_B * jnp.sum(mass_BX, axis=-1))
    weight_BY = jnp.take_along_axis(weight_BXY, block_B[:, None, None], axis=1)[:, 0]
    index_B, _ = _first_to_reach(weight_BY, rest_B)
    return block_B * BLOCK + index_B


def _first_to_reach(weight_BX: Array, target_B: Array) -> tuple[Array, Array]:
    """The first positive weight at which the running sum reaches the target, and what the target asks of it."""
    reached_BX = jnp.cumsum(weight_BX, axis=-1)
    # Rounding may leave the last sum below the target, and a parallel sum may rise at a weight of 0: so take the
    # positive weight that misses the target least, the first one of those that do not miss it.
    missed_BX = jnp.maximum(target_B[:, None] - reached_BX, 0.0)
    index_B = jnp.argmin(jnp.where(weight_BX > 0, missed_BX, jnp.inf), axis=-1).astype(jnp.int32)
    return index_B, target_B - (_at(reached_BX, index_B) - _at(weight_BX, index_B))


def _weights(logits_BV: Array, sampling: SamplingConfig, nucleus_of) -> Array:
    """Probabilities up to a factor a row, the likeliest being 1, and 0 on what the filters drop."""
    # The maximum goes first: at a small temperature the quotient would overflow.
    weight_BV = jnp.exp((logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)) / sampling.temperature)
    if sampling.top_p < 1:
        weight_BV = nucleus_of(weight_BV, sampling.top_p)
    return jnp.where(weight_BV >= sampling.min_p, weight_BV, 0.0)


def _logp(weight_BV: Array, index_B: Array) -> Array:
    return jnp.log(_at(weight_BV, index_B)) - jnp.log(jnp.sum(weight_BV, axis=-1))


def _at(values_BX: Array, index_B: Array) -> Array:
    return jnp.take_along_axis(values_BX, index_B[:, None], axis=-1)[:, 0]
