"""What accelerators can do, from their makers' pages: the scale that a compiled program is held against.

TPU: cloud.google.com/tpu/docs and "How to Scale Your Model" (jax-ml.github.io/scaling-book); ``memory`` is what the
compiler lets a program have. GPU: the data sheets, dense bfloat16.
"""

from __future__ import annotations

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """One jax device: bytes of memory, bfloat16 operations, and bytes of memory and network, each a second.

    ``network`` is what a device sends in one collective: over both directions of one ring of a TPU's torus.
    """

    memory: float
    flops: float
    bandwidth: float
    network: float


GIB = 2.0**30
# jax's device_kind -> what it is. A chip of TPU7x is two devices.
CHIPS = {
    "TPU v4": Chip(30.75 * GIB, 275e12, 1.23e12, 0.9e11),
    "TPU v5 lite": Chip(15.75 * GIB, 197e12, 0.82e12, 0.9e11),
    "TPU v5": Chip(95.74 * GIB, 459e12, 2.77e12, 1.8e11),
    "TPU v6 lite": Chip(31.25 * GIB, 918e12, 1.64e12, 1.8e11),
    "TPU7x": Chip(94.75 * GIB, 1154e12, 3.69e12, 1.0e11),
    "NVIDIA A100-SXM4-80GB": Chip(80e9, 312e12, 2.04e12, 3.0e11),
    "NVIDIA H100 80GB HBM3": Chip(80e9, 989e12, 3.35e12, 4.5e11),
    "NVIDIA H200": Chip(141e9, 989e12, 4.8e12, 4.5e11),
}
HOP_SECONDS = 1e-6  # from a device to its neighbour, however little is sent


def chip_of(device: jax.Device) -> Chip | None:
    """What is known about a device; None for other kinds, such as CPUs."""
    return CHIPS.get(device.device_kind)
