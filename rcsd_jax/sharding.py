"""The device mesh, and the one table from logical axes to mesh axes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rcsd_jax.types import Array, Tree

AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes. The embedding table is cut along the vocabulary only: cut along D as well, XLA
# gathers the whole table before every lookup.
TABLE: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "length": (),
    "vocab": ("tensor", "fsdp"),
    "table_width": (),
    "width": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "head_width": (),
    "rank": (),
    "layers": (),
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 takes what the others leave."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1


def make_mesh(config: MeshConfig = MeshConfig(), devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over ``devices`` (default: all of them) with the axes data, fsdp, tensor.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    wanted = [config.data, config.fsdp, config.tensor]
    if wanted.count(-1) > 1 or any(size < 1 and size != -1 for size in wanted):
        raise ValueError(
            f"mesh sizes are {dict(zip(AXES, wanted, strict=True))}: give positive numbers, and -1 at most once"
        )
    known = math.prod(size for size in wanted if size != -1)
    sizes = [len(devices) // known if size == -1 else size for size in wanted]
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh {dict(zip(AXES, wanted, strict=True))} does not fit {len(devices)} devices: "
            "make data * fsdp * tensor equal to their number"
        )
    # make_mesh defaults to Explicit axes; the compiler is to propagate shardings here.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def spec(axes: Sequence[str | None]) -> PartitionSpec:
    """The partition of an array whose dimensions bear these logical names.

    Raises:
      ValueError: an unknown name, or one mesh axis asked for twice.
    """
    used: dict[str, str] = {}
    entries: list[tuple[str, ...] | None] = []
    for axis in axes:
        if axis is not None and axis not in TABLE:
            raise ValueError(f"logical axis {axis!r} is unknown: use one of {sorted(TABLE)}")
        mesh_axes = TABLE[axis] if axis is not None else ()
        for mesh_axis in mesh_axes:
            if mesh_axis in used:
                raise ValueError(
                    f"mesh axis {mesh_axis!r} is used by both {used[mesh_axis]!r} and {axis!r} in {tuple(axes)}"
                )
            used[mesh_axis] = str(axis)
        entries.append(mesh_axes or None)
    return PartitionSpec(*entries)


def shardings(axes_tree: Tree, mesh: Mesh) -> Tree:
    """The same tree with a NamedSharding in place of every tuple of logical axes."""
    return jax.tree.map(lambda axes: NamedSharding(mesh, spec(axes)), axes_tree, is_leaf=lambda x: isinstance(x, tuple))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension over data and fsdp, the others whole."""
    return NamedSharding(mesh, spec(("batch",)))


def check_rows(rows: Mapping[str, int], mesh: Mesh) -> None:
    """Refuses batches that the mesh cannot deal out evenly, before anything is loaded.

    Args:
      rows: what gives the size of a batch -> that size, such as {"config.train.questions": 32}.
      mesh: the mesh.

    Raises:
      ValueError: one line for each batch that does not divide.
    """
    parts = math.prod(mesh.shape[axis] for axis in TABLE["batch"])
    wrong = [f"{name} is {number}" for name, number in rows.items() if number % parts]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: rows are dealt out to {parts} devices (data * fsdp of the mesh), give multiples of "
            f"{parts}, or use more of the devices along tensor"
        )


def place_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Host arrays onto the devices, their rows over data and fsdp.

    Every host has the whole batch and gives the rows that lie on its devices.

    Raises:
      ValueError: the rows can not be dealt out evenly.
    """
    parts = math.prod(mesh.shape[axis] for axis in TABLE["batch"])
    rows = [len(leaf) for leaf in jax.tree.leaves(batch)]
    if any(number % parts for number in rows):
        raise ValueError(
            f"a batch of {rows[0]} rows does not divide over {parts} devices (data * fsdp of the mesh): "
            f"make its size in the config a multiple of {parts}, or use more of the devices along tensor"
        )
    layout = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, layout)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, layout, np.asarray(x).__getitem__), batch)


def everywhere(batch: Tree, mesh: Mesh) -> Tree:
    """The same arrays whole on every host, so that each can read them; on one host they are as they were."""
    return batch if jax.process_count() == 1 else _replicate(mesh)(batch)


@functools.cache
def _replicate(mesh: Mesh) -> Callable[[Tree], Tree]:
    return jax.jit(lambda batch: batch, out_shardings=replicated(mesh))


def platform() -> str:
    """What is traced for: "cpu", "gpu" or "tpu". Under a mesh its devices decide, which need not be in this machine."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty or mesh.abstract_device is None else mesh.abstract_device.platform


def constrain(x: Array, *axes: str | None) -> Array:
    """Fixes the layout of an intermediate value; does nothing outside ``jax.set_mesh``."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes))
