"""What the machine itself has: versions, devices, disk, and whether all that can take a step."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import platform
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
from packaging.requirements import Requirement

from rcsd_jax import config, learning, lm, models, sharding, sources
from rcsd_jax.checks.finding import PATIENCE, Asked, Finding, size, within

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
SHOWN = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
PYTHONS = ((3, 11), (3, 13))  # the first and the last that is tested
NVIDIA = Path("/dev/nvidia0")
# Jax tells TPU chips by their numbers on the PCI bus, but only where libtpu is; /dev/vfio/0 may be any card that is
# passed to a guest. Google's other cards there are disks and networks.
PCI = Path("/sys/bus/pci/devices")
GOOGLE, TPUS = "0x1ae0", {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
KEPT = 3  # checkpoints on the disk: two that are kept, and one that is being written
LITTLE = 2**30  # bytes of disk for compiled functions and logs


def versions(asked: Asked) -> Finding:
    """Python and packages against requirements.txt."""
    del asked
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line]
    problems = [f"{each.name} is {_version(each.name)}, not {each.specifier}" for each in wanted if not _is_met(each)]
    python = platform.python_version()
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        problems.append(f"python is {python}, 3.11 to 3.13 is needed")
    if problems:
        return Finding("failed", "; ".join(problems) + ": pip install -r requirements.txt, in a Python of 3.11 to 3.13")
    shown = ", ".join(f"{name} {found}" for name in SHOWN if (found := _version(name)))
    says = f"python {python}, {shown}; all {len(wanted)} packages as requirements.txt asks"
    for each in map(Requirement, importlib.metadata.requires("jax") or ()):
        is_of_tpus = each.marker is not None and each.marker.evaluate({"extra": "tpu"})
        if each.name == "libtpu" and is_of_tpus and _version("libtpu") and not _is_met(each):
            return Finding("warning", f'{says}; this jax was made for libtpu {each.specifier}: pip install "jax[tpu]"')
    return Finding("ok", says)


def devices(asked: Asked) -> Finding:
    """What JAX computes on, and whether the mesh of the config fits it."""
    try:
        found = within(PATIENCE, jax.devices)
    except TimeoutError:
        return Finding(
            "failed",
            f"no answer within {PATIENCE:.0f} s: on a slice start the doctor on every host; if this is the only one, "
            "another process may hold the chips, end it with TERM",
        )
    except RuntimeError as error:
        return Finding("failed", f"{error}: end what else uses the devices, or unset JAX_PLATFORMS")
    says = f"{len(found)} x {found[0].device_kind}"
    if jax.process_count() > 1:
        says += f" on {jax.process_count()} hosts, {jax.local_device_count()} here"
    memory = (found[0].memory_stats() or {}).get("bytes_limit") if found[0] in jax.local_devices() else None
    says += f", {size(memory)} each" if memory else ""
    if asked.experiment is not None:
        mesh = sharding.make_mesh(asked.experiment.mesh)
        says += f"; mesh {' x '.join(f'{axis} {length}' for axis, length in mesh.shape.items())}"
    if found[0].platform == "cpu" and NVIDIA.exists():
        return Finding("warning", f"{says}; this machine has an NVIDIA GPU: pip install -r requirements-cuda.txt")
    if found[0].platform == "cpu" and _has_tpu():
        return Finding("warning", f"{says}; this machine has a TPU: pip install -r requirements-tpu.txt")
    return Finding("ok", says)


def disk(asked: Asked) -> Finding:
    """Room for checkpoints and the exported model where the run writes; in the current folder without a workdir."""
    folder = Path.cwd() if asked.workdir is None or "://" in asked.workdir else Path(asked.workdir).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        probe = there / f".doctor_{secrets.token_hex(4)}"
        probe.write_text("probe")
        probe.unlink()
    except OSError as error:
        return Finding("failed", f"{there} cannot be written to ({error}): give another --workdir")
    free, needed = shutil.disk_usage(there).free, LITTLE
    if asked.experiment is not None and folder != Path.cwd():
        with contextlib.suppress(ValueError):  # of a model that cannot be read: its own check says so
            needed += _bytes_written(asked.experiment)
    says = f"{size(free)} free in {there}, {size(needed)} wanted"
    if free < needed:
        return Finding("failed", f"{says}: make room, or give another --workdir")
    return Finding("ok", says)


def step(asked: Asked) -> Finding:
    """One step of RCSD with a tiny model on all devices: sampled, scored by its teacher, learned from."""
    del asked
    started = time.monotonic()
    e = _tiny()
    mesh = sharding.make_mesh(e.mesh)
    with jax.set_mesh(mesh):
        tiny = models.load(e.model, e.seed, mesh)
        source = sources.of(e, tiny, mesh)
        limit = tiny.tokenizer.vocab_limit
        update = learning.make_train_step(
            tiny.transformer, learning.OBJECTIVES[e.objective], e.loss, vocab_limit=limit, micro_batches=1,
            optimizer=e.optimizer, teacher=e.older_weights, mesh=mesh,
        )  # fmt: skip
        state = models.initial_state(e, tiny, mesh)
        batch, _ = source.batch(state, 0)
        _, numbers = update(state, batch)
        loss, gap = float(numbers["loss"]), float(numbers["sampler_gap"])
    says = f"loss {loss:.3g}, sampler and scorer differ by {gap:.1g}, {time.monotonic() - started:.1f} s with compiling"
    if not (math.isfinite(loss) and loss > 0):
        return Finding("failed", f"{says}: these devices or this jax compute wrongly, try JAX_PLATFORMS=cpu beside it")
    return Finding("ok", says)


def _has_tpu() -> bool:
    cards = [[(card / name).read_text().strip() for name in ("vendor", "device")] for card in PCI.glob("*")]
    return any(vendor == GOOGLE and device in TPUS for vendor, device in cards)


def _is_met(package: Requirement) -> bool:
    found = _version(package.name)
    return found is not None and package.specifier.contains(found, prereleases=True)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bytes_written(e: config.Experiment) -> int:
    """By a run: its checkpoints (what learns, its moments, older weights of the teacher) and the exported model."""
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.local_devices()[:1])
    transformer = (
        models.load(e.model, e.seed, mesh).transformer
        if e.model.source == "science"
        else lm.declared(e.model.source, e.model.compute, e.model.lora if e.model.trainable == "lora" else None)[0]
    )
    exported = jax.eval_shape(lambda: lm.init(transformer, jax.random.key(0)))["params"]
    return KEPT * _bytes(models.abstract_state(e, transformer, mesh)) + _bytes(exported)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _tiny() -> config.Experiment:
    raw = config.default()
    raw.model.science.update(width=16, layers=1, heads=1, kv_heads=1, head_width=16, mlp_width=16)
    raw.data.science.update(pretrain=1, train=max(64, jax.device_count()), rubric=1, eval=1, transfer=1)
    raw.prompts.update(wording="compact", student_lengths=(48,), teacher_lengths=(112,))
    raw.sampling.max_new_tokens = 4
    raw.train.update(questions=jax.device_count(), samples=1, steps=1)
    raw.optimizer.total_steps = 1
    raw.mesh.update(data=-1, fsdp=1)
    return config.read(raw)
