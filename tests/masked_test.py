"""Padding never reaches a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcsd_jax.masked import masked_sum, safe_divide


@pytest.mark.parametrize("hidden", [0.0, 1e30, np.nan, np.inf, -np.inf])
def test_what_does_not_count_changes_neither_value_nor_gradient(hidden):
    values, weight = jnp.array([1.0, hidden, 3.0]), jnp.array([1.0, 0.0, 0.5])
    assert masked_sum(values, weight) == 2.5
    gradient = jax.grad(lambda x: masked_sum(jnp.where(weight > 0, x, hidden) ** 2, weight))(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(gradient, [2, 0, 3])


def test_booleans_count_as_0_and_1_and_any_shape_will_do():
    values, weight = jnp.arange(6, dtype=jnp.int32).reshape(2, 3), jnp.array([[True, False, True], [False, True, True]])
    assert masked_sum(values, weight) == 0 + 2 + 4 + 5


def test_where_nothing_counts_a_mean_is_0_and_has_a_gradient():
    assert safe_divide(jnp.float32(5), jnp.float32(0)) == 0
    gradients = jax.grad(safe_divide, argnums=(0, 1))(jnp.float32(5), jnp.float32(0))
    np.testing.assert_array_equal(gradients, np.zeros(2))


def test_bfloat16_is_summed_in_float32():
    ones = jnp.ones(1000, jnp.bfloat16)  # in bfloat16 the sum would stop at 256
    assert masked_sum(ones, ones) == 1000
    assert masked_sum(ones, ones).dtype == jnp.float32
