"""Rotary positions, and who computes an attention."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rcsd_jax import sharding
from rcsd_jax.lm import kernels
from rcsd_jax.lm.architecture import Architecture
from rcsd_jax.lm.plain_attention import attend
from rcsd_jax.types import Array


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


def attention_kept(primitive: Any, *operands: Any, **parameters: Any) -> bool:
    """The policy, for ``jax.checkpoint``, that keeps attention's results, whoever computes it, and nothing else.

    Of cuDNN they have columns for the prefix too, as the kernel does.
    """
    return primitive.name == kernels.CUDNN_FORWARD or _is_named(primitive, *operands, **parameters)


_is_named = jax.checkpoint_policies.save_only_these_names(kernels.ATTENDED)


def _capability() -> float:
    """The compute capability of the NVIDIA GPU here, 0 if there is none."""
    if jax.default_backend() != "gpu":
        return 0.0
    version = str(getattr(jax.local_devices()[0], "compute_capability", ""))  # "9.0"; of an AMD GPU "gfx942"
    return float(version) if version.replace(".", "").isdigit() else 0.0
