"""What a run gets from elsewhere: its model, from a folder or the hub; its bucket; its judge."""

from __future__ import annotations

import functools
import json
import os
import secrets
import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub
import jax
from etils import epath

from rcsd_jax import lm
from rcsd_jax.checks.finding import PATIENCE, Asked, Finding, within


def hub(asked: Asked) -> Finding:
    """Whether the hub gives the model, where it has to come from there."""
    if asked.experiment is None:
        return Finding("skipped", "no --config")
    source = asked.experiment.model.source
    if source == "science" or Path(source).expanduser().is_dir():
        return Finding("skipped", f"config.model.source is {source!r}: nothing is fetched")
    try:
        found = huggingface_hub.HfApi().model_info(source, timeout=10)
    except Exception as error:  # offline, no such name, gated, no network: each has its own type
        says = f"{source}: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        try:
            there = huggingface_hub.snapshot_download(source, local_files_only=True)
            return Finding("warning", f"{says}; what was fetched before is in {there}")
        except Exception:  # nothing was
            return Finding(
                "failed",
                f"{says}: check the name, the network and HF_HUB_OFFLINE, run `hf auth login` for a gated model, or "
                "give config.model.source a folder",
            )
    return Finding("ok", f"{source} at {str(found.sha)[:12]}" + (", gated" if found.gated else ""))


def model(asked: Asked) -> Finding:
    """Config and tokenizer of the model; names and shapes of weights in a folder, and whether the hub sent the bits."""
    if asked.experiment is None:
        return Finding("skipped", "no --config")
    wanted = asked.experiment.model
    if wanted.source == "science":
        return Finding("ok", "made from scratch, with the tokenizer of the science world")
    try:
        transformer, tokenizer = lm.declared(wanted.source, wanted.compute)
        is_local = Path(wanted.source).expanduser().is_dir()
        if is_local:
            lm.check_weights(wanted.source, transformer)
    except ValueError as error:  # has what, where and the cure
        return Finding("failed", str(error))
    folder = _here(wanted.source)
    altered, compared = ([], 0) if folder is None else lm.altered(folder)
    if altered:
        return Finding(
            "failed",
            f"{', '.join(altered)} in {folder}: not the bits that the hub sent; fetch them again, or move what you "
            "have changed to a folder of its own",
        )
    params = jax.eval_shape(lambda: lm.init(transformer, jax.random.key(0)))["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    says = f"{transformer.architecture.family}, {count / 1e9:.2f} B parameters, {tokenizer.vocab_limit} tokens"
    says += ", thinking can be switched" if tokenizer.has_thinking_switch else ""
    says += f", {compared} files of weights as the hub sent them" if compared else ""
    return Finding("ok", says + ("" if is_local else "; its weights are looked at when they are loaded"))


def bucket(asked: Asked) -> Finding:
    """Writes, reads and removes a file in a workdir of gs://, and looks for the files that are read from there."""
    paths = () if asked.experiment is None else (asked.experiment.data.path, asked.experiment.rubrics.path)
    read = [path for path in paths if "://" in path]
    written = [asked.workdir] if asked.workdir is not None and "://" in asked.workdir else []
    if not read + written:
        if jax.process_count() > 1 and asked.workdir is not None:
            return Finding("warning", f"{asked.workdir} is no bucket: the hosts must share this folder in another way")
        return Finding("skipped", "neither workdir nor data are in a bucket")
    try:
        for folder in written:
            within(PATIENCE, functools.partial(_write_and_read, epath.Path(folder)))
        absent = [path for path in read if not within(PATIENCE, epath.Path(path).exists)]
    except ImportError as error:
        return Finding("failed", f"{error}: pip install -r requirements-tpu.txt")
    except Exception as error:  # what it is depends on the bucket's client
        return Finding(
            "failed",
            f"{', '.join(written + read)}: {type(error).__name__}: {error}: check the name, run `gcloud auth "
            "application-default login`, and give the account roles/storage.objectAdmin",
        )
    if absent:
        return Finding("failed", f"{', '.join(absent)} is not there: copy it, or change the config's path")
    return Finding("ok", f"{', '.join(written + read)}")


def judge(asked: Asked, timeout: float = 10.0) -> Finding:
    """GET {base_url}/models, with the key of OPENAI_API_KEY if there is one."""
    if asked.judge is None:
        return Finding("skipped", "no --judge")
    url = asked.judge.rstrip("/") + "/models"
    if not url.startswith(("http://", "https://")):
        return Finding("failed", f"--judge is {asked.judge}: give a URL, as in http://localhost:8000/v1")
    key = os.environ.get("OPENAI_API_KEY")
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            names = [entry["id"] for entry in json.load(answer)["data"]]
    except urllib.error.HTTPError as error:
        cure = "set OPENAI_API_KEY to its key" if error.code in (401, 403) else "is this its base URL, with /v1?"
        return Finding("failed", f"{url} says {error.code} {error.reason}: {cure}")
    except OSError as error:
        why = getattr(error, "reason", error)
        return Finding("failed", f"{url} does not answer ({why}): start the judge, or check host, port and firewall")
    except (ValueError, KeyError, TypeError) as error:
        return Finding("failed", f"{url} is no list of models ({error!r}): is this the base URL of an OpenAI-like API?")
    return Finding("ok", f"{asked.judge} has {', '.join(names[:5]) or 'no model'}")


def _here(source: str) -> Path | None:
    """The folder of a model, or what the hub's client has fetched of it; None if it has nothing."""
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    try:
        return Path(huggingface_hub.snapshot_download(source, local_files_only=True))
    except (ValueError, OSError):  # it is in a bucket, or nothing was fetched
        return None


def _write_and_read(folder: epath.Path) -> None:
    probe = folder / f".doctor_{secrets.token_hex(4)}"
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_text("probe")
    found = probe.read_text()
    probe.unlink()
    if found != "probe":
        raise OSError(f"{probe} was written and reads as {found[:20]!r}")
