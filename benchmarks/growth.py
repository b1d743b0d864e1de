"""How memory and work grow with every size: python -m benchmarks.growth

Nothing of these sizes is allocated: the train step is lowered from abstract shapes and compiled for a CPU, or for
several fake ones, and the compiler says what it would allocate. Operations are counted (``work``).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, NamedTuple

import jax
import matplotlib
from matplotlib.figure import Figure

from benchmarks import machine, ours, page, work
from benchmarks.case import QWEN_06B, Case
from rcsd_jax import learning, sharding
from rcsd_jax.types import Tree

TEACHER = learning.TeacherConfig("live")
BASE = Case(QWEN_06B, questions=4, samples=8, prompt=256, teacher_prompt=512, completion=512, remat="full")
KINDS = {"state": "weights and moments", "batch": "batch with the teacher's states", "temporary": "temporary"}


class Point(NamedTuple):
    """One compiled train step: bytes on each device, and operations of a whole step on each device."""

    axis: str
    at: int
    bytes: dict[str, float]
    flops: dict[str, float]


def points() -> dict[str, list[tuple[int, Case, int]]]:
    """Axis to (where on it, the case, devices)."""
    model = BASE.model

    def of(**changes: Any) -> Case:
        return dataclasses.replace(BASE, **changes)

    vocabularies, depths = (65536, model.vocab_size, 262144), (14, model.layers, 56)
    return {
        "completions (8 a question)": [(8 * n, of(questions=n), 1) for n in (2, 4, 8)],
        "tokens of a completion": [(n, of(completion=n), 1) for n in (256, 512, 1024)],
        "vocabulary": [(n, of(model=dataclasses.replace(model, vocab_size=n)), 1) for n in vocabularies],
        "layers": [(n, of(model=dataclasses.replace(model, layers=n)), 1) for n in depths],
        "devices (fsdp), 64 completions": [(n, of(questions=8), n) for n in (1, 2, 4, 8)],
    }


@functools.cache
def train_memory(case: Case, devices: int = 1) -> dict[str, float]:
    """Bytes on a device while the train step runs, by kind; adapters, remat and micro-batches as the case says."""
    transformer = ours.transformer_of(case)
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices])
    score, train = ours.steps_of(case, transformer, TEACHER, mesh)
    trainable = "lora" if case.lora else "params"
    layout = learning.state_shardings(transformer, mesh, trainable=trainable, optimizer=ours.OPTIMIZER, teacher=TEACHER)
    state = placed(jax.eval_shape(functools.partial(ours.state_of, case, transformer, TEACHER)), layout)
    inputs = jax.eval_shape(
        lambda: ours.score_inputs(ours.rollout_of(case), ours.prompts_of(case, case.teacher_prompt))
    )
    batch = jax.eval_shape(score, state, *inputs)
    batch = placed(batch, jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch))
    found = train.lower(state, batch).compile().memory_analysis()
    of_state = sum(
        leaf.dtype.itemsize * functools.reduce(int.__mul__, leaf.sharding.shard_shape(leaf.shape), 1)
        for leaf in jax.tree.leaves(state)
    )
    return {
        "state": of_state,
        "batch": found.argument_size_in_bytes - of_state,
        "temporary": found.temp_size_in_bytes,
    }


def placed(abstract: Tree, layout: Tree) -> Tree:
    """The same shapes with a place on the mesh."""
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract, layout)


def step_flops(case: Case) -> dict[str, float]:
    """Operations of the phases of a step."""
    return {name: work.total_flops(getattr(work, name)(case)) for name in ("sample", "score", "train")}


def draw(found: list[Point]) -> Figure:
    """One column for each axis: memory above, operations below."""
    axes = list(dict.fromkeys(point.axis for point in found))
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e5e5"}
    with matplotlib.rc_context({**style, "legend.frameon": False, "svg.hashsalt": "growth"}):
        figure = Figure(figsize=(3.0 * len(axes), 5.6), layout="constrained")
        panels = figure.subplots(2, len(axes), squeeze=False, sharey="row")
        for column, axis in enumerate(axes):
            own = [point for point in found if point.axis == axis]
            at = [point.at for point in own]
            memory = [[point.bytes[kind] / 2**30 for point in own] for kind in KINDS]
            panels[0, column].stackplot(at, memory, labels=KINDS.values(), colors=("#0072B2", "#56B4E9", "#E69F00"))
            for phase, colour in zip(own[0].flops, ("#009E73", "#CC79A7", "#D55E00"), strict=True):
                flops = [point.flops[phase] / 1e12 for point in own]
                panels[1, column].plot(at, flops, "o-", color=colour, label=phase)
            panels[1, column].set_xlabel(axis)
            for panel in panels[:, column]:
                panel.set_xlim(0, 1.03 * at[-1])
                panel.set_xticks(at, [f"{number:,}" for number in at])
        # Panels of a row share their scale; the room above is the legend's.
        panels[0, 0].set_ylim(0, 1.25 * max(sum(point.bytes.values()) for point in found) / 2**30)
        panels[1, 0].set_ylim(0, 1.25 * max(max(point.flops.values()) for point in found) / 1e12)
        panels[0, 0].set_ylabel("GiB a device in the train step")
        panels[1, 0].set_ylabel("TFLOP a device and step")
        for row in panels:
            row[0].legend(fontsize=8, loc="upper left")
    return figure


def section(found: list[Point]) -> str:
    """The curves and their numbers as Markdown."""
    m = BASE.model
    lines = [
        "## How memory and work grow",
        "",
        "![memory and operations against every size](speed/growth.svg)",
        "",
        f"`python -m benchmarks.growth`, commit {machine.commit()}, jax {jax.__version__}. From abstract shapes: what"
        f" XLA would allocate on a CPU for the train step (a live teacher, remat {BASE.remat}), and the operations of"
        " the matrix products of a step. All curves but the last go through Qwen3-0.6B's shape in bfloat16 over"
        f" float32 weights: {m.layers} layers, {m.vocab_size:,} words, {BASE.questions} questions of {BASE.samples}"
        f" completions, prompts of {BASE.prompt}, teacher prompts of {BASE.teacher_prompt}, completions of"
        f" {BASE.completion} tokens.",
        "",
        f"| axis | at | {' | '.join(f'{kind}, GiB' for kind in KINDS)} | sample, TFLOP | score | train |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for point in found:
        numbers = [f"{point.bytes[kind] / 2**30:.2f}" for kind in KINDS]
        numbers += [f"{flops / 1e12:.1f}" for flops in point.flops.values()]
        lines.append(f"| {point.axis} | {point.at:,} | {' | '.join(numbers)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Writes the curves and their section of docs/results/speed.md."""
    # Read when the backend starts, not before. Leaving out LLVM's optimisation changes no buffer.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    os.environ["JAX_PLATFORMS"] = "cpu"
    found = []
    for axis, cases in points().items():
        for at, case, devices in cases:
            flops = {name: value / devices for name, value in step_flops(case).items()}
            found.append(Point(axis, at, train_memory(case, devices), flops))
            print(found[-1], flush=True)
    folder = page.RESULTS / "speed"
    folder.mkdir(parents=True, exist_ok=True)
    draw(found).savefig(folder / "growth.svg", facecolor="white", metadata={"Date": None})
    (folder / "growth.md").write_text(section(found))
    page.write()


if __name__ == "__main__":
    main()
