"""Whether what is read back is what was stored: fingerprints of arrays, on whatever mesh, and digests of records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rcsd_jax.types import Array, Tree


def describe(state: Tree) -> dict[str, dict[str, Any]]:
    """Path of every array to its shape, type and fingerprint.

    The fingerprint is a sum over elements of mixed (bits, index), modulo 2^32: it does not depend on the layout over
    devices, and any change of one element changes it.
    """
    leaves = _leaves(state)
    values = jax.device_get(sums(list(leaves.values())))
    return {
        path: {**_shape(leaf), "fingerprint": int(total)}
        for (path, leaf), total in zip(leaves.items(), values, strict=True)
    }


def compare_shapes(described: Mapping[str, Mapping[str, Any]], state: Tree) -> list[str]:
    """Arrays of ``state`` whose path, shape or dtype is another than described, one line each."""
    stored = {path: {"shape": leaf["shape"], "dtype": leaf["dtype"]} for path, leaf in described.items()}
    wanted = {path: _shape(leaf) for path, leaf in _leaves(state).items()}

    def show(leaf: Mapping[str, Any] | None) -> str:
        return f"{leaf['dtype']}{leaf['shape']}" if leaf else "absent"

    return [
        f"array {path} was {show(stored.get(path))}, is {show(wanted.get(path))}"
        for path in sorted(stored.keys() | wanted.keys())
        if stored.get(path) != wanted.get(path)
    ]


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a digest of all that is in it."""
    return record | {"digest": hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """What was sealed.

    Raises:
      ValueError: it is something else now.
    """
    inner = {name: value for name, value in record.items() if name != "digest"}
    if dict(record) != sealed(inner):
        raise ValueError("the record is not what its digest says, or is of an older version, which had none")
    return inner


@jax.jit
def sums(leaves: list[Array]) -> list[Array]:
    """The fingerprint of every array, uint32."""
    return [_fingerprint(leaf) for leaf in leaves]


def _fingerprint(x: Array) -> Array:
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    # The finaliser of MurmurHash3 (Appleby, public domain): a bijection of 32 bits that spreads every bit.
    mixed = bits ^ (index * jnp.uint32(0x9E3779B9))
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _leaves(state: Tree) -> dict[str, Any]:
    paths = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def _shape(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
