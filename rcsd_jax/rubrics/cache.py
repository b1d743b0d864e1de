"""Rubrics on disk: each is generated once, and a run that was killed goes on where it stopped.

The file is JSON lines, a ``journal.Journal``: in a bucket, hand a batch at a time to ``extend``, from one process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

from rcsd_jax.journal import Journal
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
        self._writes, self._journal = writes, Journal(path)
        self._entries: dict[str, Entry] = {}
        self._questions: dict[str, str] = {}
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
                    f"{self._journal.name} has several rubrics for {question[:60]!r}: use one file for each "
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
        for line in self._journal.read():
            digest, question, entry = self._parse_line(line)
            if digest not in self._entries:
                self._entries[digest], self._questions[digest] = entry, question
            self._lines += 1

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
        with self._journal.locked() as append:
            self.refresh()
            new = {key.digest: _to_line(key, entry) for key, entry in reversed(list(pairs))}
            lines = [line for digest, line in reversed(new.items()) if digest not in self._entries]
            if lines:
                append(lines)
        self.refresh()

    def _parse_line(self, line: bytes) -> tuple[str, str, Entry]:
        try:
            record = json.loads(line)
            rubric = None if record["rubric"] is None else from_objects(record["rubric"], origin=record["origin"])
            entry = Entry(rubric, record["reason"], record["attempts"], record["text"])
            return record["key"], record["question"], entry
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._journal.name}:{self._lines + 1}: no record of a rubric cache ({type(error).__name__}: "
                f"{error}); remove the line to have its rubric generated again, or choose another path"
            ) from error


def _to_line(key: RubricKey, entry: Entry) -> bytes:
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
    return json.dumps(record, allow_nan=False).encode("ascii")


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode("ascii")).hexdigest()
