"""A function is compiled, and its memory, work and time on the chip are found out; where it does not fit, a cure."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping

import jax

from rcsd_jax import sharding
from rcsd_jax.ahead.chips import GIB, HOP_SECONDS, Chip
from rcsd_jax.ahead.drawing import Function, cache_bytes, drawings
from rcsd_jax.ahead.program import Collective, Cost, Program
from rcsd_jax.ahead.subject import Subject, abstract_state
from rcsd_jax.types import Tree

# What to have less of where a drawing does not fit.
FEWER = {
    "sample": "config.train.questions or config.train.samples",
    "analysis": "config.train.questions",
    "judge": "config.train.questions",
    "evaluation": "config.evaluation.batch or config.evaluation.samples",
    "greedy": "config.evaluation.batch",
    "rubrics": "config.evaluation.batch",
}
# In the compiler's words, of all that must lie there or of temporary arrays alone.
TOO_LARGE = re.compile(r"(?:Used |temporaries \()([\d.]+)([GMK])(?: of|\) exceeds)")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One compiled function on one device; bytes. ``memory`` is all that lies there while it runs.

    ``times`` and ``during`` are those of its :class:`Function`.
    ``needs`` is 0, or what the compiler says a program needs that it could not fit; then nothing else is known.
    """

    name: str
    times: float
    compile_seconds: float
    temporary: float = 0.0
    memory: float = 0.0
    needs: float = 0.0
    largest: int = 0
    cost: Cost = dataclasses.field(default_factory=Cost)
    during: str = "step"

    def seconds(self, chip: Chip) -> dict[str, float]:
        """At least so long, by what bounds it.

        "compute" and "memory" are of the instructions that each bounds, one after the other; "network" may go on at
        the same time.
        """
        compute = memory = 0.0
        for flops, moved in self.cost.roof:
            busy, fed = flops / chip.flops, moved / chip.bandwidth
            compute, memory = (compute + busy, memory) if busy >= fed else (compute, memory + fed)
        network = sum(x.times * _seconds(x, chip) for x in self.cost.collectives)
        return {"compute": compute, "memory": memory, "network": network}

    def total_seconds(self, chip: Chip) -> float:
        """At least so long in all."""
        by_bound = self.seconds(chip)
        return max(by_bound["compute"] + by_bound["memory"], by_bound["network"])


def _seconds(x: Collective, chip: Chip) -> float:
    return max(x.sent / chip.network, x.devices // 2 * HOP_SECONDS)


def compiled(function: Function, s: Subject) -> Finding:
    """Lowers and compiles a function for the devices of the mesh.

    Raises:
      ValueError: this jaxlib cannot read what the compiler made.
      jax.errors.JaxRuntimeError: the compiler failed, but not for want of memory.
    """
    started = time.monotonic()
    with jax.set_mesh(s.mesh), _nothing_cached():
        try:
            program = function.jitted.lower(*function.arguments).compile()
        except jax.errors.JaxRuntimeError as error:
            needs = TOO_LARGE.search(str(error))
            if needs is None:
                raise
            seconds, unit = time.monotonic() - started, {"K": 2.0**10, "M": 2.0**20, "G": GIB}[needs[2]]
            return Finding(function.name, function.times, seconds, needs=float(needs[1]) * unit, during=function.during)
    seconds, memory = time.monotonic() - started, program.memory_analysis()
    text = Program(_text(function.name, program))
    beside = device_bytes(function.beside)
    if function.beside is None:  # what the function is not given of the state lies there all the same
        beside = max(0.0, sum(parts_of(abstract_state(s)).values()) - device_bytes(function.arguments[0]))
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Finding(
        function.name,
        function.times,
        seconds,
        temporary=memory.temp_size_in_bytes,
        memory=beside + memory.argument_size_in_bytes + memory.temp_size_in_bytes + max(0, new),
        largest=text.largest(),
        cost=text.cost(function.turns),
        during=function.during,
    )


def _text(name: str, program: jax.stages.Compiled) -> str:
    try:
        return program.as_text() or ""
    except jax.errors.JaxRuntimeError as error:  # of a libtpu that is newer than jaxlib
        raise ValueError(
            f"{name} was compiled, and this jaxlib cannot read the result ({str(error)[:200]}): is libtpu the one that "
            'this jax was made for? pip install "jax[tpu]" installs that'
        ) from error


@contextlib.contextmanager
def _nothing_cached() -> Iterator[None]:
    """A program for devices that are not here can be put into the compilation cache, but not read from it."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)


def device_bytes(tree: Tree) -> float:
    """Bytes of abstract arrays on one device."""
    return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree) if x.ndim)


def parts_of(state: Tree) -> dict[str, float]:
    """Bytes of the state on one device, by what they are."""
    return {
        "parameters": device_bytes(state.variables),
        "optimiser": device_bytes(state.opt_state),
        "teacher": device_bytes(state.teacher),
    }


def cures(s: Subject, finding: Finding, chip: Chip, parts: Mapping[str, float]) -> list[str]:
    """What to change in the config so that a function would fit, the likeliest first."""
    e, found = s.experiment, []
    held = sum(parts.values())
    if held > chip.memory / 2:
        found.append(f"{held / GIB:.1f} GiB are parameters, optimiser and teacher")
        if e.model.trainable == "params":
            found.append("config.model.trainable='lora'")
        if s.mesh.shape["data"] > 1:
            found.append(f"config.mesh.data=1 (each device holds 1/{s.mesh.size // s.mesh.shape['data']} of them now)")
        found.append("more devices")
    drawing = finding.name.split()[0]
    if drawing in drawings(s):
        if cache_bytes(s, drawing) > chip.memory / 4 and e.model.compute.cache_dtype == "float32":
            found.append("config.model.compute.cache_dtype='bfloat16'")
        at_a_time = drawings(s)[drawing].questions
        if drawing == "sample" and not e.train.staleness and at_a_time > sharding.row_parts(s.mesh):
            found.append(f"config.train.sampling_batch below {at_a_time}, so that questions wait for places")
        found.append(f"fewer {FEWER[drawing]}")
        return found
    if finding.during == "start":
        return found or ["more devices"]
    if e.model.compute.remat != "full":
        found.append("config.model.compute.remat='full'")
    name = "rows" if e.objective == "sft" else "questions"
    number, parts_of_rows = getattr(e.train, name), sharding.row_parts(s.mesh)
    more = [
        k for k in range(e.train.micro_batches + 1, number + 1) if number % k == 0 and number // k % parts_of_rows == 0
    ]
    if more:
        found.append(f"config.train.micro_batches={more[0]}")
    else:
        found.append(
            f"more of the devices along config.mesh.tensor, and config.train.micro_batches > {e.train.micro_batches}"
        )
    return found
