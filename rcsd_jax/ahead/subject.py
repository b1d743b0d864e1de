"""What is compiled for: a run and its models on a mesh, as abstract arrays: shapes, types, places, and no numbers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rcsd_jax import config, learning, lm, models, sharding
from rcsd_jax.types import PromptBatch, TrainState, Tree

RUNS = ("train", "evaluate", "write_rubrics")  # the commands whose functions are known here


class Vocabulary(NamedTuple):
    """What a compiled function knows of a tokenizer; named as in ``lm.ChatTokenizer``."""

    eos_ids: tuple[int, ...]
    pad_id: int
    vocab_limit: int


class Subject(NamedTuple):
    """What is compiled for: an experiment with its decoder, on a mesh; that of a separate teacher; and the command."""

    experiment: config.Experiment
    transformer: lm.Transformer
    vocabulary: Vocabulary
    mesh: Mesh
    teacher: lm.Transformer | None = None
    run: str = "train"


# What published models are made of, so that no hub is needed to ask what one would cost: as in their config.json.
QWEN3 = {"vocab_size": 151936, "kv_heads": 8, "head_width": 128, "rope_theta": 1e6, "max_positions": 40960}
QWEN3_VOCABULARY = Vocabulary((151645, 151643), 151643, 151669)
QWEN3_SIZES = {  # width, layers, heads, mlp_width, tied
    "0.6B": (1024, 28, 16, 3072, True),
    "1.7B": (2048, 28, 16, 6144, True),
    "4B": (2560, 36, 32, 9728, True),
    "8B": (4096, 36, 32, 12288, False),
    "14B": (5120, 40, 40, 17408, False),
    "32B": (5120, 64, 64, 25600, False),
}


def subject(experiment: config.Experiment, mesh: Mesh, run: str = "train") -> Subject:
    """The decoders that the config names; of the published Qwen3 sizes, without a look at the hub.

    ``run`` is one of ``RUNS``; only training has adapters and a teacher.
    """
    if run != "train":
        experiment = dataclasses.replace(experiment, model=models.without_adapters(experiment.model))
    transformer, vocabulary = _declared(experiment.model)
    teacher = None
    if run == "train" and experiment.older_weights.kind == "separate":
        teacher, _ = _declared(models.separate_teacher(experiment))
    return Subject(experiment, transformer, vocabulary, mesh, teacher, run)


def _declared(model: config.Model) -> tuple[lm.Transformer, Vocabulary]:
    size = model.source.removeprefix("Qwen/Qwen3-")
    if model.source == size or size not in QWEN3_SIZES:
        transformer, tokenizer = models.declared(model)
        return transformer, Vocabulary(*(getattr(tokenizer, x) for x in Vocabulary._fields))
    width, layers, heads, mlp_width, tied = QWEN3_SIZES[size]
    sizes = {"width": width, "layers": layers, "heads": heads, "mlp_width": mlp_width, "tied": tied}
    architecture = lm.Architecture(family="qwen3", qk_norm=True, **QWEN3, **sizes)
    lora = model.lora if model.trainable == "lora" else None
    return lm.Transformer(architecture, model.compute, lora), QWEN3_VOCABULARY


def abstract_state(s: Subject) -> TrainState:
    """The whole state of training; of other runs the weights alone."""
    e, how = s.experiment, how_to_learn(s)
    variables = jax.eval_shape(functools.partial(lm.init, s.transformer), jax.random.key(0))
    state = jax.eval_shape(functools.partial(learning.init_state, s.transformer, **how), variables)
    layout = learning.state_shardings(s.transformer, s.mesh, **how)
    if s.run != "train":
        state, layout = (dataclasses.replace(x, opt_state=(), teacher=None) for x in (state, layout))
    elif e.older_weights.kind == "separate":
        assert s.teacher is not None
        variables = jax.eval_shape(functools.partial(lm.init, s.teacher), jax.random.key(0))
        state = dataclasses.replace(state, teacher=variables["params"])
        layout = dataclasses.replace(layout, teacher=sharding.shardings(lm.axes(s.teacher), s.mesh)["params"])
    return placed(state, layout)


def how_to_learn(s: Subject) -> dict[str, Any]:
    """What ``learning`` makes the state by."""
    e = s.experiment
    return {"trainable": e.model.trainable, "optimizer": e.optimizer, "teacher": e.older_weights}


def placed(abstract: Tree, layout: Tree) -> Tree:
    """The same shapes with a place on the mesh; a place in ``layout`` may stand for a whole branch."""

    def all_there(where: Any, branch: Tree) -> Tree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), branch)

    return jax.tree.map(all_there, layout, abstract)


def rows(s: Subject, dtype: str, *shape: int) -> Any:
    """An array whose first axis is dealt out over the devices."""
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding.batch_sharding(s.mesh))


def prompts_of(s: Subject, number: int, length: int) -> PromptBatch:
    """So many prompts of that length."""
    return PromptBatch(rows(s, "int32", number, length), rows(s, "bool", number, length))
