"""Problems as JSON lines, and the sets they form: no id twice, no question in two splits.

{"id": "q1", "question": "What force gives 3 kg an acceleration of 4 m/s^2?", "answer": "12 N"}
{"id": "q2", "question": "Which is a vector?", "answer": "B", "choices": ["mass", "velocity"],
 "solution": "...", "rubric": [{"title": "...", "description": "...", "weight": 7}], "source": "textbook"}
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from rcsd_jax.data.rows import Row, RowError, as_text, parse_rows, rows_of, text_of
from rcsd_jax.files import write_whole
from rcsd_jax.types import Criterion, Problem, Rubric

# Of the native schema. The first three are required; "rubric_origin" says where the rubric came from.
FIELDS = ("id", "question", "answer", "solution", "choices", "rubric", "rubric_origin", "source")
_MAX_CHOICES = 26


def read_jsonl(path: os.PathLike[str] | str, *, max_bad_rows: int = 0) -> list[Problem]:
    """The problems of a file, in its order.

    An id may come again with the same question (several solutions of it, say): that is a warning. ``"answer": ""``
    stands for a reference that is not known. Fields that nobody knows are not looked at, unless they look misspelt.

    Raises:
      ValueError: bad rows, each with file, line, column or field, and what to do; as of ``rows.parse_rows``.
      FileNotFoundError: there is no such file.
    """
    first: dict[str, tuple[int, str]] = {}
    again = []

    def parse(row: Row, line: int) -> Problem:
        problem = to_problem(row)
        seen_line, seen_question = first.setdefault(problem.id, (line, problem.question))
        if seen_question != problem.question:
            raise RowError(f"id {problem.id!r} is the id of another question in line {seen_line}: ids must be unique")
        if seen_line != line:
            again.append(line)
        return problem

    path = epath.Path(path)
    problems = [problem for _, problem in parse_rows(rows_of(path), parse, path, max_bad_rows=max_bad_rows)]
    if again:
        logging.warning("%s: %d rows repeat an id with its question, first in line %d", path, len(again), again[0])
    return problems


def write_jsonl(path: os.PathLike[str] | str, problems: Iterable[Problem]) -> None:
    """Writes what ``read_jsonl`` reads back as equal problems; beside the file first, so that it is never half there.

    Raises:
      ValueError: a problem that ``read_jsonl`` would refuse.
    """
    lines = []
    for problem in problems:
        row = to_row(problem)
        try:
            to_problem(row)
        except RowError as error:
            raise ValueError(f"problem {problem.id!r} cannot be written: {error}") from error
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(path, "".join(lines))


def to_problem(row: Row) -> Problem:
    """A problem from a row of the native schema.

    Raises:
      RowError: a field is missing, misspelt, or not what it should be.
    """
    _refuse_misspelt(row)
    choices = _choices(row)
    answer = text_of(row, "answer", known=FIELDS, blank=True)
    if choices and answer and not _names_a_choice(answer, choices):
        raise RowError(f"field 'answer' is {answer[:40]!r}: give the letter of a choice (A is the first) or its text")
    return Problem(
        id=text_of(row, "id", known=FIELDS),
        question=text_of(row, "question", known=FIELDS),
        answer=answer,
        solution=None if row.get("solution") is None else as_text(row["solution"], "solution", blank=True),
        choices=choices,
        rubric=_rubric(row),
        source="" if row.get("source") is None else as_text(row["source"], "source", blank=True),
    )


def to_row(problem: Problem) -> dict[str, Any]:
    """The native schema, without the fields that say nothing."""
    row: dict[str, Any] = {"id": problem.id, "question": problem.question, "answer": problem.answer}
    if problem.solution is not None:
        row["solution"] = problem.solution
    if problem.choices:
        row["choices"] = list(problem.choices)
    if problem.rubric is not None:
        row["rubric"] = [dataclasses.asdict(criterion) for criterion in problem.rubric.criteria]
        row["rubric_origin"] = problem.rubric.origin
    if problem.source:
        row["source"] = problem.source
    return row


def question_hash(problem: Problem) -> str:
    """The same for two problems that ask the same: spaces, end marks and the order of choices do not count.

    Case does: Aa x aa is another cross than Aa x Aa, and Co is not CO.
    """
    return digest(_normal(problem.question), *sorted(map(_normal, problem.choices)))


def digest(*texts: str) -> str:
    """SHA-256 over texts, as hexadecimal digits; ("ab", "c") and ("a", "bc") differ."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def content_hash(problems: Sequence[Problem]) -> str:
    """One hash of everything in a set of problems, for the record of a run."""
    return digest(*(json.dumps(to_row(problem), sort_keys=True) for problem in problems))


def drop_repeats(problems: Sequence[Problem]) -> tuple[list[Problem], int]:
    """The first problem of every question, and how many others there were."""
    unique: dict[str, Problem] = {}
    for problem in problems:
        unique.setdefault(question_hash(problem), problem)
    return list(unique.values()), len(problems) - len(unique)


def divide(problems: Sequence[Problem], shares: Mapping[str, float], rest: str) -> dict[str, list[Problem]]:
    """Splits by a hash of the question: a problem keeps its split whatever else is in the file.

    Versions of a question that differ in nothing but their choices stay together.

    Args:
      problems: in any order, which the splits keep.
      shares: split name to the share of all questions that it gets, about.
      rest: the split that takes what the shares leave.

    Raises:
      ValueError: a share is negative, or they sum to more than 1.
    """
    if any(share < 0 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"shares are {dict(shares)}: give numbers from 0 that sum to at most 1")
    splits: dict[str, list[Problem]] = {rest: [], **{name: [] for name in shares}}
    for problem in problems:
        asked = _normal(problem.question).casefold()
        point = int(digest("split", asked)[:13], 16) / 16**13  # in [0, 1), exact as a float
        for name, share in shares.items():
            if point < share:
                splits[name].append(problem)
                break
            point -= share
        else:
            splits[rest].append(problem)
    return splits


def _normal(text: str) -> str:
    # NFC, not NFKC: 10² must not become 102. End marks only: x+1 and x-1 are two questions.
    return " ".join(unicodedata.normalize("NFC", text).split()).rstrip(" .?!:")


def _refuse_misspelt(row: Row) -> None:
    absent = [field for field in FIELDS if field not in row]
    for name in row:
        near = difflib.get_close_matches(str(name).casefold(), absent, n=1, cutoff=0.8)
        if name not in FIELDS and near:
            raise RowError(f"field {name!r} is unknown; did you mean {near[0]!r}? (the fields are {', '.join(FIELDS)})")


def _choices(row: Row) -> tuple[str, ...]:
    value = row.get("choices")
    if value is None:
        return ()
    if not isinstance(value, list) or not 2 <= len(value) <= _MAX_CHOICES:
        raise RowError(
            f"field 'choices' is {str(value)[:40]!r}: give a list of 2 to {_MAX_CHOICES} texts, or leave it out"
        )
    return tuple(as_text(choice, f"choices[{i}]") for i, choice in enumerate(value))


def _names_a_choice(answer: str, choices: Sequence[str]) -> bool:
    return answer in choices or (len(answer) == 1 and 0 <= ord(answer) - ord("A") < len(choices))


def _rubric(row: Row) -> Rubric | None:
    value = row.get("rubric")
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise RowError(f"field 'rubric' is {str(value)[:40]!r}: give a list of criteria, or leave it out")
    criteria = tuple(_criterion(item, f"rubric[{i}]") for i, item in enumerate(value))
    return Rubric(criteria, text_of({"rubric_origin": "ground_truth", **row}, "rubric_origin"))


def _criterion(item: Any, where: str) -> Criterion:
    if not isinstance(item, Mapping):
        raise RowError(f"{where} is {str(item)[:40]!r}: a criterion is an object with title, description, weight")
    for field in ("title", "description", "weight"):
        if field not in item:
            raise RowError(f"{where}: field {field!r} is missing (it has {', '.join(map(str, item)) or 'no fields'})")
    weight = item["weight"]
    # The bound keeps out NaN, infinities and whole numbers that no float can hold.
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) < 1e300:
        raise RowError(f"{where}.weight is {weight!r}: give a finite number")
    title, description = (as_text(item[field], f"{where}.{field}") for field in ("title", "description"))
    return Criterion(title, description, float(weight))
