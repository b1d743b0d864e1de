"""Attention by kernels that never write the scores to memory: splash (Pallas, TPUs) and cuDNN's (NVIDIA GPUs).

Both are causal and take and give what ``attend`` does. Of a shared prefix they repeat keys and values for the rows that
share it. A flash kernel reads its keys again for every block of queries wherever they lie, so one copy would save
memory, but no traffic; and one long row [prompt | completion 1 | ... | completion n] under a structural mask would have
a grid of which, in the pass for keys, all but about one part in n is empty steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as pallas_splash

from rcsd_jax import sharding
from rcsd_jax.types import Array

Prefix = tuple[Array, Array, Array]  # k_GPKH, v_GPKH, valid_GP

# How a rematerialisation policy knows what attention's backward pass needs of its forward pass: by this name, or, since
# jax gives cuDNN's results none, by the primitive that makes them.
ATTENDED = "attended"
CUDNN_FORWARD = "dot_product_attention_fwd_wrapper"
# Splash works on so many queries times so many keys at once, the largest of these that divides all lengths; smaller
# ones leave the matrix unit idle.
BLOCKS = (512, 256, 128)
# cuDNN's backward pass has given NaN at lengths that are not whole tiles (pytorch issue 196678).
TILE = 128
# What cuDNN computes with a repeated prefix, over what is needed: a kernel is worth so much, by the arithmetic of an
# H200. A pair of query and key costs 4H = 512 operations, 1 ps at half of the peak; without a kernel at least 20 bytes
# of scores are written and read for it, 4 ps.
MOST_REPEATED = 4.0


class Sizes(NamedTuple):
    """What an attention is called with: rows of ``length`` after a prefix of ``prefix`` that B // G rows share."""

    rows: int
    questions: int
    prefix: int
    length: int
    heads: int
    kv_heads: int
    head_width: int
    dtype: str
    is_packed: bool

    @property
    def repeated(self) -> float:
        """Pairs of query and key of whole rows [prefix | own], over those that are needed."""
        total = (self.prefix + self.length) ** 2
        return total / (total - self.prefix**2)


def why_not_splash(platform: str, sizes: Sizes) -> str | None:
    """What is in the way of :func:`splash`, or None."""
    if platform != "tpu":
        return f"splash runs on TPUs, and this is compiled for {platform}"
    if _block(sizes.prefix, sizes.length) is None:
        return (
            f"splash needs lengths that are multiples of {BLOCKS[-1]}, here {sizes.length} after a prefix of "
            f"{sizes.prefix}"
        )
    return _why_not_divided(sizes)


def why_not_cudnn(platform: str, sizes: Sizes, capability: float) -> str | None:
    """What is in the way of :func:`cudnn`, or None; ``capability`` is that of the GPU, as NVIDIA counts."""
    if platform != "gpu" or capability < 8.0:
        return f"cudnn's attention runs on NVIDIA GPUs from Ampere on, and this is compiled for {platform}"
    if sizes.dtype != "bfloat16":
        return f"cudnn's attention has no {sizes.dtype}: make config.model.compute.dtype 'bfloat16'"
    if sizes.is_packed:
        return "several examples in a row need a mask as an array, with which cuDNN's gradients have been NaN"
    if sizes.head_width % 8 or sizes.head_width > (256 if capability >= 9.0 else 128):
        return f"cudnn's attention takes heads of multiples of 8 up to 128 (Hopper: 256), not of {sizes.head_width}"
    if (sizes.prefix + sizes.length) % TILE:
        return f"cudnn's attention is used for multiples of {TILE}, here {sizes.prefix} + {sizes.length}"
    return _why_not_divided(sizes)


def _why_not_divided(sizes: Sizes) -> str | None:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    parts, tensor = sharding.row_parts(mesh), mesh.shape["tensor"]
    if sizes.rows % parts or sizes.questions % parts or sizes.kv_heads % tensor:
        return (
            f"the mesh {dict(mesh.shape)} does not divide {sizes.rows} rows of {sizes.questions} questions and "
            f"{sizes.kv_heads} key heads"
        )
    return None


def splash(
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    segments_BT: Array,
    prefix: Prefix | None = None,
    *,
    interpret: bool = False,
) -> Array:
    """``attend`` by jax's splash kernels: blocks of queries and keys that no query sees are never computed.

    With a prefix the segments are booleans. In bfloat16 the queries are rounded once more, after they are scaled.
    ``interpret`` runs the same kernels anywhere, slowly.
    """
    P = 0 if prefix is None else prefix[0].shape[1]
    block = _block(P, q_BTNH.shape[1])
    assert block is not None, f"{P=} {q_BTNH.shape=}"

    def local(q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, segments_BT: Array, *prefix: Array) -> Array:
        (B, T, N, H), segments_BT = q_BTNH.shape, segments_BT.astype(jnp.int32)
        k_BSKH, v_BSKH, key_segments_BS = _after(prefix, k_BTKH, v_BTKH, segments_BT)
        kernel = _splash_kernel(T, k_BSKH.shape[1], N, block, interpret)
        q_BNTH, k_BKSH, v_BKSH = (x.swapaxes(1, 2) for x in (q_BTNH * H**-0.5, k_BSKH, v_BSKH))
        with jax.named_scope(scope(2.0 * B * N * H * (T * P + T * (T + block) / 2))):
            attended_BNTH = jax.vmap(kernel)(
                q_BNTH, k_BKSH, v_BKSH, pallas_splash.SegmentIds(segments_BT, key_segments_BS)
            )
        return attended_BNTH.swapaxes(1, 2)

    return _on_devices(local, q_BTNH, k_BTKH, v_BTKH, segments_BT, prefix)


def cudnn(
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    valid_BT: Array,
    prefix: Prefix | None = None,
    *,
    implementation: Any = "cudnn",
) -> Array:
    """``attend`` by ``jax.nn.dot_product_attention``, for rows whose valid tokens are neighbours; 0 for the others.

    Rows are rolled until their valid tokens come first: then causal order and a length say what a query sees, and no
    mask is stored. Its queries and keys are the same columns, so with a prefix it computes that part too, for every
    row anew, of queries that are 0. The kernel has not been run in this repository, only its surroundings have, with
    ``implementation="xla"``.
    """
    P = 0 if prefix is None else prefix[0].shape[1]

    def local(q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, valid_BT: Array, *prefix: Array) -> Array:
        k_BSKH, v_BSKH, valid_BS = _after(prefix, k_BTKH, v_BTKH, valid_BT)
        q_BSNH = jnp.pad(q_BTNH, ((0, 0), (P, 0), (0, 0), (0, 0)))
        (B, S, N, H), first_B = q_BSNH.shape, jnp.argmax(valid_BS, axis=1)
        length_B = jnp.maximum(1, jnp.sum(valid_BS, axis=1, dtype=jnp.int32))
        rolled = [_roll(x, first_B) for x in (q_BSNH, k_BSKH, v_BSKH)]
        with jax.named_scope(scope(2.0 * B * N * H * S * S / 2)):
            attended_BSNH = jax.nn.dot_product_attention(
                *rolled,
                is_causal=True,
                query_seq_lengths=length_B,
                key_value_seq_lengths=length_B,
                implementation=implementation,
            )
        # What a kernel leaves beyond the length is not said anywhere.
        return jnp.where(valid_BT[:, :, None, None], _roll(attended_BSNH, -first_B)[:, P:], 0)

    return _on_devices(local, q_BTNH, k_BTKH, v_BTKH, valid_BT, prefix)


def scope(flops: float) -> str:
    """A name that tells what no compiler sees in a kernel: operations of one of its matrix products, on one device."""
    return f"product_of_{flops:.0f}"


def _block(*lengths: int) -> int | None:
    return next((block for block in BLOCKS if not any(length % block for length in lengths)), None)


def _splash_kernel(queries: int, keys: int, heads: int, block: int, interpret: bool) -> Callable[..., Any]:
    """The kernel of one row, of the last ``queries`` of so many columns."""
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes: dict[str, Any] = {f"block_{name}": block for name in names}
    return pallas_splash.make_splash_mha(
        pallas_splash.MultiHeadMask([_mask(queries, keys)] * heads),
        block_sizes=pallas_splash.BlockSizes(**sizes),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )


@functools.cache  # jax's own caches know a kernel by the function of its mask
def _mask(queries: int, keys: int) -> pallas_splash.Mask:
    return pallas_splash.CausalMask((queries, keys), offset=keys - queries)


def _after(prefix: tuple[Array, ...], k_BTKH: Array, v_BTKH: Array, valid_BT: Array) -> tuple[Array, Array, Array]:
    """Keys, values and what is valid of them, of every row, behind the prefix that it shares with others."""
    if not prefix:
        return k_BTKH, v_BTKH, valid_BT
    own, each = (k_BTKH, v_BTKH, valid_BT), k_BTKH.shape[0] // prefix[0].shape[0]
    k, v, valid = (
        jnp.concatenate([jnp.repeat(x.astype(y.dtype), each, axis=0), y], axis=1)
        for x, y in zip(prefix, own, strict=True)
    )
    return k, v, valid


@jax.custom_vjp
def _roll(x_BTNH: Array, by_B: Array) -> Array:
    """Every row moved to the left; the gradient moves back, where autodiff would scatter."""
    column_BT = (jnp.arange(x_BTNH.shape[1])[None, :] + by_B[:, None]) % x_BTNH.shape[1]
    return jnp.take_along_axis(x_BTNH, column_BT[:, :, None, None], axis=1)


_roll.defvjp(lambda x, by_B: (_roll(x, by_B), by_B), lambda by_B, gradient: (_roll(gradient, -by_B), None))


def _on_devices(
    local: Callable[..., Array], q: Array, k: Array, v: Array, segments: Array, prefix: Prefix | None
) -> Array:
    """Each device takes its rows and heads: a compiler cannot cut up a kernel."""
    arrays = (q, k, v, segments, *(prefix or ()))
    if jax.sharding.get_abstract_mesh().empty:
        return local(*arrays)
    rows, queries, keys = ("batch", "length"), ("batch", "length", "heads", None), ("batch", "length", "kv_heads", None)
    axes = (queries, keys, keys, rows, *((keys, keys, rows) if prefix else ()))
    in_specs = tuple(sharding.spec(x) for x in axes)
    return jax.shard_map(local, in_specs=in_specs, out_specs=sharding.spec(queries), check_vma=False)(*arrays)
