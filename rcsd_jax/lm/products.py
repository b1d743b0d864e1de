"""Matrix products with a backward pass of our own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rcsd_jax import sharding
from rcsd_jax.lm import cpu
from rcsd_jax.types import Array

# Up to FEW rows are those of a step of decoding, not of a training batch, and multiply faster on a CPU as the second
# operand; not TOO_FEW in bfloat16 without a matrix unit, which XLA pads to whole registers. (Decoding 8 rows in
# this order took a tenth longer on an EPYC with AVX512-BF16, and half as long on a Xeon with AMX.)
FEW, TOO_FEW = 64, 31


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(spec: str, dtype: str, left: Array, right: Array) -> Array:
    """``jnp.einsum(spec, left, right)``, accumulated and returned in ``dtype``.

    The backward pass is two products of the same kind, and its operands have the dtype of the forward operands.
    Autodiff's would multiply float32 by bfloat16 where ``dtype`` is float32, and permutes the kernel of a projection
    so that XLA:CPU becomes 6 times slower in bfloat16.

    Args:
      spec: as of einsum; every letter of an operand is in the other one or in the result.
      dtype: "float32" or "bfloat16".
      left: both operands have the same dtype.
      right: the other operand.
    """
    if sharding.platform() == "cpu" and right.ndim == 2 and left.size <= FEW * right.shape[1]:
        return _of_few_rows(spec, dtype, left, right)
    return _einsum(spec, dtype, left, right)


def _of_few_rows(spec: str, dtype: str, left: Array, right: Array) -> Array:
    """The product of few rows and a kernel [out, in], in the order that XLA:CPU works out faster."""
    if left.size == right.shape[1]:  # a single row would be 15 times slower than two, in bfloat16
        return _of_few_rows(spec, dtype, jnp.concatenate([left, left]), right)[:1]
    if left.dtype == jnp.float32 or left.size > TOO_FEW * right.shape[1] or cpu.has_matrix_unit():
        return _kernel_first(spec, dtype, left, right)
    return _einsum(spec, dtype, left, right)


def _kernel_first(spec: str, dtype: str, left: Array, right: Array) -> Array:
    (of_left, of_right), of_result = spec.split("->")[0].split(","), spec.split("->")[1]
    out = of_right[0]
    swapped = f"{of_right},{of_left}->{out}{of_result.replace(out, '')}"
    # Behind the barrier, or XLA would make the transposition part of the product and swap its operands back.
    wide = jax.lax.optimization_barrier(jnp.einsum(swapped, right, left, preferred_element_type="float32"))
    return jnp.moveaxis(wide, 0, of_result.index(out)).astype(dtype)


def _einsum(spec: str, dtype: Any, left: Array, right: Array) -> Array:
    # XLA:CPU multiplies bfloat16 as it stands only into float32. Into bfloat16 it would first make float32 copies of
    # both operands, the whole kernel among them: 4 to 7 times slower where rows are few.
    if sharding.platform() != "cpu":
        return jnp.einsum(spec, left, right, preferred_element_type=dtype)
    (of_left, of_right), of_result = spec.split("->")[0].split(","), spec.split("->")[1]
    alone = [i for i in of_left if i in of_right and i in of_result and left.shape[of_left.index(i)] == 1]
    if alone:  # with a batch of one it makes float32 copies all the same, of what was transposed before
        spec = "".join(letter for letter in spec if letter not in alone)
        left = left.squeeze([of_left.index(i) for i in alone])
        right = right.squeeze([of_right.index(i) for i in alone])
    result = jnp.einsum(spec, left, right, preferred_element_type="float32")
    return jnp.expand_dims(result, [of_result.index(i) for i in alone]).astype(dtype)


def _forward(spec: str, dtype: str, left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    # Not `product`: a rematerialisation policy looks for the einsum.
    return _einsum(spec, dtype, left, right), (left, right)


def _backward(spec: str, dtype: str, operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    left, right = operands
    (of_left, of_right), of_result = spec.split("->")[0].split(","), spec.split("->")[1]
    gradient = gradient.astype(left.dtype)
    to_left = _einsum(f"{of_result},{of_right}->{of_left}", left.dtype, gradient, right)
    if right.ndim == 2 and right.shape[0] > right.shape[1] and right.dtype == jnp.float32:
        # XLA:CPU transposes the first operand, and works out inside that copy, element by element, whatever the operand
        # is made of. For a kernel [out, in] that widens, let it be the narrow input, not the gradient of an activation.
        # In bfloat16 it is the transposed gradient of the kernel that costs more.
        swapped = f"{of_left},{of_result}->{of_right[::-1]}"
        return to_left, _einsum(swapped, right.dtype, left, gradient).T
    straight = f"{of_result},{of_left}->{of_right}"
    return to_left, _einsum(straight, right.dtype, gradient, left)


product.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gathered_products(dtype: str, x_BTI: Array, *kernels: Array) -> list[Array]:
    """The products [B, T, out] with several kernels, on one device of a ``shard_map``.

    A device has rows and, of each kernel [out, in], some of ``in``: what others have along the axis "fsdp" is gathered,
    for the backward pass once more, and gradients are scattered back. Nothing whole is kept between the two.
    """
    return _of_gathered(dtype, x_BTI, *kernels)


def _of_gathered(dtype: str, x_BTI: Array, *kernels: Array) -> list[Array]:
    return [_einsum("bti,oi->bto", dtype, x_BTI, kernel_OI) for kernel_OI in _gathered(dtype, kernels)]


def _gathered(dtype: str, kernels: Sequence[Array]) -> list[Array]:
    return [jax.lax.all_gather(kernel.astype(dtype), "fsdp", axis=1, tiled=True) for kernel in kernels]


def _gathered_backward(dtype: str, operands: tuple[Array, ...], gradients: list[Array]) -> tuple[Array, ...]:
    def again(x_BTI: Array, *kernels: Array) -> list[Array]:
        return [product("bti,oi->bto", dtype, x_BTI, kernel_OI) for kernel_OI in _gathered(dtype, kernels)]

    return jax.vjp(again, *operands)[1](gradients)


def _gathered_forward(dtype: str, *operands: Array) -> tuple[list[Array], tuple[Array, ...]]:
    # Not `gathered_products`: a rematerialisation policy looks for the einsums.
    return _of_gathered(dtype, *operands), operands


gathered_products.defvjp(_gathered_forward, _gathered_backward)
