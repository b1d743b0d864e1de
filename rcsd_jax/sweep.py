"""``python -m rcsd_jax.sweep --config=configs/comparison.py --workdir=runs/comparison``: methods, controls and seeds.

The config is that of a pipeline and its ``seeds``. Every part with every seed is a cell, in ``WORKDIR/seed_S/PART``;
``{workdir}`` in a value stands for ``WORKDIR/seed_S``, so that each seed has a base model and rubrics of its own.

    [3/72] runs/comparison/seed_0/ceiling_reference: the base model with the reference answer in its prompt (31 s)

A finished cell is not run again, a killed one continues. The same command on several machines that share the folder
divides the cells: each takes the next one that no other holds (its workdir has a lock) and that finds what it reads.
Several hosts of one run, as on a pod, go through the cells together and count for one machine. A cell that fails ends
such a run, for its hosts may have failed in different places: mend it, or leave its part out of ``config.order``.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import config_dict

from rcsd_jax import command, compare, config, hosts, pipeline, preflight
from rcsd_jax.workdir import Workdir

WAIT = 10.0  # seconds until the next look at what others are doing


@dataclasses.dataclass(frozen=True)
class Cell:
    """One part with one seed. ``needs`` are the folders of the cells whose files it reads."""

    folder: str
    part: pipeline.Part
    needs: tuple[str, ...]

    def is_done(self) -> bool:
        """Whether it is complete, whoever made it."""
        return (epath.Path(self.folder) / "done.json").exists()


def read_cells(sweep: config_dict.ConfigDict, workdir: str) -> list[Cell]:
    """The cells, seed by seed, in the order of the parts.

    Raises:
      config.ConfigError: no seeds, or what ``pipeline.read_parts`` says.
    """
    seeds = sweep.get("seeds", ())
    if not seeds or len(set(seeds)) < len(seeds):
        raise config.ConfigError([f"config.seeds is {seeds}: give at least one, each once, such as (0, 1, 2)"])
    cells = []
    for seed in seeds:
        values = config_dict.ConfigDict({key: value for key, value in sweep.items() if key != "seeds"})
        values = values.copy_and_resolve_references()
        values.common.seed = seed
        folder = f"{workdir}/seed_{seed}"
        parts = pipeline.read_parts(values, folder)
        names = [part.experiment.name for part in parts]
        for part in parts:
            read = config.to_json(part.experiment)
            needs = tuple(f"{folder}/{name}" for name in names if json.dumps(f"{folder}/{name}/")[:-1] in read)
            cells.append(Cell(f"{folder}/{part.experiment.name}", part, needs))
    return cells


def run(sweep: config_dict.ConfigDict, workdir: str) -> None:
    """Runs what is left of the sweep, then prints the table and says where the report is.

    Raises:
      ValueError: a cell holds a run of another config; or cells that failed, with what they said, once all that do not
        need them are done.
    """
    cells, started = read_cells(sweep, workdir), time.monotonic()
    for cell in cells:
        Workdir(cell.folder, cell.part.experiment)  # refuses what was done with another config
    failed: dict[str, str] = {}
    while True:
        # Hosts of one run may see a file at different times, and must choose the same cell.
        done = set(hosts.from_first(lambda: [cell.folder for cell in cells if cell.is_done()]))
        left = [cell for cell in cells if cell.folder not in done and cell.folder not in failed]
        if not left:
            break
        lost = {cell.folder: f"needs {need}" for cell in left for need in cell.needs if need in failed}
        failed |= lost
        if not lost and not _run_first([cell for cell in left if done.issuperset(cell.needs)], cells, failed):
            time.sleep(WAIT)
    if failed:
        told = "\n".join(f"  - {folder}: {reason}" for folder, reason in failed.items())
        raise ValueError(
            f"{len(failed)} of {len(cells)} cells failed:\n{told}\nmend them, or leave their parts out of config.order"
        )
    folders = [cell.folder for cell in cells]
    try:
        with preflight.claimed(epath.Path(workdir)):
            table = hosts.from_first(
                lambda: compare.compare_runs(folders, workdir, baseline=sweep.baseline, title=sweep.title)
            )
    except preflight.Taken:
        table = "another process is writing the report"
    pipeline.say(f"\n{table}")
    pipeline.say(f"\n{(time.monotonic() - started) / 60:.1f} minutes; the report is in {workdir}/report.md")


def _run_first(ready: Sequence[Cell], cells: Sequence[Cell], failed: dict[str, str]) -> bool:
    """Runs the first cell that nobody else holds; whether there was one."""
    for cell in ready:
        e, began = cell.part.experiment, time.monotonic()
        try:
            pipeline.RUNNERS[cell.part.run](e, cell.folder)
        except preflight.Taken:
            continue
        except ValueError as error:
            if jax.process_count() > 1:
                raise  # hosts that fail in different places cannot go on together
            failed[cell.folder] = str(error)
        took = f"{time.monotonic() - began:.0f} s" + (", failed" if cell.folder in failed else "")
        pipeline.say(f"[{cells.index(cell) + 1}/{len(cells)}] {cell.folder}: {e.description} ({took})")
        return True
    return False


if __name__ == "__main__":
    command.run_with_config(run, lambda sweep: read_cells(sweep, "."))
