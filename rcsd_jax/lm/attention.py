"""Rotary positions and attention: grouped queries, segments, an optional shared prefix; and who computes it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rcsd_jax import sharding
from rcsd_jax.lm import kernels
from rcsd_jax.lm.architecture import Architecture
from rcsd_jax.lm.products import product
from rcsd_jax.types import Array

# Queries are taken in chunks, so that a chunk can leave out the keys after it. Chunks of 64 were fastest on CPU; an
# accelerator wants larger matrices. The chunks are unrolled, so there are never more than 16 of them: compiling costs
# more with every one.
QUERY_CHUNK, QUERY_CHUNK_OF_ACCELERATORS, MOST_CHUNKS = 64, 512, 16
# Finite, so that a row that sees nothing (padding) becomes a plain mean and not NaN.
UNSEEN = -1e30


def rope_frequencies(architecture: Architecture) -> np.ndarray:
    """Radians per position of each pair of coordinates: float32 [H/2].

    Su et al. 2021 (arXiv 2104.09864); with ``rope_scaling`` the piecewise stretch of Llama 3.1, as in transformers'
    ``modeling_rope_utils``.
    """
    width = architecture.head_width
    frequency = architecture.rope_theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    scaling = architecture.rope_scaling
    if scaling is not None:
        turns = scaling.original_max_positions * frequency / (2 * np.pi)  # in the context of pretraining
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        frequency = frequency * (kept + (1 - kept) / scaling.factor)
    return frequency.astype(np.float32)


class Rotation(NamedTuple):
    """Cosines and sines of the angles at each position, for each pair of coordinates; float32."""

    cos_BT1F: Array
    sin_BT1F: Array


def rotation_of(positions_BT: Array, architecture: Architecture) -> Rotation:
    """What ``rotate`` needs, the same in all layers; F is H/2."""
    frequency_111F = rope_frequencies(architecture)[None, None, None, :]
    angle_BT1F = positions_BT[:, :, None, None].astype(jnp.float32) * frequency_111F
    return Rotation(jnp.cos(angle_BT1F), jnp.sin(angle_BT1F))


def rotate(x_BTNH: Array, rotation: Rotation) -> Array:
    """Rotary embedding in the half-split layout of Hugging Face: coordinate i pairs with i + H/2."""
    cos, sin = rotation
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTNH.dtype)


def attention(
    wanted: str,
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    segments_BT: Array,
    prefix: kernels.Prefix | None = None,
) -> Array:
    """Causal ``attend`` by what suits the device and the shapes, see :func:`choose`.

    Segments that are booleans say which tokens are valid: one run of neighbours in every row. With a prefix they are.
    """
    (B, T, N, H), (_, _, K, _) = q_BTNH.shape, k_BTKH.shape
    is_packed = segments_BT.dtype != bool
    assert prefix is None or not is_packed, f"{segments_BT.dtype=}"
    G, P = (B, 0) if prefix is None else prefix[0].shape[:2]
    sizes = kernels.Sizes(B, G, P, T, N, K, H, q_BTNH.dtype.name, is_packed)
    function = {"plain": attend, "splash": kernels.splash, "cudnn": kernels.cudnn}[
        choose(wanted, sharding.platform(), sizes, _capability())
    ]
    return function(q_BTNH, k_BTKH, v_BTKH, segments_BT, prefix=prefix)


def choose(wanted: str, platform: str, sizes: kernels.Sizes, capability: float = 0.0) -> str:
    """Who computes an attention: "plain", "splash" or "cudnn".

    "auto" takes the kernel of the platform where it can do it, and "plain" elsewhere; also on a GPU where a prefix is
    so long that computing it for every row costs more than the kernel gains.

    Args:
      wanted: ``Compute.attention``.
      platform: "cpu", "gpu" or "tpu", see ``sharding.platform``.
      sizes: what it is called with.
      capability: the compute capability of the GPU; 0 elsewhere.

    Raises:
      ValueError: a kernel is wanted by name that cannot do this.
    """
    name = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "plain") if wanted == "auto" else wanted
    if name == "plain" or (wanted == "auto" and name == "cudnn" and sizes.repeated > kernels.MOST_REPEATED):
        return "plain"
    if name == "splash":
        obstacle = kernels.why_not_splash(platform, sizes)
    else:
        obstacle = kernels.why_not_cudnn(platform, sizes, capability)
    if obstacle is None:
        return name
    if wanted == "auto":
        return "plain"
    raise ValueError(
        f"config.model.compute.attention is {wanted!r}: {obstacle}; give 'auto', which then takes 'plain', or lengths "
        "and a mesh that fit"
    )


def _capability() -> float:
    """The compute capability of the NVIDIA GPU here, 0 if there is none."""
    if jax.default_backend() != "gpu":
        return 0.0
    version = str(getattr(jax.local_devices()[0], "compute_capability", ""))  # "9.0"; of an AMD GPU "gfx942"
    return float(version) if version.replace(".", "").isdigit() else 0.0


def attend(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    segments_BT: Array,
    key_segments_BS: Array | None = None,
    *,
    causal: bool = True,
    prefix: tuple[Array, Array, Array] | None = None,
) -> Array:
    """Scaled dot-product attention with grouped queries; softmax in float32.

    A query sees the keys of its own non-zero segment and, if ``causal``, only those at its own column or before.
    Booleans do as segments where there is only one.

    Args:
      q_BTNH: queries; N is a multiple of K.
      k_BSKH: keys; S equals T if ``causal``.
      v_BSKH: values.
      segments_BT: segments of the queries; 0 is padding.
      key_segments_BS: segments of the keys; those of the queries if None.
      causal: queries and keys are the same columns. False where the keys are a cache that is all in the past.
      prefix: (k_GPKH, v_GPKH, valid_GP), keys before all others that B // G neighbouring rows share. Every query
        with a segment sees all valid ones. They are read once per question and never repeated.

    Returns:
      [B, T, N, H] in the dtype of the queries; finite, but meaningless, for queries that see nothing.
    """
    key_segments_BS = segments_BT if key_segments_BS is None else key_segments_BS
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    assert N % K == 0 and (not causal or k_BSKH.shape[1] == T), f"{q_BTNH.shape=} {k_BSKH.shape=} {causal=}"
    assert prefix is None or B % prefix[0].shape[0] == 0, f"{q_BTNH.shape=} {prefix[0].shape=}"
    q_BKRTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    if prefix is not None:
        prefix = (prefix[0].swapaxes(1, 2), prefix[1].swapaxes(1, 2), prefix[2])
    least = QUERY_CHUNK if sharding.platform() == "cpu" else QUERY_CHUNK_OF_ACCELERATORS
    chunk = max(least, -(-T // MOST_CHUNKS)) if causal else T
    # With several chunks the backward pass forms each chunk's probabilities again, so they are never all in memory.
    one_chunk = jax.checkpoint(_attend_chunk, static_argnums=(6,)) if chunk < T else _attend_chunk
    parts = []
    for start in range(0, T, chunk):
        rows, keys = slice(start, start + chunk), slice(0, start + chunk) if causal else slice(None)
        q, k, v = q_BKRTH[:, :, :, rows], k_BKSH[:, :, keys], v_BKSH[:, :, keys]
        parts.append(
            one_chunk(q, k, v, segments_BT[:, rows], key_segments_BS[:, keys], prefix, start if causal else None)
        )
    out_BKRTH = jnp.concatenate(parts, axis=3) if len(parts) > 1 else parts[0]
    return out_BKRTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _attend_chunk(
    q_BKRTH: Array,
    k_BKSH: Array,
    v_BKSH: Array,
    segments_BT: Array,
    key_segments_BS: Array,
    prefix: tuple[Array, Array, Array] | None,
    offset: int | None,
) -> Array:
    """One softmax over the prefix and the own keys; ``offset`` is the column of the first query (None: not causal)."""
    T, H, S = *q_BKRTH.shape[-2:], k_BKSH.shape[2]
    seen_BTS = (segments_BT[:, :, None] == key_segments_BS[:, None, :]) & (key_segments_BS[:, None, :] != 0)
    if offset is not None:
        seen_BTS &= (jnp.arange(S)[None, :] <= offset + jnp.arange(T)[:, None])[None]
    scores_BKRTS = product("bkrth,bksh->bkrts", "float32", q_BKRTH, k_BKSH) * H**-0.5
    scores_BKRTS = jnp.where(seen_BTS[:, None, None], scores_BKRTS, UNSEEN)
    highest_BKRT1 = jnp.max(scores_BKRTS, axis=-1, keepdims=True)
    if prefix is None:
        total_BKRT1, out_BKRTH = _weigh("bkrts,bksh->bkrth", scores_BKRTS, highest_BKRT1, v_BKSH)
        return (out_BKRTH / total_BKRT1).astype(q_BKRTH.dtype)

    k_GKPH, v_GKPH, valid_GP = prefix
    G, rows = valid_GP.shape[0], q_BKRTH.shape[:-1]
    scores_GKMP = product("gkmh,gkph->gkmp", "float32", _by_question(q_BKRTH, G), k_GKPH) * H**-0.5
    scores_GKMP = jnp.where(valid_GP[:, None, None, :] != 0, scores_GKMP, UNSEEN)
    highest_BKRT1 = jnp.maximum(highest_BKRT1, _by_row(jnp.max(scores_GKMP, axis=-1, keepdims=True), rows))
    total_BKRT1, out_BKRTH = _weigh("bkrts,bksh->bkrth", scores_BKRTS, highest_BKRT1, v_BKSH)
    total_GKM1, out_GKMH = _weigh("gkmp,gkph->gkmh", scores_GKMP, _by_question(highest_BKRT1, G), v_GKPH)
    total_BKRT1, out_BKRTH = total_BKRT1 + _by_row(total_GKM1, rows), out_BKRTH + _by_row(out_GKMH, rows)
    return (out_BKRTH / total_BKRT1).astype(q_BKRTH.dtype)


def _weigh(spec: str, scores: Array, highest: Array, values: Array) -> tuple[Array, Array]:
    """A softmax before its division: sum of exp(scores - highest), and the values weighed with it."""
    weights = jnp.exp(scores - jax.lax.stop_gradient(highest))
    return jnp.sum(weights, axis=-1, keepdims=True), product(spec, "float32", weights.astype(values.dtype), values)


def _by_question(x_BKRTX: Array, G: int) -> Array:
    """[G, K, M, X]: the M = B // G * R * T queries of one question and one key head are the rows of one matrix."""
    B, K, R, T, X = x_BKRTX.shape
    return x_BKRTX.reshape(G, B // G, K, R * T, X).swapaxes(1, 2).reshape(G, K, -1, X)


def _by_row(x_GKMX: Array, rows: tuple[int, ...]) -> Array:
    """[B, K, R, T, X] again; ``rows`` is (B, K, R, T)."""
    (B, K, R, T), (G, _, _, X) = rows, x_GKMX.shape
    return x_GKMX.reshape(G, K, B // G, R * T, X).swapaxes(1, 2).reshape(B, K, R, T, X)
