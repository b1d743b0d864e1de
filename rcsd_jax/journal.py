"""A file of lines that is only ever appended to, by several processes and through crashes.

A line counts once its line break is on disk: what a killed process left of its last line is not read, and is cut off by
the next append. Several processes may append to one local file. Buckets (gs://...) have no append: there every append
rewrites the object, so hand over many lines at a time and from one process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
from collections.abc import Callable, Generator, Sequence

from etils import epath


class Journal:
    """The lines of one file. Reading never writes, and a missing file is an empty journal."""

    def __init__(self, path: os.PathLike[str] | str):
        self._path = epath.Path(path)
        self.name = os.fspath(self._path)
        self._is_local = "://" not in self.name
        self._offset = 0  # bytes of the complete lines read so far

    def read(self) -> list[bytes]:
        """The lines that were added since the last look, by this or by another process.

        Raises:
          ValueError: the file shrank.
        """
        if not self._path.exists():
            return []
        if self._path.stat().length < self._offset:
            raise ValueError(f"{self.name} shrank while it was open; open it again")
        if self._is_local:
            with open(self.name, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        else:
            data = self._path.read_bytes()[self._offset :]
        lines = data.split(b"\n")[:-1]  # what follows the last line break is half a line
        self._offset += sum(len(line) + 1 for line in lines)
        return lines

    @contextlib.contextmanager
    def locked(self) -> Generator[Callable[[Sequence[bytes]], None], None, None]:
        """Gives ``append(lines)`` while no other process appends; first ``read`` what others have added.

        Lines have no line breaks. When ``append`` returns they are on disk; a crash keeps the first of them, none of
        them halved. They are new lines to the next ``read``.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._is_local:
            yield self._rewrite
            return
        is_new = not self._path.exists()
        descriptor = os.open(self.name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # released by close, also when the process is killed
            if is_new:
                _sync_folder(os.fspath(self._path.parent))
            yield functools.partial(self._append, descriptor)
        finally:
            os.close(descriptor)

    def _append(self, descriptor: int, lines: Sequence[bytes]) -> None:
        """Put the lines after the last complete one, all of them or nothing. Needs the lock."""
        data = _joined(lines)
        os.ftruncate(descriptor, self._offset)  # under the lock, anything behind it is a dead writer's
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes could be written", self.name)
        except OSError:
            os.ftruncate(descriptor, self._offset)
            raise
        os.fsync(descriptor)

    def _rewrite(self, lines: Sequence[bytes]) -> None:
        known = self._path.read_bytes()[: self._offset] if self._offset else b""
        self._path.write_bytes(known + _joined(lines))


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _sync_folder(folder: str) -> None:
    """Make a new file's name durable, not only its bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
