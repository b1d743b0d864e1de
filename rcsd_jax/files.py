"""Files that appear whole or not at all, on a disk or in a bucket."""

from __future__ import annotations

import os

import fsspec.config
from etils import epath

# Gcsfs remembers what it has listed: from then on it would not see a STOP file, nor that another run's lock changes.
for _bucket in ("gs", "gcs"):
    fsspec.config.conf.setdefault(_bucket, {})["use_listings_cache"] = False


def write_whole(path: os.PathLike[str] | str, text: str) -> None:
    """Writes beside the file and renames, so that neither a reader nor a killed run ever meets half of it.

    In a bucket an object is there once all of it is, and to rename it would be to copy it.
    """
    path = epath.Path(path)
    if "://" in os.fspath(path):
        path.write_bytes(text.encode())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.parent / (path.name + ".tmp")
    half.write_bytes(text.encode())
    half.replace(path)
