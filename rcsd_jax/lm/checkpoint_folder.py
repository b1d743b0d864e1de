"""Weights in a Hugging Face folder: one table of names, checked reading, sharded writing. Safetensors only."""

from __future__ import annotations

import collections
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging
from jax.experimental import multihost_utils

from rcsd_jax.types import Array, Tree

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Safetensors' names of what can be read. Anything else is a quantised or a broken checkpoint.
FLOATS = ("F32", "BF16", "F16")
# Some old Llama checkpoints store the rotary frequencies; they are computed here.
IGNORED = "rotary_emb.inv_freq"
LISTED = 20

# Module of the parameter tree -> module of the checkpoint. The layouts agree, so this is all there is to convert.
MODULES = {
    "embed": "model.embed_tokens",
    "final_norm": "model.norm",
    "lm_head": "lm_head",
    "input_norm": "model.layers.{}.input_layernorm",
    "post_attention_norm": "model.layers.{}.post_attention_layernorm",
    **{name: f"model.layers.{{}}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")},
    **{name: f"model.layers.{{}}.self_attn.{name}" for name in ("q_norm", "k_norm")},
    **{name: f"model.layers.{{}}.mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")},
}
LEAVES = {"embedding": "weight", "kernel": "weight", "scale": "weight", "bias": "bias"}


def names_of(path: Sequence[Any], shape: Sequence[int]) -> list[str]:
    """Names in the checkpoint of a leaf of the parameter tree: one for each layer of a stack, else one.

    ``("layers", "q_proj", "kernel")`` with shape [2, 64, 48] is ``model.layers.0.self_attn.q_proj.weight`` [64, 48]
    and the same of layer 1.
    """
    keys = [entry.key for entry in path]
    name = f"{MODULES[keys[-2]]}.{LEAVES[keys[-1]]}"
    return [name.format(layer) for layer in range(shape[0])] if keys[0] == "layers" else [name]


def read(folder: Path, params: Tree, shardings: Tree | None) -> Tree:
    """The parameters, read from the folder's safetensors and cast to the dtypes of ``params``.

    One leaf at a time, and of each only what the devices of this host hold.

    Args:
      folder: with model.safetensors, or shards and their index.
      params: the tree of shapes and dtypes to fill (``jax.eval_shape``).
      shardings: the same tree of shardings; None puts all on the default device.

    Raises:
      ValueError: files that are missing or damaged, or every tensor that is missing, unexpected or of another shape.
    """
    tensors = _open(folder)
    _check(folder, tensors, params)
    if shardings is None:
        shardings = jax.tree.map(lambda _: None, params)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    places = treedef.flatten_up_to(shardings)
    filled = [
        _fill([tensors[name] for name in names_of(path, leaf.shape)], leaf, place)
        for (path, leaf), place in zip(leaves, places, strict=True)
    ]
    stored = collections.Counter(str(tensor.get_dtype()) for tensor in tensors.values())
    total = sum(leaf.size for _, leaf in leaves)
    logging.info("%s: %s tensors, %s parameters read as %s", folder, dict(stored), f"{total:,}", leaves[0][1].dtype)
    return treedef.unflatten(filled)


def check(folder: Path, params: Tree) -> None:
    """What ``read`` checks before it reads. Raises the same."""
    _check(folder, _open(folder), params)


def write(folder: Path, params: Tree, dtype: str, max_shard_bytes: int) -> None:
    """Writes the parameters as safetensors of at most ``max_shard_bytes`` each, with an index if there are several.

    Every host calls it, for the weights are gathered tensor by tensor; the first one writes.
    """
    sizes = [(name, size * jnp.dtype(dtype).itemsize) for name, size in _sizes(params)]
    shards = _cut(sizes, max_shard_bytes)
    files = [f"model-{n + 1:05}-of-{len(shards):05}.safetensors" for n in range(len(shards))]
    files = [SINGLE] if len(shards) == 1 else files
    tensors, first = _host_tensors(params, dtype), jax.process_index() == 0
    for file, names in zip(files, shards, strict=True):
        content = dict(itertools.islice(tensors, len(names)))
        if first:
            safetensors.numpy.save_file(content, folder / file, metadata={"format": "pt"})
            (folder / file).chmod(0o644)  # safetensors leaves it to its owner alone
    if first and len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(size for _, size in sizes)},
            "weight_map": {name: file for file, names in zip(files, shards, strict=True) for name in names},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _open(folder: Path) -> dict[str, Any]:
    """Every tensor of the folder by name, as a lazy slice of its file."""
    index = folder / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{index} is damaged ({error!r}): download it again") from error
        files = sorted(set(weight_map.values()))
        absent = [file for file in files if not (folder / file).is_file()]
        if absent:
            raise ValueError(f"{index} names files that are not there: {_some(absent)}; download them again")
    elif (folder / SINGLE).is_file():
        weight_map, files = None, [SINGLE]
    else:
        raise ValueError(
            f"{folder} has no {SINGLE} and no {INDEX}. Pickled weights (.bin, .pth) are never read, for they can run "
            "code: convert them with AutoModelForCausalLM.from_pretrained(...).save_pretrained(...) of transformers"
        )
    tensors, found_in = {}, {}
    for file in files:
        opened = _open_file(folder / file)
        for name in opened.keys():  # noqa: SIM118 (no dict)
            tensors[name], found_in[name] = opened.get_slice(name), file
    if weight_map is not None and weight_map != found_in:
        differing = [name for name in {**weight_map, **found_in} if weight_map.get(name) != found_in.get(name)]
        raise ValueError(
            f"{index} and its files disagree about {_some(differing)}: files of two models? Download again"
        )
    return tensors


def _open_file(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise ValueError(f"{path} is a pointer of git LFS, not the weights: run `git lfs pull` in {path.parent}")
    try:
        return safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is damaged or no safetensors file ({error}): download it again"
        ) from error


def _check(folder: Path, tensors: dict[str, Any], params: Tree) -> None:
    """Compares all names, shapes and dtypes with what the model declares."""
    wanted = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = names_of(path, leaf.shape)
        wanted |= dict.fromkeys(names, leaf.shape if path[0].key != "layers" else leaf.shape[1:])
    ignored = {name for name in tensors if name.endswith(IGNORED)}
    if "lm_head.weight" not in wanted and "lm_head.weight" in tensors:
        _check_tied(folder, tensors)
        ignored.add("lm_head.weight")
    problems = [f"missing: {_some(sorted(wanted.keys() - tensors.keys()))}"] if wanted.keys() - tensors.keys() else []
    unexpected = sorted(tensors.keys() - wanted.keys() - ignored)
    problems += [f"unexpected: {_some(unexpected)}"] if unexpected else []
    shapes = [
        f"{name} is {tensors[name].get_shape()}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].get_shape()) != tuple(shape)
    ]
    problems += [f"of another shape: {_some(shapes)}"] if shapes else []
    dtypes = [f"{name} is {tensors[name].get_dtype()}" for name in tensors if tensors[name].get_dtype() not in FLOATS]
    problems += [f"neither float32, bfloat16 nor float16: {_some(dtypes)}"] if dtypes else []
    if problems:
        raise ValueError(
            "\n".join([f"the tensors in {folder} are not those of its config.json:", *(f"  - {p}" for p in problems)])
            + "\nIs it another model's file, or does config.json state other sizes or tie_word_embeddings?"
        )


def _check_tied(folder: Path, tensors: dict[str, Any]) -> None:
    head, embedding = tensors["lm_head.weight"], tensors.get("model.embed_tokens.weight")
    if embedding is not None and not np.array_equal(head[:], embedding[:]):
        raise ValueError(
            f"{folder} says tie_word_embeddings but holds an lm_head.weight that differs from the embedding: "
            "set tie_word_embeddings to false in config.json"
        )


def _fill(tensors: Sequence[Any], leaf: jax.ShapeDtypeStruct, place: jax.sharding.Sharding | None) -> Array:
    def piece(index: tuple[slice, ...] | None) -> np.ndarray:
        index = index or tuple(slice(None) for _ in leaf.shape)
        if len(leaf.shape) == len(tensors[0].get_shape()):
            return tensors[0][index].astype(leaf.dtype)
        layers = range(*index[0].indices(leaf.shape[0]))
        lengths = [len(range(*cut.indices(size))) for cut, size in zip(index, leaf.shape, strict=True)]
        stack = np.empty(lengths, leaf.dtype)
        for row, layer in enumerate(layers):
            stack[row] = tensors[layer][index[1:]]  # numpy casts: float32 exactly, bfloat16 to the nearest
        return stack

    if place is None:
        return jnp.asarray(piece(None))
    return jax.make_array_from_callback(leaf.shape, place, piece)


def _sizes(params: Tree) -> Iterator[tuple[str, int]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = names_of(path, leaf.shape)
        for name in names:
            yield name, math.prod(leaf.shape) // len(names)


def _cut(sizes: Iterable[tuple[str, int]], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes:
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _host_tensors(params: Tree, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name and content of every tensor, in the order of ``_sizes``; only one is gathered at a time."""
    layer_of = jax.jit(lambda stack, layer: jax.lax.dynamic_index_in_dim(stack, layer, keepdims=False))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        for layer, name in enumerate(names_of(path, leaf.shape)):
            tensor = layer_of(leaf, layer) if path[0].key == "layers" else leaf
            yield name, _on_host(tensor).astype(dtype)


def _on_host(tensor: Array) -> np.ndarray:
    if tensor.is_fully_addressable:
        return np.asarray(tensor)
    return np.asarray(multihost_utils.process_allgather(tensor, tiled=True))


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more
