"""Checkpoints: saved in the background, verified when read, restored onto any mesh.

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(abstract_state, meta)   # None in an empty folder
        ...
        checkpoints.save(step, state, meta)                    # returns while the files are still being written
        checkpoints.save(steps, state, meta, last=True)        # returns when they are there

Orbax has no checksum of what it stores: a flipped bit is restored as if it were right. So every array's fingerprint
is stored beside it, and a checkpoint that does not give it back counts as damaged. A damaged one is set aside as
``bad_<step>`` once an older one has been restored; left in place, it would make orbax refuse to save older steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from flax import traverse_util

from rcsd_jax import ending, fingerprints, hosts
from rcsd_jax.types import Tree

T = TypeVar("T")

TRIES = 3  # saves that fail in a row end a run
_SETTLING_SECONDS = (0.1, 1.0, 10.0)  # that threads of a failed save are given to end
_LOOK_SECONDS = 0.05  # between two looks whether this host has failed to save
_PAUSE_SECONDS = 10.0  # before the last checkpoint of a run is tried again


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a state belongs to. Only ``metrics_bytes`` may differ between a saved run and the one that continues it.

    ``frozen_hash`` stands for the weights that the run does not change and the checkpoint does not hold.
    ``metrics_bytes`` is the length of metrics.jsonl when the state was saved: what was written later is cut off on
    resume, and written again.
    """

    config_hash: str = ""
    frozen_hash: str = ""
    rubrics_hash: str = ""
    data_hash: str = ""
    metrics_bytes: int = 0


class Restored(NamedTuple):
    """A state that was read back, whole and verified; ``ahead`` is empty where nothing was sampled ahead."""

    step: int
    state: Tree
    meta: Meta
    ahead: dict[str, Any]


class Mismatch(ValueError):
    """The checkpoint is sound, and belongs to another run or model."""


class _NotRestored(ValueError):
    """Checkpoints of steps that this run has not come to."""


def compare_meta(stored: Meta, wanted: Meta) -> list[str]:
    """What forbids to continue ``stored`` as ``wanted``, one line each; empty if nothing does."""
    cures = {
        "frozen_hash": "weights under the adapters or of a separate teacher changed, put back those of the beginning",
        "config_hash": "give the old config, or another workdir",
        "rubrics_hash": "put back the rubrics that the run began with, or use another workdir",
        "data_hash": "put back the data that the run began with, or use another workdir",
    }
    return [
        f"{name} was {getattr(stored, name)!r}, is {getattr(wanted, name)!r}: {cure}"
        for name, cure in cures.items()
        if getattr(stored, name) != getattr(wanted, name)
    ]


class _Manager(ocp.CheckpointManager):
    """Orbax's, but that it leaves SIGTERM to ``ending.Pulse``, and has the ``failure`` of a save when it is known.

    Jax counts where the hosts ask whether to end. Orbax would ask with other numbers, from its threads too, so that the
    hosts could agree on a point that all have passed.
    """

    failure: BaseException | None = None

    def reached_preemption(self, step: int) -> bool:
        """Never."""
        return False

    def _wait_for_checkpointers(self) -> None:
        # In a thread that then waits for the other hosts, whatever happened, while they wait for this one.
        try:
            super()._wait_for_checkpointers()
        except BaseException as error:
            self.failure = error
            raise


class Checkpoints:
    """The checkpoints of one run, in ``folder/<step>``; a context manager, so that no save is lost on any way out.

    Args:
      folder: made where it is missing; shared by all hosts.
      keep: how many to keep; older ones are deleted. Two or more, so that there is one to fall back on.
      keep_every: those of steps that it divides are kept for good; 0: none.
      read_only: for looking at a run that may be under way: nothing in the folder is changed, and nothing is saved.
    """

    def __init__(self, folder: os.PathLike[str] | str, *, keep: int = 2, keep_every: int = 0, read_only: bool = False):
        if keep < 2:
            raise ValueError(f"keep is {keep}: give at least 2, the second is what a damaged newest one falls back on")
        self.folder = epath.Path(folder).absolute() if "://" not in os.fspath(folder) else epath.Path(folder)
        self._read_only = read_only
        # What is half written is a save that was killed, or, to a mere reader, one that is still at work.
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
        )
        self._manager = self._opened()
        self._failed, self._is_broken = 0, False  # how many saves in a row; whether the manager's last one did
        self._begun: int | None = None  # the step that is being written

    def _opened(self) -> _Manager:
        return _Manager(self.folder, options=self._options, item_names=("state", "record", "ahead"))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, state: Tree, meta: Meta, *, ahead: Mapping[str, Any] | None = None, last: bool = False
    ) -> None:
        """Starts to write ``state`` as ``step``; the caller may donate its buffers at once.

        A save that fails (a full disk, a bucket that is out of reach) is noticed and said at the next one, which may
        succeed. A step that is already there is not written again, only waited for.

        Args:
          step: how many steps led to the state.
          state: the arrays.
          meta: what they belong to.
          ahead: nested names to numpy arrays, the same on every host, that the run needs beside its state.
          last: there is no next one. Returns when all is on disk; tries up to ``TRIES`` times.

        Raises:
          ValueError: the folder holds a later step, so this run did not begin with ``restore``; or it is read_only.
          Exception: of whatever kind has made ``TRIES`` saves in a row fail.
          ending.Alone: one has failed on this of several hosts.
        """
        if self._read_only:
            raise ValueError(f"step {step} cannot be saved: {self.folder} was opened read_only")
        is_there = self._tried(self.wait, TRIES + 1 if last else TRIES)
        if last or (is_there and self._begun is not None and not self._is_broken):
            self._failed = 0
        while not self._tried(lambda: self._save(step, state, meta, ahead or {}, wait=last), TRIES):
            if not last:
                return
            time.sleep(_PAUSE_SECONDS)

    def _save(self, step: int, state: Tree, meta: Meta, ahead: Mapping[str, Any], *, wait: bool) -> None:
        if self._is_broken:
            self._renew()
        self._begun, newest = None, max(self._manager.all_steps(), default=-1)
        if newest == step:
            return
        if newest > step:
            raise _NotRestored(
                f"{self.folder} holds step {newest}, this is step {step}: restore first, or clear the folder"
            )
        leaves, of_ahead = fingerprints.describe(state), fingerprints.describe(ahead)
        record = fingerprints.sealed({"meta": dataclasses.asdict(meta), "leaves": leaves, "ahead": of_ahead})
        items = {"state": ocp.args.StandardSave(state), "record": ocp.args.JsonSave(record)}
        if ahead:
            items["ahead"] = ocp.args.StandardSave(ahead)
        if not self._manager.save(step, args=ocp.args.Composite(**items), force=True):
            raise RuntimeError(f"orbax did not save step {step} in {self.folder} and gave no reason")
        self._begun = step
        if wait:
            self.wait()

    def _renew(self) -> None:
        """After a failed save: removes what is half written; another manager, that knows what is there."""
        with contextlib.suppress(Exception):
            self._manager.close()  # may raise a second error of that save
        list(self.folder.glob("*"))  # raises where the folder is out of reach; the manager would find it empty
        self._remove_half_written()
        self._options.cleanup_tmp_directories = False  # would be tried once, while threads of that save may still write
        self._manager, self._is_broken = self._opened(), False
        if self._begun in self._manager.all_steps():
            self._failed = 0  # only an older one could not be deleted

    def _remove_half_written(self) -> None:
        for pause in (*_SETTLING_SECONDS, None):
            try:
                for half_written in ocp.utils.tmp_checkpoints(self.folder):
                    half_written.get().rmtree()
                return
            except Exception:  # its type depends on the disk or the bucket
                if pause is None:
                    raise
                time.sleep(pause)

    def _tried(self, attempt: Callable[[], None], limit: int) -> bool:
        """Whether ``attempt`` has worked; the error that makes ``limit`` in a row is raised."""
        try:
            attempt()
        except (_NotRestored, ending.Alone):
            raise
        except Exception as error:  # its type depends on the disk or the bucket
            self._failed, self._is_broken = self._failed + 1, True
            if jax.process_count() > 1:  # some may have written their part and be past the barriers that others wait at
                self._manager.failure = error
                self.wait()
            if self._failed >= limit:
                raise
            logging.error(
                "a checkpoint was not saved in %s, attempt %d of %d: %s: %s", self.folder, self._failed, TRIES,
                type(error).__name__, error,
            )  # fmt: skip
            return False
        return True

    def wait(self) -> None:
        """Returns once everything is on disk; raises what went wrong in the background."""
        while not self._is_alone and jax.process_count() > 1 and self._manager.is_saving_in_progress():
            time.sleep(_LOOK_SECONDS)
        if self._is_alone:
            error = self._manager.failure
            told = f"a checkpoint was not saved in {self.folder}: {type(error).__name__}: {error}"
            raise ending.Alone(told) from error
        self._manager.wait_until_finished()

    @property
    def _is_alone(self) -> bool:
        """Whether a save has failed on this of several hosts: whatever waits for the others would wait for good."""
        return jax.process_count() > 1 and self._manager.failure is not None

    def close(self) -> None:
        """Waits, then ends the background threads."""
        try:
            self.wait()
        finally:
            if not self._is_alone:
                self._manager.close()

    def restore(self, abstract_state: Tree, meta: Meta, *, step: int | None = None) -> Restored | None:
        """The newest sound checkpoint, laid out as ``abstract_state`` says; None where there is none at all.

        Args:
          abstract_state: a ShapeDtypeStruct with a sharding (or an array) for every array of the state; the mesh may
            be another one than at the save.
          meta: what the run is now.
          step: of the only checkpoint to look at; None: of any.

        Raises:
          Mismatch: the newest sound checkpoint is of another config, other data or another model; nothing is touched.
          ValueError: there are checkpoints and none can be read; nothing is touched.
        """
        damaged: dict[int, Exception] = {}
        for at in sorted(self._manager.all_steps(), reverse=True):
            if step not in (None, at):
                continue
            try:
                restored = self._read(at, abstract_state, meta)
            except _Damaged as error:
                damaged[at] = error
                logging.error("checkpoint %d of %s cannot be used: %s", at, self.folder, error)
                continue
            if damaged and not self._read_only:
                self._set_aside(damaged)
            return restored
        if damaged:
            reasons = "\n".join(f"  - step {at}: {error}" for at, error in damaged.items())
            raise ValueError(f"no checkpoint in {self.folder} can be read:\n{reasons}\nmove them away to begin anew")
        return None

    def _read(self, step: int, abstract_state: Tree, meta: Meta) -> Restored:
        # Not by the manager: it ends with a barrier, at which the hosts would wait for one that could not read.
        record = _attempt(
            lambda: fingerprints.unsealed(ocp.JsonCheckpointHandler().restore(self.folder / str(step) / "record"))
        )
        described, of_ahead = record["leaves"], record["ahead"]
        if record["meta"].keys() != dataclasses.asdict(meta).keys():
            raise Mismatch(f"checkpoint {step} of {self.folder} is of another version of rcsd_jax")
        stored = Meta(**record["meta"])
        problems = compare_meta(stored, meta) + fingerprints.compare_shapes(described, abstract_state)
        if problems:
            listed = "\n".join(f"  - {problem}" for problem in problems)
            raise Mismatch(f"checkpoint {step} of {self.folder} belongs to another run:\n{listed}")
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), abstract_state)
        state = self._arrays(step, "state", target, described)
        empty = {path: np.empty(leaf["shape"], leaf["dtype"]) for path, leaf in of_ahead.items()}
        ahead = self._arrays(step, "ahead", traverse_util.unflatten_dict(empty, sep="/"), of_ahead) if empty else {}
        return Restored(step, state, stored, ahead)

    def _arrays(self, step: int, item: str, target: Tree, described: Mapping[str, Any]) -> Tree:
        path, wanted = self.folder / str(step) / item, ocp.args.StandardRestore(target)
        arrays = _attempt(lambda: ocp.StandardCheckpointHandler().restore(path, args=wanted))
        changed = [path for path, leaf in fingerprints.describe(arrays).items() if leaf != described[path]]
        if changed:
            raise _Damaged(f"the stored bits of {', '.join(changed[:5])} have changed ({len(changed)} arrays)")
        return arrays

    def _set_aside(self, damaged: Collection[int]) -> None:
        for step in damaged:
            aside = self.folder / f"bad_{step}"
            logging.error("checkpoint %d is kept as %s, the run goes back to an older one", step, aside)
            hosts.from_first(lambda step=step, aside=aside: self._move(step, aside))
        self._manager.reload()

    def _move(self, step: int, aside: epath.Path) -> None:
        if aside.exists():
            aside.rmtree()
        (self.folder / str(step)).rename(aside)


class _Damaged(Exception):
    """A checkpoint that cannot be read, or reads as something else than was saved."""


def _attempt(read: Callable[[], T]) -> T:
    """``read()`` on every host, or _Damaged on every host."""
    error, value = None, None
    try:
        value = read()
    except Exception as caught:  # the type depends on which file is damaged, and how
        error = caught
    first_line = (str(error).strip().splitlines() or [""])[0][:300]
    for host, failure in enumerate(hosts.exchange(error and f"{type(error).__name__}: {first_line}")):
        if failure is not None:
            raise _Damaged(f"{failure} (on host {host})" if jax.process_count() > 1 else failure) from error
    return value  # type: ignore[return-value]
