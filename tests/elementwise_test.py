"""Claims about norm and gate: the textbook's values and gradients, in bfloat16 but for rounding results once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcsd_jax.lm.elementwise import rms_norm, swiglu

EPS = 1e-5
# Numbers rounded once are off by 0.16% of themselves in bfloat16, as a root mean square.
OFF = {"float32": 1e-6, "bfloat16": 0.002}


def values_and_gradients(function, weight, *arrays):
    out, back = jax.vjp(function, *arrays)
    return [out, *back(weight)]


def assert_textbook(function, textbook, arrays, dtype, off):
    """``off`` is the bound of the value; that of the gradients is ``OFF``."""
    rounded = [x.astype(dtype) for x in (jax.random.normal(jax.random.key(9), arrays[0].shape), *arrays)]
    got = jax.jit(lambda *x: values_and_gradients(function, *x))(*rounded)
    with jax.enable_x64(True):
        expected = values_and_gradients(textbook, *(x.astype("float64") for x in rounded))
    for x, y in zip(got, expected, strict=True):
        assert x.dtype == dtype
        assert np.linalg.norm(np.asarray(x, np.float64) - y) < off * np.linalg.norm(y)
        off = OFF[dtype]


def norm_of_the_paper(x, scale):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPS) * scale[None, None, :]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_norm_and_its_gradients_are_those_of_the_paper(dtype):
    x_BTD, scale_D = jax.random.normal(jax.random.key(0), (2, 5, 48)), 1 + jax.random.normal(jax.random.key(1), (48,))
    # Its value is rounded before the scale as well, as in Hugging Face.
    assert_textbook(
        lambda x, scale: rms_norm(x, scale, EPS), norm_of_the_paper, (x_BTD, scale_D), dtype, off=1.5 * OFF[dtype]
    )


def test_a_scale_keeps_its_own_dtype_under_bfloat16():
    x_BTD, scale_D = jnp.ones((1, 3, 8), "bfloat16"), jnp.ones(8, "float32")
    to_x, to_scale = jax.grad(lambda x, scale: rms_norm(x, scale, EPS).sum().astype("float32"), (0, 1))(x_BTD, scale_D)
    assert (to_x.dtype, to_scale.dtype) == ("bfloat16", "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gate_and_its_gradients_are_those_of_the_paper(dtype):
    gate, up = (4 * jax.random.normal(jax.random.key(i), (2, 5, 48)) for i in (2, 3))
    assert_textbook(swiglu, lambda gate, up: gate / (1 + jnp.exp(-gate)) * up, (gate, up), dtype, off=OFF[dtype])


def test_a_shut_or_wide_open_gate_has_finite_gradients():
    gate, up = jnp.array([-1e4, -100.0, 0.0, 100.0, 1e4]), jnp.full(5, 3.0)
    to_gate, to_up = jax.vjp(swiglu, gate, up)[1](jnp.ones(5))
    np.testing.assert_allclose(to_gate, [0, 0, 1.5, 3, 3], atol=1e-6)
    np.testing.assert_allclose(to_up, [0, 0, 0, 100, 1e4], atol=1e-6)
