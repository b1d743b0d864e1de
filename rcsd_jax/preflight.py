"""Before anything is compiled: the hosts of a run are alike, they share its folder, and nobody else has it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath

from rcsd_jax import config, hosts, sharding
from rcsd_jax.lm import cpu

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "grain", "numpy")
# What else decides which program a host compiles: a collective of two different ones hangs.
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64")
_HASHED_BYTES = 64 * 2**20  # weights are larger, and told apart by their sizes
_SEEN_SECONDS = 30.0  # for a file of host 0 to appear to the others
_BEAT_SECONDS = 10.0


def facts(experiment: config.Experiment) -> dict[str, Any]:
    """What has to be the same on every host: {"config": ..., "packages": ..., "code": ..., "files": ...}."""
    paths = {experiment.data.path, experiment.rubrics.path, experiment.model.source} - {""}
    return {
        "config": json.loads(config.to_json(experiment)),
        "packages": packages(),
        "python": platform.python_version(),
        "code": _hash_of(sorted(Path(__file__).parent.rglob("*.py"))),
        "processor": {"matrix unit": cpu.has_matrix_unit()} if sharding.platform() == "cpu" else {},
        "environment": {name: os.environ.get(name) for name in _VARIABLES},
        "files": {path: _contents(epath.Path(path)) for path in sorted(paths)},
    }


def packages() -> dict[str, str]:
    """The versions of what the numbers of a run depend on, and of libtpu and the CUDA plugin where they are."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name in ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _contents(path: epath.Path) -> Any:
    """A hash of a file; of a folder its files; None for what is not there, such as the id of a hub."""
    if not path.exists():
        return None
    if path.is_dir():
        return {entry.name: _contents(entry) for entry in path.iterdir() if entry.is_file()}
    size = path.stat().length
    return f"{size} bytes" if size > _HASHED_BYTES else _hash_of([path])


def _hash_of(paths: list[Any]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


class Taken(ValueError):
    """Another run has the folder."""


@contextlib.contextmanager
def claimed(folder: epath.Path) -> Iterator[None]:
    """While it is open, ``folder`` is this run's alone, and all of its hosts see it.

    Raises:
      Taken: another run has it.
      ValueError: it cannot be written to.
      hosts.HostError: some hosts do not see what host 0 writes there.
    """
    with contextlib.ExitStack() as stack:

        def lock() -> tuple[str, bool]:
            try:
                return stack.enter_context(_locked(folder)), True
            except Taken as error:  # the same on every host, so that all can turn to something else
                return str(error), False

        run, is_ours = hosts.from_first(lock)
        if not is_ours:
            raise Taken(run)
        sees = hosts.is_first() or _comes_to_see(folder, run)
        blind = [str(host) for host, seen in enumerate(hosts.exchange(sees)) if not seen]
        if blind:
            raise hosts.HostError(
                f"host {', '.join(blind)} cannot see what host 0 writes to {folder}: give a --workdir that all hosts "
                "share, such as gs://bucket/runs/x"
            )
        yield


def _comes_to_see(folder: epath.Path, run: str) -> bool:
    end = time.monotonic() + _SEEN_SECONDS
    while time.monotonic() < end:
        if _holder(folder / "lock").get("run") == run:
            return True
        time.sleep(0.2)
    return False


@contextlib.contextmanager
def _locked(folder: epath.Path) -> Iterator[str]:
    """The lock file says who has the folder; the id of this run. What holds a killed run's lock goes with it."""
    me = {"run": secrets.token_hex(8), "host": socket.gethostname(), "pid": os.getpid()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made ({error}): give a --workdir that can be written to") from error
    lock = folder / "lock"
    if "://" not in os.fspath(folder):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ValueError(f"{folder} cannot be written to ({error}): give another --workdir") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it, whatever ends the process
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _taken(folder) from error
            logging.warning("%s has no file locks (%s): the lock is a file with a heartbeat", folder, error)
        else:
            try:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(me).encode())
                yield me["run"]
            finally:
                os.close(descriptor)
            return
    with _beating(folder, lock, me):
        yield me["run"]


@contextlib.contextmanager
def _beating(folder: epath.Path, lock: epath.Path, me: dict[str, Any]) -> Iterator[None]:
    """Where nothing is locked, as in a bucket: a file that changes as long as its run lives. No clocks are compared."""
    before = _holder(lock)
    if before:
        logging.warning("%s was left by another run: waiting whether it still lives", lock)
        time.sleep(3 * _BEAT_SECONDS)
        if _holder(lock) not in (before, {}):
            raise _taken(folder)
    gone = threading.Event()

    def beat() -> None:
        count = 0
        while not gone.wait(_BEAT_SECONDS):
            count += 1
            try:
                lock.write_text(json.dumps({**me, "beat": count}))
            except OSError as error:
                logging.warning("%s cannot be written (%s)", lock, error)

    lock.write_text(json.dumps(me))
    time.sleep(_BEAT_SECONDS / 5)
    if _holder(lock) != me:  # two began at once: the last one to write has it
        raise _taken(folder)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        gone.set()
        thread.join()
        lock.unlink(missing_ok=True)


def _holder(lock: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(lock.read_text())
    except (OSError, ValueError):
        return {}


def _taken(folder: epath.Path) -> Taken:
    holder = _holder(folder / "lock")
    return Taken(
        f"{folder} is in use by process {holder.get('pid')} of {holder.get('host')}: wait for its end, or give another "
        "--workdir"
    )
