"""Several examples in one row, so that few tokens of a batch are padding.

Best fit: each example, in the order given, into the fullest row that still holds it; at most 17/10 of the fewest
possible rows (Johnson et al. 1974, doi:10.1137/0203025), in practice a few percent more. Sorted by length before, rows
would be somewhat fewer, but each of one kind of example: batches would differ more, and training would be worse.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rcsd_jax.types import TokenBatch


@dataclasses.dataclass(frozen=True)
class Example:
    """Text to learn from: the prompt is read, the target is learnt, its end-of-sequence token included."""

    prompt_ids: Sequence[int]
    target_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


def pack(examples: Sequence[Example], length: int) -> tuple[TokenBatch, int]:
    """Packs examples into rows of ``length`` tokens; no example is split, a longer one is left out.

        examples  [1 2 | 3 4]  [5 | 6]     length 8
        tokens    1 2 3 4 5 6 0 0
        positions 0 1 2 3 0 1 0 0
        segments  1 1 1 1 2 2 0 0
        weight    0 0 1 1 0 1 0 0

    Returns:
      the rows as numpy arrays [B, length], and how many examples were too long.

    Raises:
      ValueError: nothing is left to learn from.
    """
    sizes = [len(example) for example in examples]
    rows = _assign(sizes, length)
    if not rows:
        raise ValueError(f"none of {len(sizes)} examples fits a row of {length} tokens: give longer rows or more data")
    members = [index for row in rows for index in row]
    prompt_E = np.array([len(examples[index].prompt_ids) for index in members])
    size_E = np.array([sizes[index] for index in members])
    row_E = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    segment_E = np.concatenate([np.arange(1, len(row) + 1) for row in rows])
    behind_E = np.cumsum(size_E) - size_E  # tokens of all examples before
    first_E = np.searchsorted(row_E, row_E)  # the first example of the same row
    start_E = row_E * length + behind_E - behind_E[first_E]

    position_U = np.arange(size_E.sum()) - np.repeat(behind_E, size_E)
    tokens_U = np.fromiter(_tokens(examples, members), np.int32, len(position_U))
    # Nothing stands before the first token of a segment that could predict it.
    weight_U = position_U >= np.repeat(np.maximum(prompt_E, 1), size_E)
    at_U = np.repeat(start_E, size_E) + position_U

    def rows_of(values_U: np.ndarray, dtype: type) -> Any:  # a host array, it moves to the devices later
        flat = np.zeros(len(rows) * length, dtype)
        flat[at_U] = values_U
        return flat.reshape(len(rows), length)

    batch = TokenBatch(
        tokens_BT=rows_of(tokens_U, np.int32),
        positions_BT=rows_of(position_U, np.int32),
        segments_BT=rows_of(np.repeat(segment_E, size_E), np.int32),
        weight_BT=rows_of(weight_U, np.float32),
    )
    return batch, sum(size > length for size in sizes)


def _assign(sizes: Sequence[int], length: int) -> list[list[int]]:
    """The indices of the examples of every row; empty and over-long examples are in none."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, row), sorted
    for index, size in enumerate(sizes):
        if not 0 < size <= length:
            continue
        fullest = bisect.bisect_left(free, (size, 0))
        if fullest < len(free):
            room, row = free.pop(fullest)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(index)
        bisect.insort(free, (room - size, row))
    return rows


def _tokens(examples: Sequence[Example], members: Sequence[int]) -> Iterator[int]:
    for index in members:
        yield from examples[index].prompt_ids
        yield from examples[index].target_ids
