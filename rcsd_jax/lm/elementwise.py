"""What lies between the products of a layer, worked out in float32, in the backward pass too.

Autodiff of the same in the compute dtype would round after every operation, which costs XLA:CPU most of the time.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from rcsd_jax.types import Array


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x_BTD: Array, scale_D: Array, eps: float) -> Array:
    """Root-mean-square norm over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467), in float32.

    Scaled after the cast back to the dtype of ``x_BTD``, as in Hugging Face. Any number of dimensions before the last.
    """
    return _normed(x_BTD, scale_D, eps)[0]


def _normed(x_BTD: Array, scale_D: Array, eps: float) -> tuple[Array, tuple[Array, Array, Array]]:
    inverse_BT1 = jax.lax.rsqrt(jnp.mean(jnp.square(x_BTD.astype(jnp.float32)), axis=-1, keepdims=True) + eps)
    normed_BTD = (x_BTD.astype(jnp.float32) * inverse_BT1).astype(x_BTD.dtype)
    return normed_BTD * _row(scale_D.astype(x_BTD.dtype), x_BTD.ndim), (x_BTD, scale_D, inverse_BT1)


def _norm_backward(eps: float, residuals: tuple[Array, Array, Array], gradient_BTD: Array) -> tuple[Array, Array]:
    x_BTD, scale_D, inverse_BT1 = residuals
    normed_BTD, gradient_BTD = x_BTD.astype(jnp.float32) * inverse_BT1, gradient_BTD.astype(jnp.float32)
    to_normed_BTD = gradient_BTD * _row(scale_D.astype(jnp.float32), x_BTD.ndim)
    along_BT1 = jnp.mean(to_normed_BTD * normed_BTD, axis=-1, keepdims=True)
    to_x_BTD = (to_normed_BTD - normed_BTD * along_BT1) * inverse_BT1
    to_scale_D = jnp.sum(gradient_BTD * normed_BTD, axis=tuple(range(x_BTD.ndim - 1)))
    return to_x_BTD.astype(x_BTD.dtype), to_scale_D.astype(scale_D.dtype)


def _row(x_D: Array, ndim: int) -> Array:
    return jnp.expand_dims(x_D, tuple(range(ndim - 1)))


rms_norm.defvjp(_normed, _norm_backward)


@jax.custom_vjp
def swiglu(gate_BTF: Array, up_BTF: Array) -> Array:
    """``silu(gate) * up`` (Shazeer 2020, arXiv 2002.05202, eq. 6), in float32, in the dtype of its operands."""
    gate, up = gate_BTF.astype(jnp.float32), up_BTF.astype(jnp.float32)
    return (gate * jax.nn.sigmoid(gate) * up).astype(gate_BTF.dtype)


def _swiglu_backward(residuals: tuple[Array, Array], gradient_BTF: Array) -> tuple[Array, Array]:
    gate, up, gradient = (x.astype(jnp.float32) for x in (*residuals, gradient_BTF))
    open_BTF = jax.nn.sigmoid(gate)
    silu_BTF = gate * open_BTF
    to_gate, to_up = gradient * up * (open_BTF + silu_BTF * (1 - open_BTF)), gradient * silu_BTF
    return to_gate.astype(gradient_BTF.dtype), to_up.astype(gradient_BTF.dtype)


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_backward)
