"""What XLA:CPU has to be told to be fast. On other devices all of it does nothing."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp

from rcsd_jax import sharding
from rcsd_jax.types import Array, Tree


def settled(x: Array) -> Array:
    """The same array, computed once and as a whole, where XLA would work it out anew inside of its users."""
    return jax.lax.optimization_barrier(x) if sharding.platform() == "cpu" else x


def widened(x: Tree) -> Tree:
    """The same in float32: what the steps of a scan leave for its backward pass.

    Of bfloat16, XLA would copy what all steps have left so far, at every step.
    """
    return jax.tree.map(lambda x: x.astype(jnp.float32), x) if sharding.platform() == "cpu" else x


@functools.cache
def has_matrix_unit() -> bool:
    """Whether this processor multiplies bfloat16 in tiles (Intel's AMX); only Linux tells."""
    told = Path("/proc/cpuinfo")
    return told.exists() and "amx_bf16" in told.read_text()
