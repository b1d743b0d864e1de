"""Files that appear whole or not at all, on a disk or in a bucket."""

from __future__ import annotations

import os

from etils import epath


def write_whole(path: os.PathLike[str] | str, text: str) -> None:
    """Writes beside the file and renames, so that neither a reader nor a killed run ever meets half of it."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.parent / (path.name + ".tmp")
    half.write_bytes(text.encode())
    half.replace(path)
