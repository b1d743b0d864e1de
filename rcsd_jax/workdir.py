"""The folder of one run: what it was asked (config.json), where it ran (env.json), and whether it ended (done.json).

    config.json  env.json  metrics.jsonl  tensorboard/  checkpoints/  trajectories/  model/  diverged.json
    evaluation/  curve.json  rubrics.jsonl  guidance.jsonl  quality.json  compilations.json  done.json  lock  STOP

A folder belongs to one config: opened again with the same one it is continued, with another it is refused. Keys that no
number depends on (``config.FREE``) may change, and so may all of them while nothing was made in the folder. A key that
came with a later commit counts as having its default, which has to reproduce what was before. The folder belongs to one
run at a time (lock), and an empty file STOP ends that run at its next step. Only host 0 writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from etils import epath

from rcsd_jax import compilations, config, ending, hosts, preflight
from rcsd_jax.files import write_whole

MADE = ("checkpoints", "metrics.jsonl", "rubrics.jsonl", "evaluation", "model", "done.json")  # what costs work to make


class Workdir:
    """The folder ``folder`` of a run of ``experiment``; nothing is written before it is ``held``.

    Raises:
      ValueError: the folder holds a run of another config; the message lists the keys that differ. Or it holds what
        looks like a run and says of no config; or it is in a bucket that cannot be reached.
    """

    def __init__(self, folder: str | os.PathLike[str], experiment: config.Experiment):
        self.folder = epath.Path(folder)
        self._experiment = experiment
        self._compiled_before = len(compilations.ledger())  # by earlier runs of this process
        hosts.from_first(lambda: _reach(self.folder))
        hosts.from_first(self._refuse_another)

    @contextlib.contextmanager
    def held(self) -> Iterator[ending.Pulse]:
        """While it is open the folder is this run's alone, on all of its hosts; gives what the loops are to call.

        Raises:
          ValueError: another run has the folder, or began one with another config; a file STOP is there.
          hosts.HostError: the hosts are not alike, or do not share the folder.
        """
        if jax.process_count() > 1:  # else there is nobody to be unlike, and files need not be read for it
            hosts.agree(preflight.facts(self._experiment))
        with preflight.claimed(self.folder), ending.Pulse(self.folder / "STOP") as pulse:
            hosts.from_first(self._begin)
            yield pulse

    def _begin(self) -> None:
        if (self.folder / "STOP").exists():
            raise ValueError(f"{self.folder / 'STOP'} is there: remove it, and the same command goes on")
        self._refuse_another()  # the last one to have the folder may have begun something
        stored, values = self._stored(), json.loads(config.to_json(self._experiment))
        if stored is not None:
            values = config.as_stored(self._experiment, stored)
            known, all_keys = config.without_free(stored), config.without_free(config.completed(stored))
            if later := [f"{path}={value!r}" for path, _, value in hosts.differences(known, all_keys, "config")]:
                logging.warning(
                    "%s was begun before there were %s: these defaults count", self.folder, ", ".join(later)
                )
        write_json(self.folder / "config.json", values)
        old = _read(self.folder / "env.json") or {}
        earlier = old.pop("earlier", []) + ([old] if old else [])
        write_json(self.folder / "env.json", environment() | {"earlier": earlier})

    def _refuse_another(self) -> None:
        made, stored = self._made(), self._stored()
        if stored is None:
            if set(made) <= {"done.json"}:  # nothing could be lost
                return
            # Its metrics would be cut off, its checkpoints deleted one by one.
            raise ValueError(
                f"{self.folder} has {', '.join(made)} and no config.json, so no run of ours began there: give another "
                "--workdir, or clear it"
            )
        old, new = config.completed(stored), json.loads(config.to_json(self._experiment))
        changed = hosts.differences(config.without_free(old), config.without_free(new), "config")
        lines = [f"  - {path} was {before!r}, is {now!r}" for path, before, now in changed]
        if lines:
            raise ValueError(
                f"{self.folder} holds a run of another config:\n"
                + "\n".join(lines)
                + "\nuse another --workdir, or give the old values"
            )

    def _stored(self) -> dict[str, Any] | None:
        """The config that the folder belongs to, as it was written; None while nothing is made."""
        return _read(self.folder / "config.json") if self._made() else None

    def _made(self) -> list[str]:
        return [name for name in MADE if (self.folder / name).exists()]

    @property
    def config_hash(self) -> str:
        """Of the config that the folder belongs to, in the keys of the commit that began it: for its checkpoints."""
        return hosts.from_first(lambda: config.content_hash(self._experiment, self._stored()))

    def __truediv__(self, name: str) -> epath.Path:
        return self.folder / name

    def done(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None."""
        return hosts.from_first(lambda: _read(self.folder / "done.json"))

    def check_room(self, size: int) -> None:
        """Refuses to begin what cannot be saved.

        Raises:
          ValueError: the disk of the folder has less than ``size`` bytes left. A bucket has always enough.
        """
        if "://" in os.fspath(self.folder):
            return
        free = hosts.from_first(lambda: shutil.disk_usage(self.folder).free)
        if free < size:
            raise ValueError(
                f"{self.folder} has {free / 1e9:.1f} GB left, its checkpoints need {size / 1e9:.1f} GB: make room, or "
                "use another --workdir"
            )

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Says that everything in the folder is complete, once it is for all hosts; the summary of host 0."""
        compiled = compilations.ledger()[self._compiled_before :]

        def write() -> dict[str, Any]:
            write_json(self.folder / "compilations.json", [dataclasses.asdict(line) for line in compiled])
            write_json(self.folder / "done.json", summary)
            return summary

        return hosts.from_first(write)


def _reach(folder: epath.Path) -> None:
    """Looks once, where looking may need a client, a network and a permission."""
    if "://" not in os.fspath(folder):
        return
    try:
        any(folder.parent.glob("*"))  # unlike exists(), this hides no error of the client
    except ImportError as error:
        raise ValueError(f"{folder} needs the client of its bucket ({error}): pip install gcsfs") from error
    except FileNotFoundError:
        return
    except Exception as error:  # its type depends on the client
        raise ValueError(
            f"{folder} cannot be reached ({type(error).__name__}: {error}): check the name, run `gcloud auth "
            "application-default login`, and give the account roles/storage.objectAdmin"
        ) from error


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON for people: indented, keys sorted. It appears whole or not at all. Host 0 writes, others do not."""
    if hosts.is_first():
        write_whole(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def environment() -> dict[str, Any]:
    """Versions, devices and commit: what a number in this folder depends on besides its config."""
    return {
        "command": _command(),
        "commit": _commit(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "packages": preflight.packages(),
        "processes": jax.process_count(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _command() -> str:
    """As it was typed, without where this code lies."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return shlex.join(["python", "-m", module.name, *sys.argv[1:]] if module else sys.argv)


def _commit() -> str | None:
    """The commit of this code, "-dirty" where it was edited; None outside a clone or without git."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False, cwd=os.path.dirname(__file__))
    except OSError:
        return None
    return git.stdout.strip() or None


def _read(path: epath.Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None
