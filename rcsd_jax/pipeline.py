"""``python -m rcsd_jax.pipeline --config=configs/quickstart.py --workdir=runs/quickstart``: many runs, one table.

The config holds ``common`` (a whole experiment), ``parts`` (what to run, by name, each with the values that it
changes), the ``order`` in which they run, ``baseline`` and ``title``. ``{workdir}`` in a value stands for the workdir
of the pipeline, so that one part reads what an earlier one wrote. A finished part is not run again; a killed one
continues.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from rcsd_jax import command, compare, config, evaluate, hosts, rubric_effect, train, write_rubrics

RUNNERS = {
    "train": train.train,
    "write_rubrics": write_rubrics.write_rubrics,
    "rubric_effect": rubric_effect.rubric_effect,
    "evaluate": evaluate.evaluate,
}
KEYS = {"title", "common", "parts", "order", "baseline"}
PART_KEYS = {"run", "description", "set"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One run of the pipeline: ``run`` names the command, ``experiment`` is what it is asked."""

    run: str
    experiment: config.Experiment


def read_parts(pipeline: config_dict.ConfigDict, workdir: str) -> list[Part]:
    """The parts, each with its whole experiment.

    Raises:
      config.ConfigError: the errors of all parts at once.
    """
    if set(pipeline) != KEYS:
        raise config.ConfigError([f"a pipeline has the keys {sorted(KEYS)}, this has {sorted(pipeline)}"])
    parts, errors = [], []
    if pipeline.baseline not in pipeline.order:
        errors.append(f"baseline is {pipeline.baseline!r}: name it in order too, it is not run again where it is done")
    for name in pipeline.order:
        if name not in pipeline.parts:
            errors.append(f"order names {name!r}: write ('a', 'b') with a and b out of {', '.join(pipeline.parts)}")
            continue
        part = pipeline.parts[name].to_dict()
        if set(part) != PART_KEYS or part["run"] not in RUNNERS:
            errors.append(f"part {name!r} is {part}: give {sorted(PART_KEYS)}; run is one of {', '.join(RUNNERS)}")
            continue
        changes = part["set"] | {"name": name, "description": part["description"]}
        try:
            parts.append(
                Part(part["run"], config.read(_filled_in(_merged(pipeline.common.to_dict(), changes), workdir)))
            )
        except config.ConfigError as error:
            errors += [f"part {name!r}: {line}" for line in error.errors]
    if errors:
        raise config.ConfigError(errors)
    return parts


def run(pipeline: config_dict.ConfigDict, workdir: str) -> None:
    """Runs what is left of the pipeline, then prints the table and says where the report is."""
    started = time.monotonic()
    parts = read_parts(pipeline, workdir)
    for number, part in enumerate(parts, start=1):
        e = part.experiment
        began = time.monotonic()
        say(f"[{number}/{len(parts)}] {e.name}: {e.description}")
        RUNNERS[part.run](e, f"{workdir}/{e.name}")
        minutes = (time.monotonic() - started) / 60
        say(f"    {time.monotonic() - began:.0f} s, {minutes:.1f} min so far")
    folders = [f"{workdir}/{part.experiment.name}" for part in parts]
    table = hosts.from_first(
        lambda: compare.compare_runs(folders, workdir, baseline=pipeline.baseline, title=pipeline.title)
    )
    say(f"\n{table}\n\n{(time.monotonic() - started) / 60:.1f} minutes; the report is in {workdir}/report.md")


def say(line: str) -> None:
    """Prints a line, on the first host only."""
    if hosts.is_first():
        print(line, flush=True)


def _filled_in(value: Any, workdir: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled_in(item, workdir) for key, item in value.items()}
    return value.replace("{workdir}", str(workdir)) if isinstance(value, str) else value


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], change) if both else change
    return merged


if __name__ == "__main__":
    command.run_with_config(run, lambda pipeline: read_parts(pipeline, "."))
