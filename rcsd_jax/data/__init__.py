"""The data room: problems from files, problems made up, and both as batches.

``read`` turns a file of any schema in ``READERS`` into problems, ``read_jsonl`` and ``write_jsonl`` are our own; a bad
row is named by file, line and field. ``divide`` makes splits by a hash of the question, so that they share none.
``batches(source, ...)[t]`` is a pure function of the seed and t. ``pad_prompts`` gives prompts one of a few widths,
``pack`` puts several examples into one row. ``science`` is a world of made-up questions whose every answer and every
step can be checked by a program.
"""

from rcsd_jax.data import science
from rcsd_jax.data.packing import Example, pack
from rcsd_jax.data.pipeline import Batches, batches, pad_prompts
from rcsd_jax.data.problems import (
    content_hash,
    divide,
    drop_repeats,
    question_hash,
    read_jsonl,
    write_jsonl,
)
from rcsd_jax.data.readers import READERS, read
from rcsd_jax.data.rows import RowError

__all__ = [
    "READERS",
    "Batches",
    "Example",
    "RowError",
    "batches",
    "content_hash",
    "divide",
    "drop_repeats",
    "pack",
    "pad_prompts",
    "question_hash",
    "read",
    "read_jsonl",
    "science",
    "write_jsonl",
]
