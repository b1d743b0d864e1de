"""``python -m rcsd_jax.train --config=configs/rcsd.py --workdir=runs/rcsd``: one training run, stage 1, 2 or SFT.

The loop knows no method. A source gives the batch of step t, a step learns from it, and at the end the model is
exported as a Hugging Face folder, ``model/``. The same command in the same workdir continues a killed run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from rcsd_jax import (
    checkpoint,
    command,
    compilations,
    config,
    ending,
    evaluate,
    evaluation,
    hosts,
    learning,
    lm,
    memory,
    metrics,
    models,
    questions,
    sharding,
    sources,
)
from rcsd_jax.types import TrainState, Tree
from rcsd_jax.workdir import Workdir, write_json

COPIES = 3  # of the state on disk: two checkpoints, and one that is being written; later ones take their places
WARM = 3  # steps after which no function should need compiling any more
TRAJECTORIES = 8  # rollouts that are kept as text, of a step whose turn it is
SHOWN = ("loss", "reward", "accuracy", "rollout_accuracy", "rollout_valid")  # in the progress line


class Diverged(ValueError):
    """Several steps in a row had a loss or gradient that is not finite, or is too large."""


def train(experiment: config.Experiment, workdir: str) -> dict[str, Any]:
    """Runs or continues a training run; a finished one is not run again.

    Returns:
      The summary that done.json holds: steps, tokens sampled and read, seconds, dropped questions, last metrics.

    Raises:
      Diverged: ``train.max_skipped`` steps in a row could not be used; diverged.json has their numbers.
      ValueError: bfloat16 weights would learn.
      ending.Ended: it was asked to, and everything is saved.
    """
    if experiment.model.trainable == "params" and experiment.model.compute.param_dtype == "bfloat16":
        raise ValueError(
            "config.model.compute.param_dtype is 'bfloat16' and all weights learn: updates smaller than 1/256 of a "
            "weight would be rounded away, use 'float32' (compute.dtype may stay) or config.model.trainable='lora'"
        )
    mesh = sharding.make_mesh(experiment.mesh)
    sharding.check_rows(rows(experiment), mesh)
    folder = Workdir(workdir, experiment)
    summary = folder.done()
    if summary is not None:
        return summary
    peak_memory = memory.PeakMemory()
    with folder.held() as pulse, jax.set_mesh(mesh):
        summary = _train(experiment, folder, mesh, pulse)
        return folder.finish({**summary, "peak_memory": peak_memory()})


def _train(e: config.Experiment, folder: Workdir, mesh: Mesh, pulse: ending.Pulse) -> dict[str, Any]:
    # 1. The model, the data, the step.
    model = models.of(e, mesh)
    transformer, tokenizer = model.transformer, model.tokenizer
    source = sources.of(e, model, mesh)
    meta = dataclasses.replace(source.meta, config_hash=folder.config_hash)
    hosts.agree(dataclasses.asdict(meta))
    history = questions.history(e)
    if "rubrics" in source.facts and e.rubrics.control != "as_is":
        problems = questions.load(e.data, e.data.split)
        guidance = questions.guidance(e, problems)
        hosts.from_first(lambda: questions.keep_perturbed(e, problems, guidance, folder / "guidance.jsonl"))
    step_function = learning.make_train_step(
        transformer,
        learning.OBJECTIVES[e.objective],
        e.loss,
        vocab_limit=tokenizer.vocab_limit,
        micro_batches=e.train.micro_batches,
        optimizer=e.optimizer,
        teacher=e.older_weights,
        mesh=mesh,
        teacher_architecture=model.teacher.transformer.architecture if model.teacher else None,
    )
    examination = (
        evaluate.Examination(e, model._replace(variables={}, teacher=None), mesh, trained_on=history.split())
        if e.task == "answer"
        else None
    )
    with checkpoint.Checkpoints(folder / "checkpoints", keep_every=e.train.keep_every) as checkpoints:
        # 2. The newest sound checkpoint, if this run was here before; metrics after it are cut off.
        abstract = models.abstract_state(e, transformer, mesh)
        copies = 1 if hosts.from_first(lambda: any((folder / "checkpoints").glob("[0-9]*"))) else COPIES
        folder.check_room(copies * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract)))
        restored = checkpoints.restore(abstract, meta)
        start = 0 if restored is None else restored.step
        state = models.initial_state(e, model, mesh) if restored is None else models.whole(restored.state, model)
        source.resume(start, restored.ahead if restored else {})
        del model  # the first step donates its weights
        with (
            metrics.MetricsWriter(
                folder.folder,
                resume_at=restored.meta.metrics_bytes if restored else 0,
                step=start + 1,
                tensorboard=e.writers.tensorboard,
                wandb_project=e.writers.wandb_project,
                config=json.loads(config.to_json(e)),
            ) as writer,
            metrics.Progress(e.name, e.train.steps, done=start) as progress,
        ):
            # 3. The loop; its last checkpoint is the end of the run.
            report = Reporter(e, folder, writer, progress)

            def save(step: int, state: TrainState, last: bool) -> None:
                now = dataclasses.replace(meta, metrics_bytes=writer.position)
                learned = models.learned(state, has_separate_teacher=e.older_weights.kind == "separate")
                checkpoints.save(step, learned, now, ahead=source.ahead(), last=last)

            def measure(step: int, state: TrainState) -> None:
                every = e.evaluation.every
                if examination and every and step % every == 0 and step < e.train.steps:  # at the end all is measured
                    _measure(examination, state, step, folder, pulse)

            measure(start, state)  # also where the run was killed after a save and before this
            state = _loop(e, source, step_function, state, start, report, save, measure, pulse)
    pulse.owes(False)
    # 4. The model for others to load, what all this was, and how good the model is.
    if not hosts.from_first((folder / "model" / "config.json").exists):  # or it was killed after that
        notes = {questions.TRAINED_ON: history}
        lm.export(os.fspath(folder / "model"), transformer, state.variables, tokenizer, notes=notes)
    summary = {**source.facts, **hosts.from_first(lambda: _totals(metrics.read_metrics(folder / "metrics.jsonl")))}
    if examination:
        summary["evaluation"] = evaluate.evaluate_model(examination, state.variables, folder, e.name, pulse)
    return summary


def _measure(
    examination: evaluate.Examination, state: TrainState, step: int, folder: Workdir, pulse: ending.Pulse
) -> None:
    """Adds the accuracies of a step to curve.json, once."""
    path = folder / "curve.json"
    curve = hosts.from_first(lambda: json.loads(path.read_text()) if path.exists() else {})
    if str(step) in curve:
        return

    def advance() -> None:
        if pulse():
            raise pulse.ended(f"step {step} is saved")

    curve[str(step)] = {
        part: evaluation.summarise(records)["accuracy"].mean
        for part, _, records in examination(state.variables, advance)
    }
    write_json(path, curve)


def rows(e: config.Experiment) -> dict[str, int]:
    """What is dealt out over the devices: {"config.train.questions / 8 micro_batches": 4}."""
    name = "rows" if e.objective == "sft" else "questions"
    number, parts = getattr(e.train, name), e.train.micro_batches
    found = {f"config.train.{name}" + (f" / {parts} micro_batches" if parts > 1 else ""): number // parts}
    if e.objective != "sft" and e.train.sampling_batch:
        found["config.train.sampling_batch"] = min(e.train.sampling_batch, e.train.questions)
    if e.task == "answer" and e.evaluation.splits:
        found["config.evaluation.batch"] = e.evaluation.batch
    return found


def _loop(
    e: config.Experiment,
    source: sources.Source,
    step_function: Callable[[TrainState, Tree], tuple[TrainState, Tree]],
    state: TrainState,
    start: int,
    report: Reporter,
    save: Callable[[int, TrainState, bool], None],
    measure: Callable[[int, TrainState], None],
    pulse: ending.Pulse,
) -> TrainState:
    for step in range(start, e.train.steps):
        batch, look = source.batch(state, step)
        state, numbers = step_function(state, batch)
        report(step + 1, look, numbers)
        pulse.owes()
        is_asked = (step + 1) % e.train.updates_per_rollout == 0 and pulse()
        is_last = is_asked or step + 1 == e.train.steps
        if (step + 1) % e.train.checkpoint_every == 0 or is_last:
            report.flush()
            hosts.agree(report.newest)  # nothing else would notice hosts whose numbers have parted
            save(step + 1, state, is_last)
        if is_asked:
            raise pulse.ended(f"step {step + 1} is saved")
        measure(step + 1, state)
    return state


class Reporter:
    """Takes down what a step gave, and stops the run where nothing can be learned any more.

    A step is read when the next one is dispatched, so that the host works beside the device.
    """

    def __init__(
        self, e: config.Experiment, folder: Workdir, writer: metrics.MetricsWriter, progress: metrics.Progress
    ):
        self._config, self._folder, self._writer, self._progress = e.train, folder, writer, progress
        limit = e.optimizer.skip_grad_norm
        self._limit = "" if limit is None else f", or a gradient above config.optimizer.skip_grad_norm {limit:g}"
        self._clock = time.monotonic()
        self._compiled, self._steps, self._idle = len(compilations.ledger()), 0, 0
        self.newest: dict[str, str] = {}  # numbers of the last step that was written, for comparison
        self._unread: tuple[int, Callable[[], sources.Numbers], Tree] | None = None

    def __call__(self, step: int, look: Callable[[], sources.Numbers], numbers: Tree) -> None:
        """Takes a step (counted from 1) that was just dispatched, and writes down the one before it."""
        before, self._unread = self._unread, (step, look, numbers)
        if before is not None:
            self._write(*before)

    def flush(self) -> None:
        """Waits for the newest step and writes it down."""
        if self._unread is not None:
            self._write(*self._unread)
        self._unread = None

    def _write(self, step: int, look: Callable[[], sources.Numbers], numbers: Tree) -> None:
        """The metrics, and if it is their turn, some rollouts."""
        host = look() if hosts.is_first() else sources.Numbers({}, [])
        self._warn_of_compilations(step)
        if host.trajectories and (step == 1 or step % self._config.trajectories_every == 0):
            kept = [dataclasses.asdict(trajectory) for trajectory in host.trajectories[:TRAJECTORIES]]
            try:
                write_json(self._folder / "trajectories" / f"step_{step:06d}.json", kept)
            except OSError as error:
                logging.warning("the texts of step %d could not be written (%s); the run goes on", step, error)
        row = {name: float(value) for name, value in jax.device_get(numbers).items()}
        self.newest = {"step": str(step), **{name: repr(value) for name, value in row.items()}}
        before, self._clock = self._clock, time.monotonic()
        row |= host.metrics | {"step_seconds": self._clock - before}  # steps overlap: the times between reports add up
        self._writer.write(step, row)
        if row.get("teacher_uniform", 0.0) > 0.5:
            logging.warning("step %d: the teacher is uniform on most tokens, are its weights all there?", step)
        self._idle = self._idle + 1 if row["loss_count"] == 0 else 0
        if self._idle == self._config.max_skipped:
            logging.warning(
                "step %d: %d steps in a row had no token that counts. Are there rewards that differ within a group, or "
                "siblings that succeed, and do gates let anything pass?", step, self._idle
            )  # fmt: skip
        self._progress.advance(1, **{name: row[name] for name in SHOWN if name in row})
        if row["skipped_in_a_row"] >= self._config.max_skipped:
            write_json(
                self._folder / "diverged.json",
                {"step": step, "numbers": row, "questions": [t.id for t in host.trajectories]},
            )
            raise Diverged(
                f"{row['skipped_in_a_row']:.0f} steps in a row up to step {step} had a loss or gradient that is not "
                f"finite{self._limit}; the weights are those before them. See {self._folder / 'diverged.json'}; lower "
                "config.optimizer.learning_rate or config.optimizer.max_grad_norm"
            )

    def _warn_of_compilations(self, step: int) -> None:
        """Every shape costs its compilation: a run should meet all of its shapes at once."""
        new = compilations.ledger()[self._compiled :]
        self._compiled, self._steps = self._compiled + len(new), self._steps + 1
        for line in new if self._steps > WARM else ():
            logging.warning("compiled late, by step %d: %s %s, %.1f s", step + 1, line.name, line.shapes, line.seconds)


def _totals(rows: list[dict[str, float]]) -> dict[str, Any]:
    sums = {name: sum(row.get(name, 0.0) for row in rows) for name in ("sampled_tokens", "teacher_tokens")}
    return {
        "steps": len(rows),
        "seconds": round(sum(row["step_seconds"] for row in rows), 2),
        **{name: int(total) for name, total in sums.items()},
        "last": rows[-1],
    }


if __name__ == "__main__":
    command.run(train)
