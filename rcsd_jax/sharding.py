"""The device mesh, and the one table from logical axes to mesh axes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rcsd_jax.types import Array, Tree

AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes. The embedding table is cut along the vocabulary only: cut along D as well, XLA
# gathers the whole table before every lookup.
TABLE: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    # A step of decoding has few rows. There the weights stay where they are, cut along D, and the rows come to them.
    "few_rows": ("data",),
    "length": (),
    "vocab": ("tensor", "fsdp"),
    "vocab_of_rows": ("tensor",),
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
      ValueError: the sizes do not multiply to the number of devices, or these are of several slices.
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
        near = nearest([max(1, size) for size in sizes], len(devices))
        raise ValueError(
            f"mesh {dict(zip(AXES, wanted, strict=True))} does not fit {len(devices)} devices: "
            f"make data * fsdp * tensor equal to their number; {near}"
        )
    if len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}) > 1:
        raise ValueError("the devices are of several TPU slices: start a run for each, or a larger slice")
    # Not jax.make_mesh: on some slices (v6e) it refuses an axis that is only a part of one of the torus.
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    # Axes are Explicit by default; the compiler is to propagate shardings here.
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


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
    parts = row_parts(mesh)
    wrong = [f"{name} is {number}" for name, number in rows.items() if number % parts]
    if wrong:
        near = nearest(mesh.devices.shape, mesh.size, rows=rows.values())
        raise ValueError(
            f"{', '.join(wrong)}: rows are dealt out to {parts} devices (data * fsdp of the mesh), give multiples of "
            f"{parts}, or use more of the devices along tensor; {near}"
        )


def check_sizes(sizes: Mapping[str, int], mesh: Mesh) -> None:
    """Refuses a model that the mesh cannot cut up evenly, before its weights are read.

    Args:
      sizes: logical axis -> what there is of it, such as {"heads": 32, "vocab": 151936}.
      mesh: the mesh.

    Raises:
      ValueError: one line for all axes that do not divide, with the meshes that would.
    """
    wrong = _not_divided(sizes, mesh.devices.shape)
    if wrong:
        listed = ", ".join(f"{sizes[axis]} {axis} over {' * '.join(TABLE[axis])}" for axis in wrong)
        near = nearest(mesh.devices.shape, mesh.size, sizes=sizes)
        raise ValueError(f"mesh {dict(mesh.shape)} does not divide the model: {listed}; {near}")


def nearest(
    shape: Sequence[int], devices: int, *, rows: Iterable[int] = (), sizes: Mapping[str, int] | None = None
) -> str:
    """What to give instead of a mesh that does not work, as text."""
    found = working(shape, devices, rows=rows, sizes=sizes)
    if not found:
        return f"no mesh of {devices} devices works here, use fewer of them"
    return "config.mesh (data, fsdp, tensor) would work as " + " or ".join(map(str, found[:3]))


def working(
    shape: Sequence[int], devices: int, *, rows: Iterable[int] = (), sizes: Mapping[str, int] | None = None
) -> list[tuple[int, int, int]]:
    """The meshes (data, fsdp, tensor) of so many devices that divide rows and sizes, that nearest to ``shape`` first.

    Near is what takes few doublings and halvings; of equals, the one with less along data, where weights are copies.
    """
    rows, sizes = tuple(rows), sizes or {}
    divisors = [number for number in range(1, devices + 1) if devices % number == 0]
    meshes = [(d, f, devices // (d * f)) for d in divisors for f in divisors if devices % (d * f) == 0]
    found = [x for x in meshes if not any(number % (x[0] * x[1]) for number in rows) and not _not_divided(sizes, x)]
    return sorted(found, key=lambda x: (sum(abs(math.log2(a / b)) for a, b in zip(x, shape, strict=True)), x[0]))


def _not_divided(sizes: Mapping[str, int], shape: Sequence[int]) -> list[str]:
    parts = dict(zip(AXES, shape, strict=True))
    return [axis for axis, size in sizes.items() if size % math.prod(parts[of] for of in TABLE[axis])]


def row_parts(mesh: Mesh | jax.sharding.AbstractMesh) -> int:
    """Among how many devices the rows of a batch are dealt out."""
    return math.prod(mesh.shape[axis] for axis in TABLE["batch"])


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


def axis_size(*axes: str) -> int:
    """Devices along axes of the mesh; 1 outside ``jax.set_mesh``."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in axes)


def constrain(x: Array, *axes: str | None) -> Array:
    """Fixes the layout of an intermediate value; does nothing outside ``jax.set_mesh``."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes))


def by_rows(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """``function`` of arrays whose rows know nothing of each other: every device takes its own rows, whole.

    Left to itself the compiler gathers what it cannot cut up, such as the operand of a top-k. Rows that cannot be dealt
    out evenly, and those outside of a mesh, are taken together.
    """

    def on_devices(*arrays: Array) -> Tree:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or any(len(x) % row_parts(mesh) for x in arrays):
            return function(*arrays)
        rows = spec(("batch",))
        return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)

    return on_devices
