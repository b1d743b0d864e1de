"""``python -m rcsd_jax.export --config=configs/rcsd.py --workdir=runs/rcsd --to=FOLDER``: a checkpoint for others.

Writes a checkpoint of a run, the newest sound one or that of ``--step``, as a Hugging Face folder, adapters merged. A
finished run has its last one in ``model/`` already; this is for a run that goes on, or whose peak lies behind it.
"""

from __future__ import annotations

import dataclasses
import sys

import jax
from absl import flags
from etils import epath

from rcsd_jax import checkpoint, command, config, lm, models, questions, sharding, sources
from rcsd_jax.workdir import Workdir

_TO = flags.DEFINE_string("to", None, "the folder to write; it must not exist")
_STEP = flags.DEFINE_integer("step", None, "the step of the checkpoint; the newest if it is not given")


def export(experiment: config.Experiment, workdir: str, folder: str, step: int | None = None) -> int:
    """Writes the newest sound checkpoint of ``workdir``, or that of ``step``, to ``folder``.

    Returns:
      the step of the checkpoint.

    Raises:
      ValueError: the workdir has another config, or no such checkpoint.
    """
    if not (epath.Path(workdir) / "config.json").exists():
        raise ValueError(f"{workdir} holds no run: give the --workdir of a training run")
    run = Workdir(workdir, experiment)
    mesh = sharding.make_mesh(experiment.mesh)
    with jax.set_mesh(mesh):
        model = models.of(experiment, mesh)
        meta = dataclasses.replace(sources.of(experiment, model, mesh).meta, config_hash=run.config_hash)
        with checkpoint.Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            restored = checkpoints.restore(models.abstract_state(experiment, model.transformer, mesh), meta, step=step)
        if restored is None:
            wanted = "yet: wait for the first, or train the run" if step is None else f"of step {step}"
            raise ValueError(f"{run / 'checkpoints'} holds no checkpoint {wanted}")
        variables = models.whole(restored.state, model).variables
        notes = {questions.TRAINED_ON: questions.history(experiment)}
        lm.export(folder, model.transformer, variables, model.tokenizer, notes=notes)
    return restored.step


def _main(experiment: config.Experiment, workdir: str) -> None:
    if _TO.value is None:
        sys.exit("error: --to is missing: give the folder to write, for example --to=exported")
    print(f"step {export(experiment, workdir, _TO.value, _STEP.value)} is in {_TO.value}")


if __name__ == "__main__":
    command.run(_main)
