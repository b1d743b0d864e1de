"""Claims about products: the same numbers whatever way they are multiplied on this machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcsd_jax.lm import cpu
from rcsd_jax.lm.products import FEW, TOO_FEW, product


@pytest.mark.parametrize("has_unit", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 2, TOO_FEW + 1, FEW, FEW + 1])
def test_a_projection_is_the_float64_product_rounded_once(rows, dtype, has_unit, monkeypatch):
    monkeypatch.setattr(cpu, "has_matrix_unit", lambda: has_unit)
    rng = np.random.default_rng(rows)
    x_BTI, kernel_OI = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((rows, 1, 24), (40, 24)))
    y_BTO = jax.jit(lambda x, kernel: product("bti,oi->bto", dtype, x, kernel))(x_BTI, kernel_OI)
    assert y_BTO.dtype == dtype
    exact_BTO = np.einsum("bti,oi->bto", np.asarray(x_BTI, np.float64), np.asarray(kernel_OI, np.float64))
    rounding = 2**-8 if dtype == "bfloat16" else 1e-6
    np.testing.assert_allclose(np.asarray(y_BTO, np.float64), exact_BTO, rtol=rounding, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("G", [1, 2])
def test_a_product_with_a_batch_of_one_is_that_of_its_matrices(G, dtype):
    rng = np.random.default_rng(G)
    left, right = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((G, 3, 5, 8), (G, 3, 7, 8)))
    got = jax.jit(lambda x, y: product("gkmh,gkph->gkmp", "float32", x, y))(left, right)
    exact = np.einsum("gkmh,gkph->gkmp", np.asarray(left, np.float64), np.asarray(right, np.float64))
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)
