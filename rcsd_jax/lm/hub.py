"""Where a model's files are: a local folder, or a copy of a Hugging Face repository."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors
from etils import epath

# Never a pickle (*.bin, *.pth): unpickling runs code of the file's author.
TOKENIZER_PATTERNS = (
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
CONFIG_PATTERNS = ("config.json", "generation_config.json")
WEIGHT_PATTERNS = ("model*.safetensors", "model.safetensors.index.json")


def fetch(source: str | Path, patterns: Sequence[str]) -> Path:
    """The folder that holds the files of ``source``, downloaded first if it is a hub id.

    Args:
      source: a folder, one in a bucket ("gs://..."), or an id such as "Qwen/Qwen3-1.7B".
      patterns: what to download; a local folder is taken as it is.

    Raises:
      ValueError: neither a folder nor a hub id, or the hub does not give it.
    """
    if "://" in str(source):
        return _copied(epath.Path(source), patterns)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)):
        raise ValueError(
            f"model {str(source)!r} is no folder and no hub id: give a folder, or an id like Qwen/Qwen3-1.7B"
        )
    try:
        return Path(huggingface_hub.snapshot_download(str(source), allow_patterns=list(patterns)))
    except huggingface_hub.errors.GatedRepoError as error:
        raise ValueError(
            f"model {source} is gated: accept its licence on its hub page, then run `hf auth login`"
        ) from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"model {source} is no folder here and not on the hub: check the name; a private one needs `hf auth login`"
        ) from error
    except (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"model {source} cannot be fetched ({type(error).__name__}: {error}): check the network and the disk, "
            "or give the path of a downloaded folder"
        ) from error


def altered(folder: Path) -> tuple[list[str], int]:
    """The files of weights whose bits are not those that the hub sent, and how many could be compared.

    The hub's client keeps the SHA-256 of a large file: as the name of what a link in its cache points to, or beside a
    folder that it was told to download to. Files that came in another way cannot be compared.
    """
    changed, compared = [], 0
    for path in sorted(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern)):
        told = folder / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
        lines = told.read_text().split() if told.exists() else []
        wanted = lines[1] if len(lines) > 1 else path.resolve().name
        if not re.fullmatch("[0-9a-f]{64}", wanted):
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        compared += 1
        if found != wanted:
            changed.append(path.name)
    return changed, compared


def _copied(bucket: epath.Path, patterns: Sequence[str]) -> Path:
    """The files of a folder in a bucket, as they are now, below this machine's folder for temporary files."""
    if not bucket.is_dir():
        raise ValueError(f"model {bucket} is not there: check the name, and the access to the bucket")
    name = hashlib.sha256(os.fspath(bucket).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "rcsd_jax_models" / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in bucket.iterdir():
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns):
            continue
        there, here = path.stat(), folder / path.name
        if not here.exists() or here.stat().st_size != there.length or here.stat().st_mtime < there.mtime:
            unfinished = folder / f".{path.name}.{os.getpid()}"  # other processes of this machine may do the same
            path.copy(unfinished, overwrite=True)
            os.replace(unfinished, here)
    return folder
