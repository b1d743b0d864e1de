"""The kinds of weights: every array is declared once, with its shape, logical axes and initialiser."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rcsd_jax import sharding
from rcsd_jax.lm.architecture import Compute, LoraConfig
from rcsd_jax.lm.elementwise import rms_norm
from rcsd_jax.lm.products import gathered_products, product
from rcsd_jax.types import Array

# As of torch.nn.Linear and peft: uniform in +-1 / sqrt(in).
HE_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)


def _declared(initialiser: Any, axes: tuple[str | None, ...]) -> Any:
    """The initialiser, with the logical axes of its array attached."""
    return nn.with_logical_partitioning(initialiser, axes)


class Linear(nn.Module):
    """A projection whose kernel has torch's layout [out, in], and its adapter if the "lora" collection is there.

    A fresh kernel keeps the variance of its input, times ``gain`` squared.
    """

    shape: tuple[int, int]
    axes: tuple[str, str]
    compute: Compute
    lora: LoraConfig | None
    bias: bool = False
    gain: float = 1.0

    def setup(self) -> None:
        """Declares kernel, bias and adapter."""
        (out, into), (out_axis, in_axis) = self.shape, self.axes
        dtype = self.compute.param_dtype
        initialiser = nn.initializers.normal(self.gain / math.sqrt(into))
        self.kernel = self.param("kernel", _declared(initialiser, self.axes), self.shape, dtype)
        if self.bias:
            self.offset = self.param("bias", _declared(nn.initializers.zeros, (out_axis,)), (out,), dtype)
        self.is_adapted = self.lora is not None and (self.is_initializing() or self.has_variable("lora", "a"))
        if self.lora is not None and self.is_adapted:
            self.a = self._adapter("a", HE_UNIFORM, ("rank", in_axis), (self.lora.rank, into))
            self.b = self._adapter("b", nn.initializers.zeros, (out_axis, "rank"), (out, self.lora.rank))

    def __call__(self, x_BTI: Array) -> Array:
        """[B, T, in] to [B, T, out]."""
        return self.completed(x_BTI, self._times(x_BTI, self.kernel))

    def completed(self, x_BTI: Array, y_BTO: Array) -> Array:
        """The projection, from the product with the kernel alone."""
        if self.bias:
            y_BTO = y_BTO + self.offset.astype(y_BTO.dtype)[None, None, :]
        if self.lora is not None and self.is_adapted:
            y_BTO = y_BTO + self._times(self._times(x_BTI, self.a), self.b) * self.lora.scale
        return y_BTO

    def _times(self, x_BTI: Array, kernel_OI: Array) -> Array:
        return product("bti,oi->bto", self.compute.dtype, x_BTI, kernel_OI.astype(self.compute.dtype))

    def _adapter(self, name: str, initialiser: Any, axes: tuple[str, str], shape: tuple[int, int]) -> Array:
        make = _declared(initialiser, axes)
        return self.variable("lora", name, lambda: make(self.make_rng("lora"), shape, jnp.float32)).value


def project(x_BTI: Array, *linears: Linear) -> list[Array]:
    """Every projection of the same input, each [B, T, out].

    Where the kernels are cut over the axis "tensor", the gradients by the input are summed over devices once; left to
    itself the compiler does it for every kernel.
    """
    rows = sharding.spec(("batch", "length", None))
    if sharding.axis_size("tensor") == 1 or len(x_BTI) % sharding.axis_size(*rows[0]):
        return [linear(x_BTI) for linear in linears]
    products = jax.shard_map(
        functools.partial(gathered_products, linears[0].compute.dtype),
        in_specs=(rows, *(sharding.spec(linear.axes) for linear in linears)),
        out_specs=[sharding.spec(("batch", "length", linear.axes[0])) for linear in linears],
        check_vma=False,
    )(x_BTI, *(linear.kernel for linear in linears))
    return [linear.completed(x_BTI, y_BTO) for linear, y_BTO in zip(linears, products, strict=True)]


class Norm(nn.Module):
    """Root-mean-square norm over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467), in float32."""

    width: int
    eps: float
    compute: Compute

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The same shape; scaled after the cast, as in Hugging Face."""
        scale = self.param("scale", _declared(nn.initializers.ones, (None,)), (self.width,), self.compute.param_dtype)
        return rms_norm(x.astype(self.compute.dtype), scale, self.eps)


class Table(nn.Module):
    """A [V, D] matrix called ``leaf``: the embedding, or a head of its own."""

    leaf: str
    shape: tuple[int, int]
    compute: Compute

    @nn.compact
    def __call__(self) -> Array:
        """The matrix, as stored."""
        initialiser = _declared(nn.initializers.normal(1 / math.sqrt(self.shape[1])), ("vocab", "table_width"))
        return self.param(self.leaf, initialiser, self.shape, self.compute.param_dtype)
