"""Sums over what counts. Padding never reaches a number."""

from __future__ import annotations

import jax.numpy as jnp

from rcsd_jax.types import Array


def masked_sum(values: Array, weight: Array) -> Array:
    """Sum of ``values * weight``; where the weight is 0 the value is not looked at, so NaN and inf stay out.

    Args:
      values: any shape.
      weight: the same shape, non-negative; booleans count as 0 and 1.
    """
    weight = weight.astype(jnp.float32)
    return jnp.sum(jnp.where(weight > 0, values.astype(jnp.float32), 0.0) * weight)


def safe_divide(total: Array, count: Array) -> Array:
    """``total / count``, and 0 where the count is 0."""
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1.0), 0.0)
