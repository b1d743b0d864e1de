"""Files of rows: JSON lines, one JSON array, CSV or Parquet. A bad row is named by file, line and column.

    questions.jsonl has 2 bad rows:
      - questions.jsonl:7:32: not JSON, Expecting ',' delimiter
      - questions.jsonl:9: field 'answer' is missing; did you mean 'anwser'? (the row has anwser, id, question)

Problems are worth more than a line of a log: nothing is skipped unless the caller says how many rows may be.
"""

from __future__ import annotations

import csv
import difflib
import importlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from absl import logging
from etils import epath

T = TypeVar("T")
Row = Mapping[str, Any]

_SHOWN = 20  # faults in one message
_KINDS = (".jsonl", ".json", ".csv", ".parquet")


class RowError(ValueError):
    """What is wrong with one row; ``column`` counts from 1 where the place in the line is known."""

    def __init__(self, message: str, column: int | None = None):
        super().__init__(message)
        self.column = column


def rows_of(path: epath.Path) -> Iterator[tuple[int, Row | RowError]]:
    """The rows of a file whose name ends in .jsonl, .json, .csv or .parquet, each with its line.

    The line is the physical one for JSON lines and CSV, and the number of the row, from 1, in JSON and Parquet.

    Raises:
      ValueError: a file that cannot be read as rows.
      FileNotFoundError: there is no such file.
    """
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise ValueError(f"{path}: no reader for {kind or 'a name without ending'}: rename or convert it to {_KINDS}")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return {".jsonl": _json_lines, ".json": _json_array, ".csv": _csv, ".parquet": _parquet}[kind](path)


def parse_rows(
    rows: Iterable[tuple[int, Row | RowError]], parse: Callable[[Row, int], T], path: epath.Path, *, max_bad_rows: int
) -> list[tuple[int, T]]:
    """All rows of the file ``path`` as (line, ``parse(row, line)``).

    Args:
      rows: as of ``rows_of``.
      parse: raises RowError for a row that it cannot take.
      path: for the messages.
      max_bad_rows: up to so many bad rows are left out, with a warning that counts and names them.

    Raises:
      ValueError: bad rows (up to 20 of them, in one message), or no rows at all.
    """
    good: list[tuple[int, T]] = []
    faults: list[str] = []
    for line, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            good.append((line, parse(row, line)))
        except RowError as error:
            column = f":{error.column}" if error.column else ""
            faults.append(f"{path}:{line}{column}: {error}")
            if len(faults) > max(max_bad_rows, _SHOWN):
                break
    listed = "\n".join(f"  - {fault}" for fault in faults[:_SHOWN])
    if len(faults) > max_bad_rows:
        count = f"more than {_SHOWN}" if len(faults) > _SHOWN else f"{len(faults)}"
        raise ValueError(
            f"{path} has {count} bad row{'s' if len(faults) > 1 else ''}:\n{listed}\n"
            "mend them, or allow some to be left out with config.data.max_bad_rows"
        )
    if not good:
        raise ValueError(f"{path} holds no rows: is it the right file, and was it written to the end?")
    if faults:
        logging.warning("%s: left out %d bad rows of %d:\n%s", path, len(faults), len(faults) + len(good), listed)
    return good


def text_of(row: Row, field: str, *, known: Iterable[str] = (), blank: bool = False) -> str:
    """The text of a required field; a number becomes its shortest text.

    Raises:
      RowError: the field is missing, null, blank (unless ``blank``), or no text; the message says what to do.
    """
    if field not in row:
        raise RowError(_missing(row, field, known))
    return as_text(row[field], field, blank=blank)


def as_text(value: Any, field: str, *, blank: bool = False) -> str:
    """``value`` as text; errors as of ``text_of``."""
    if isinstance(value, (list, tuple, Mapping)):
        raise RowError(f"field {field!r} is {_kind(value)}: give one text, or one row for each of its values")
    if isinstance(value, bool):
        raise RowError(f"field {field!r} is {json.dumps(value)}: write it as text, 'yes' or 'true'")
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        unknown = f", or '' where the {field} is not known" if blank else ""
        raise RowError(f"field {field!r} is {'null' if value is None else value}: give a text{unknown}")
    text = str(value)
    if not (blank or text.strip()):
        raise RowError(f"field {field!r} is empty: give a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"field {field!r} has half of a surrogate pair at character {error.start + 1}") from None
    return text


def optional_text(row: Row, field: str) -> str | None:
    """The text of a field, or None where it is missing, null or blank."""
    value = row.get(field)
    return None if value is None or not str(value).strip() else as_text(value, field)


def _missing(row: Row, field: str, known: Iterable[str]) -> str:
    names = {str(name).casefold(): str(name) for name in row}
    near = difflib.get_close_matches(field.casefold(), sorted(names), n=1, cutoff=0.6)
    hint = f"; did you mean {names[near[0]]!r}?" if near else ""
    fields = f"; the fields are {', '.join(known)}" if known else ""
    return f"field {field!r} is missing{hint} (the row has {', '.join(sorted(names.values())) or 'no fields'}{fields})"


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else "a list"


def _json_lines(path: epath.Path) -> Iterator[tuple[int, Row | RowError]]:
    # Binary, split at \n alone: text mode would also split at U+2028 and shift every line number behind it.
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
            if raw.strip():
                yield line, _decoded(raw)


def _decoded(raw: bytes) -> Row | RowError:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return RowError("the file is UTF-16: convert it to UTF-8")
    if b"\0" in raw:
        return RowError("NUL bytes: the file is damaged, fetch or write it again", raw.index(b"\0") + 1)
    try:
        row = json.loads(raw.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return RowError(f"byte 0x{raw[error.start]:02x} is not UTF-8: convert the file", error.start + 1)
    except json.JSONDecodeError as error:
        cut = "" if raw.endswith(b"\n") else " (the file ends here without a line break: was it cut off?)"
        return RowError(f"not JSON, {error.msg}{cut}", error.colno)
    except (ValueError, RecursionError) as error:  # NaN, a number of thousands of digits, a thousand nested lists
        return RowError(f"not JSON, {error}")
    return row if isinstance(row, Mapping) else RowError(f"a row is an object {{...}}, this is {json.dumps(row)[:40]}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _json_array(path: epath.Path) -> Iterator[tuple[int, Row | RowError]]:
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds {_kind(rows)}: give a JSON array of objects")
    for number, row in enumerate(rows, 1):
        yield number, row if isinstance(row, Mapping) else RowError("a row is an object {...}")


def _csv(path: epath.Path) -> Iterator[tuple[int, Row | RowError]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}: convert it") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        whole = None not in row and None not in row.values()
        yield reader.line_num, row if whole else RowError("the row has another number of cells than the first line")


def _parquet(path: epath.Path) -> Iterator[tuple[int, Row | RowError]]:
    try:
        pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from error
    with path.open("rb") as file:
        try:
            batches = parquet.ParquetFile(file).iter_batches()
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path} is not Parquet: {error}") from error
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
