"""Rubrics on disk: each is generated once, and a run that was killed goes on where it stopped.

The file is JSON lines, only ever appended to. A record counts once its line break is on disk: what a killed process
left of its last line is not read, and is cut off by the next append. Several processes may append to one local file.
Buckets (gs://...) have no append: there every call to ``extend`` rewrites the object, so hand over a batch at a time
and from one process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Iterable
from typing import Any

from etils import epath

from rcsd_jax.rubrics.rubric import from_objects, to_objects
from rcsd_jax.types import Rubric


@dataclasses.dataclass(frozen=True)
class RubricKey:
    """What a generated rubric depends on; if one of the four changes, the rubric is generated anew.

    ``question`` is its text, ``generator`` names the weights (a path with its step, a hub id with its revision),
    ``prompt`` is the prompt as rendered, ``sampling`` the settings and the seed as text.
    """

    question: str
    generator: str
    prompt: str
    sampling: str

    @property
    def digest(self) -> str:
        """SHA-256 of the four, as hexadecimal digits."""
        return _sha256(list(dataclasses.astuple(self)))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A rubric, or the reason (such as those of ``rubric.REASONS``) why there is none, with the last text tried."""

    rubric: Rubric | None
    reason: str = ""
    attempts: int = 1
    text: str = ""

    def __post_init__(self):
        if (self.rubric is None) == (self.reason == ""):
            raise ValueError(f"an entry has either a rubric or a reason, got {self.rubric} and {self.reason!r}")


class RubricCache:
    """The entries of one file. Reading never writes, and a missing file is an empty cache.

    Args:
      path: of the file.
      writes: False for one that only remembers what it is given, as where another host writes the same.

    Raises:
      ValueError: a complete line that is no record, named by file and line.
    """

    def __init__(self, path: os.PathLike[str] | str, *, writes: bool = True):
        self._writes = writes
        self._path = epath.Path(path)
        self._name = os.fspath(self._path)
        self._is_local = "://" not in self._name
        self._entries: dict[str, Entry] = {}
        self._questions: dict[str, str] = {}
        self._offset = 0  # bytes of the complete lines read so far
        self._lines = 0
        self.refresh()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: RubricKey) -> bool:
        return key.digest in self._entries

    def get(self, key: RubricKey) -> Entry | None:
        """The entry of a key, None if nothing was tried for it yet."""
        return self._entries.get(key.digest)

    def entries(self) -> list[Entry]:
        """All entries in the order of the file."""
        return list(self._entries.values())

    def by_question(self) -> dict[str, Rubric]:
        """The rubric of each question by its text; questions that were dropped are left out.

        Raises:
          ValueError: a question has several rubrics, of different generators, prompts or settings.
        """
        found: dict[str, Rubric] = {}
        for digest, entry in self._entries.items():
            question = self._questions[digest]
            if entry.rubric is None:
                continue
            if question in found:
                raise ValueError(
                    f"{self._name} has several rubrics for {question[:60]!r}: use one file for each "
                    "generator, prompt and sampling settings"
                )
            found[question] = entry.rubric
        return found

    def content_hash(self, keys: Iterable[RubricKey] | None = None) -> str:
        """SHA-256 of the rubrics (of ``keys`` only, if given), whatever the order they were added in."""
        digests = self._entries if keys is None else {key.digest for key in keys}
        rows = ((digest, self._entries.get(digest)) for digest in sorted(digests))
        return _sha256([[digest, to_objects(e.rubric) if e and e.rubric else None] for digest, e in rows])

    def refresh(self) -> None:
        """Read what was added since, by this or by another process."""
        if not self._path.exists():
            return
        if self._path.stat().length < self._offset:
            raise ValueError(f"{self._name} shrank while it was open; open the cache again")
        if self._is_local:
            with open(self._name, "rb") as file:
                file.seek(self._offset)
                self._read(file.read())
        else:
            self._read(self._path.read_bytes()[self._offset :])

    def append(self, key: RubricKey, entry: Entry) -> None:
        """Add one entry; when this returns it is on disk. If the key has an entry already, the first one stays."""
        self.extend([(key, entry)])

    def extend(self, pairs: Iterable[tuple[RubricKey, Entry]]) -> None:
        """``append`` for several entries with one write: a crash keeps the first of them, none of them halved."""
        if not self._writes:
            for key, entry in pairs:
                self._entries.setdefault(key.digest, entry)
                self._questions.setdefault(key.digest, key.question)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() if self._is_local else contextlib.nullcontext() as descriptor:
            self.refresh()
            new = {key.digest: _to_line(key, entry) for key, entry in reversed(list(pairs))}
            lines = [line for digest, line in reversed(new.items()) if digest not in self._entries]
            if not lines:
                return
            data = "".join(lines).encode("ascii")
            if descriptor is None:
                known = self._path.read_bytes()[: self._offset] if self._offset else b""
                self._path.write_bytes(known + data)
            else:
                _append(descriptor, self._offset, data, self._name)
            self._read(data)

    def _read(self, data: bytes) -> None:
        for line in data.split(b"\n")[:-1]:  # what follows the last line break is half a record
            digest, question, entry = self._parse_line(line)
            if digest not in self._entries:
                self._entries[digest], self._questions[digest] = entry, question
            self._offset += len(line) + 1
            self._lines += 1

    def _parse_line(self, line: bytes) -> tuple[str, str, Entry]:
        try:
            record = json.loads(line)
            rubric = None if record["rubric"] is None else from_objects(record["rubric"], origin=record["origin"])
            entry = Entry(rubric, record["reason"], record["attempts"], record["text"])
            return record["key"], record["question"], entry
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._name}:{self._lines + 1}: no record of a rubric cache ({type(error).__name__}: {error}); "
                "remove the line to have its rubric generated again, or choose another path"
            ) from error

    @contextlib.contextmanager
    def _locked(self) -> Generator[int, None, None]:
        is_new = not self._path.exists()
        descriptor = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # released by close, also when the process is killed
            if is_new:
                _sync_folder(os.fspath(self._path.parent))
            yield descriptor
        finally:
            os.close(descriptor)


def _append(descriptor: int, end: int, data: bytes, name: str) -> None:
    """Put ``data`` after the ``end`` of the last complete line, all of it or nothing. Needs the lock."""
    os.ftruncate(descriptor, end)  # under the lock, anything behind the last complete line is a dead writer's
    try:
        written = os.write(descriptor, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes could be written", name)
    except OSError:
        os.ftruncate(descriptor, end)
        raise
    os.fsync(descriptor)


def _sync_folder(folder: str) -> None:
    """Make a new file's name durable, not only its bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_line(key: RubricKey, entry: Entry) -> str:
    # The prompt is kept as a hash: it holds the question again, and much else that is the same in every line.
    record: dict[str, Any] = {
        "key": key.digest,
        "question": key.question,
        "generator": key.generator,
        "prompt_sha256": _sha256(key.prompt),
        "sampling": key.sampling,
        "origin": entry.rubric.origin if entry.rubric else None,
        "rubric": to_objects(entry.rubric) if entry.rubric else None,
        "reason": entry.reason,
        "attempts": entry.attempts,
        "text": entry.text,
    }
    return json.dumps(record, allow_nan=False) + "\n"


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode("ascii")).hexdigest()
