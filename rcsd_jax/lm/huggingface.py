"""A Hugging Face folder or hub id to a model and back."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
from etils import epath
from jax.sharding import Mesh

from rcsd_jax import hosts, sharding
from rcsd_jax.lm import checkpoint_folder, hub
from rcsd_jax.lm.architecture import Compute, LoraConfig
from rcsd_jax.lm.config_json import config_json, read_architecture
from rcsd_jax.lm.lora import merge
from rcsd_jax.lm.tokenizer import ChatTokenizer
from rcsd_jax.lm.transformer import Transformer, axes, init
from rcsd_jax.types import Array, Tree

LAST = "config.json"  # a model is there when this is: readers look for it first


def fetch(source: str | Path) -> None:
    """Downloads what ``load`` reads, where ``source`` is on the hub or in a bucket and not here yet.

    Raises:
      ValueError: neither a folder nor a hub id, or the hub does not give it.
    """
    hub.fetch(source, hub.CONFIG_PATTERNS + hub.TOKENIZER_PATTERNS + hub.WEIGHT_PATTERNS)


def load(
    source: str | Path,
    compute: Compute,
    *,
    lora: LoraConfig | None = None,
    mesh: Mesh | None = None,
    key: Array | None = None,
) -> tuple[Transformer, Tree, ChatTokenizer]:
    """A dense Qwen3, Qwen2.5, Llama 3 or SmolLM2 model from a folder or from the hub.

    Stored float32, bfloat16 and float16 weights are cast to ``compute.param_dtype``.

    Args:
      source: a folder, or a hub id such as "Qwen/Qwen3-1.7B".
      compute: dtypes and how layers are run.
      lora: adapters to add; they start as no change.
      mesh: places every array by the table of ``rcsd_jax.sharding``; None takes the default device.
      key: what the adapters are drawn from; only needed with ``lora``.

    Returns:
      the transformer, its variables ("params", and "lora" if asked for), and the tokenizer.

    Raises:
      ValueError: what cannot be read or is not implemented, by name, with the cure.
    """
    transformer, tokenizer = declared(source, compute, lora)
    if mesh is not None:
        sharding.check_sizes(transformer.architecture.sizes, mesh)
    shapes = jax.eval_shape(lambda: init(transformer, jax.random.key(0)))
    places = None if mesh is None else sharding.shardings(axes(transformer), mesh)
    folder = hub.fetch(source, hub.CONFIG_PATTERNS + hub.WEIGHT_PATTERNS)
    variables = {"params": checkpoint_folder.read(folder, shapes["params"], places and places["params"])}
    if lora is not None:
        if key is None:
            raise ValueError("load(..., lora=...) draws adapters: give it a key, as in key=jax.random.key(0)")
        draw = jax.jit(lambda key: init(transformer, key)["lora"], out_shardings=places and places["lora"])
        variables["lora"] = draw(key)
    return transformer, variables, tokenizer


def declared(source: str | Path, compute: Compute, lora: LoraConfig | None = None) -> tuple[Transformer, ChatTokenizer]:
    """What ``load`` gives, without the weights: of a hub id only small files are fetched.

    Raises:
      ValueError: what cannot be read or is not implemented, by name, with the cure.
    """
    architecture = read_architecture(hub.fetch(source, hub.CONFIG_PATTERNS))
    tokenizer = ChatTokenizer.load(source)
    if tokenizer.vocab_limit > architecture.vocab_size:
        raise ValueError(
            f"the tokenizer in {source} has {tokenizer.vocab_limit} ids, the model {architecture.vocab_size}: "
            "these are files of two models"
        )
    return Transformer(architecture, compute, lora), tokenizer


def check_weights(folder: str | Path, transformer: Transformer) -> None:
    """Looks whether the folder holds every weight of the model, by name and shape; the numbers are not read.

    Raises:
      ValueError: files that are missing or damaged, or every tensor that is missing, unexpected or of another shape.
    """
    shapes = jax.eval_shape(lambda: init(transformer, jax.random.key(0)))
    checkpoint_folder.check(Path(folder).expanduser(), shapes["params"])


def export(
    folder: str | Path,
    transformer: Transformer,
    variables: Tree,
    tokenizer: ChatTokenizer,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a folder that transformers and vLLM load: config, generation config, tokenizer, safetensors.

    Adapters are merged. Weights that were not trained come out byte for byte as they went in, if ``dtype`` is theirs.
    A local folder appears whole or not at all; in a bucket, which has no renaming, config.json comes last. Of several
    hosts all must call it.

    Args:
      folder: one that does not exist yet, local or in a bucket ("gs://...").
      transformer: says what the variables mean.
      variables: "params" and perhaps "lora".
      tokenizer: as it was loaded.
      dtype: "float32" or "bfloat16"; None takes that of the stored parameters.
      max_shard_bytes: the size from which a second file is begun.
      notes: the text of further files, by their names.

    Raises:
      ValueError: the folder exists, or the dtype is another.
    """
    dtype = dtype or transformer.compute.param_dtype
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"cannot export as {dtype!r}: use 'float32' or 'bfloat16'")
    is_local = "://" not in str(folder)
    target = epath.Path(folder).expanduser().absolute() if is_local else epath.Path(folder)
    if hosts.from_first((target if is_local else target / LAST).exists):
        raise ValueError(f"{target} exists: choose another folder, or remove this one")
    params = merge(variables, transformer)["params"]
    if is_local:
        unfinished = Path(target).with_name(f".{target.name}.{os.getpid()}.{jax.process_index()}")
        unfinished.mkdir(parents=True)
    else:
        unfinished = Path(tempfile.mkdtemp())
    try:
        checkpoint_folder.write(unfinished, params, dtype, max_shard_bytes)
        config = config_json(
            transformer.architecture,
            dtype=dtype,
            eos_ids=tokenizer.eos_ids,
            pad_id=tokenizer.pad_id,
            bos_id=tokenizer.bos_id,
        )
        (unfinished / LAST).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tokenizer.save(unfinished)
        for name, text in (notes or {}).items():
            (unfinished / name).write_text(text, encoding="utf-8")
        if hosts.is_first():
            if is_local:
                os.rename(unfinished, target)
            else:
                _upload(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    hosts.exchange("exported")  # then it is there for all


def _upload(folder: Path, target: epath.Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == LAST):
        epath.Path(path).copy(target / path.name, overwrite=True)
