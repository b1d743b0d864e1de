"""``python -m rcsd_jax.dry_run --config=configs/rcsd.py --topology=v5e:16x16``: would the run fit, and how fast?

Every function of the run is compiled, without weights or data, by the compiler of the devices: of those here, or with
--topology of a TPU slice that need not be here (``pip install -r requirements-tpu.txt`` brings its compiler). The run
is training with its evaluations, or what --run names. Prompts and completions have their longest length. The exit code
is 1 if something does not fit.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags
from jax.experimental import topologies

from rcsd_jax import ahead, command, config, sharding, train

_TOPOLOGY = flags.DEFINE_string("topology", None, "a TPU slice, such as v5e:16x16, v5p:4x4x8, v6e:16x16, TPU7x:4x4x4")
_RUN = flags.DEFINE_enum("run", "train", ahead.RUNS, "the command that would be run with the config")
UNREAD = "unread"  # stands for files of a config that names none


def dry_run(subject: ahead.Subject, tell: Callable[[str], Any] = print) -> list[ahead.Finding]:
    """Compiles every function of a run and tells what was found, function by function."""
    chip, found = ahead.chip_of(subject.mesh.devices.flat[0]), []
    tell(ahead.heading(subject, chip))
    for function in ahead.functions(subject):
        found.append(ahead.compiled(function, subject))
        tell(ahead.line(subject, found[-1], chip))
    tell(ahead.ending(subject, found, chip))
    return found


def prepared(
    experiment: config.Experiment,
    devices: Sequence[jax.Device],
    tell: Callable[[str], Any] = print,
    run: str = "train",
) -> ahead.Subject:
    """What is compiled: the run (one of ``ahead.RUNS``) on ``devices``.

    A mesh that does not divide the batch or the model is replaced by the nearest that does, and this is told.

    Raises:
      ValueError: a mesh that does not fit the devices, or no other works either.
    """
    subject = ahead.subject(experiment, sharding.make_mesh(experiment.mesh, devices), run)
    try:
        check(subject)
    except ValueError as error:
        subject = settled(subject, error)
        e, mesh = subject.experiment, dict(subject.mesh.shape)
        changes = {"train.micro_batches": e.train.micro_batches} if run == "train" else {}
        changes |= {f"mesh.{axis}": mesh[axis] for axis in mesh}
        tell(
            f"{error}\nThe run would be refused; compiled is one with "
            + " ".join(f"--config.{name}={value}" for name, value in changes.items())
        )
    return subject


def check(subject: ahead.Subject) -> None:
    """Refuses a mesh on which rows or model do not divide. Raises ValueError, as the run would."""
    sharding.check_rows(_rows(subject.experiment, subject.run), subject.mesh)
    sharding.check_sizes(subject.transformer.architecture.sizes, subject.mesh)


def settled(subject: ahead.Subject, error: ValueError) -> ahead.Subject:
    """The same on the nearest mesh that works, with as many micro-batches as that allows.

    Raises:
      ValueError: ``error``, where no mesh works.
    """
    e, devices, shape = subject.experiment, list(subject.mesh.devices.flat), subject.mesh.devices.shape
    sizes, number = subject.transformer.architecture.sizes, e.train.rows if e.objective == "sft" else e.train.questions
    for parts in range(e.train.micro_batches, 0, -1):
        if number % parts == 0:
            cut = dataclasses.replace(e, train=dataclasses.replace(e.train, micro_batches=parts))
            rows = _rows(cut, subject.run).values()
            if meshes := sharding.working(shape, len(devices), rows=rows, sizes=sizes):
                mesh = sharding.MeshConfig(*meshes[0])
                cut = dataclasses.replace(cut, mesh=mesh)
                return ahead.subject(cut, sharding.make_mesh(mesh, devices), subject.run)
    raise error


def _rows(e: config.Experiment, run: str) -> dict[str, int]:
    return train.rows(e) if run == "train" else {"config.evaluation.batch": e.evaluation.batch}


def devices_of(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice that can be compiled for, here or not.

    Raises:
      ValueError: an unknown name, or there is no compiler.
    """
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",  # asks no metadata server what machine this is
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # compiling takes no TPU away from anybody
    }.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # of a type that depends on what is missing
        raise ValueError(
            f"topology {topology!r} cannot be compiled for: {str(error).splitlines()[0][:200]}; the compiler comes "
            "with pip install -r requirements-tpu.txt, names are like v5e:16x16"
        ) from error


def _main() -> None:
    raw = flags.FLAGS["config"].value
    if raw is None:
        sys.exit("error: --config is missing: give, for example, --config=configs/rcsd.py")
    for section in (raw.data, raw.rubrics):
        section.path = section.path or UNREAD
    if _TOPOLOGY.value:
        jax.config.update("jax_platforms", "cpu")
    devices = devices_of(_TOPOLOGY.value) if _TOPOLOGY.value else jax.devices()
    found, chip = dry_run(prepared(config.read(raw), devices, run=_RUN.value)), ahead.chip_of(devices[0])
    sys.exit(0 if chip is None or all(ahead.fits(x, chip) for x in found) else 1)


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    command.start(_main)
