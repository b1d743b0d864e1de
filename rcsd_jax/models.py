"""The model of a run: a Hugging Face folder or hub id, or a new small one for the science world."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from rcsd_jax import config, data, ending, fingerprints, hosts, learning, lm, sharding
from rcsd_jax.randomness import key_for
from rcsd_jax.types import TrainState, Tree


class LanguageModel(NamedTuple):
    """What computes, its weights, its tokenizer, and the model that teaches it, if that is another one."""

    transformer: lm.Transformer
    variables: Tree
    tokenizer: lm.ChatTokenizer
    teacher: LanguageModel | None = None


def of(experiment: config.Experiment, mesh: Mesh) -> LanguageModel:
    """The model that a run trains, with its separate teacher where it has one.

    Raises:
      ValueError: what cannot be loaded, or a teacher that has another vocabulary.
    """
    student = load(experiment.model, experiment.seed, mesh)
    _warn_of_positions(experiment, student.transformer.architecture.max_positions)
    if experiment.older_weights.kind != "separate":
        return student
    teacher = load(separate_teacher(experiment), experiment.seed, mesh)
    if teacher.tokenizer.vocabulary != student.tokenizer.vocabulary:
        ours, theirs = len(student.tokenizer.vocabulary), len(teacher.tokenizer.vocabulary)
        raise ValueError(
            f"config.teacher.source {experiment.teacher.source} has another vocabulary ({theirs} tokens) than "
            f"{experiment.model.source} ({ours} tokens): a teacher looks at the student's own token ids, take one of "
            "the same family"
        )
    return student._replace(teacher=teacher)


def _warn_of_positions(e: config.Experiment, known: int) -> None:
    """Nothing fails beyond the positions that a model knows, it only writes worse."""
    prompts = max(*e.prompts.student_lengths, *e.prompts.teacher_lengths)
    if prompts + e.sampling.max_new_tokens > known:
        logging.warning(
            "config.prompts and config.sampling.max_new_tokens leave room for %d + %d tokens, model %s knows %d "
            "positions: shorten one of them", prompts, e.sampling.max_new_tokens, e.model.source, known
        )  # fmt: skip


def separate_teacher(experiment: config.Experiment) -> config.Model:
    """The other model that looks at the student's tokens."""
    # Weights that never change need no more bits than they are computed with.
    compute = dataclasses.replace(experiment.model.compute, param_dtype=experiment.model.compute.dtype)
    return config.Model(source=experiment.teacher.source, compute=compute)


def load(model: config.Model, seed: int, mesh: Mesh) -> LanguageModel:
    """The model that ``model.source`` names, on the mesh, with fresh adapters where adapters learn.

    Raises:
      ValueError: what cannot be loaded, or holds weights that are no finite numbers.
    """
    lora = model.lora if model.trainable == "lora" else None
    key = key_for(seed, "init")
    if model.source != "science":
        with ending.unwatched():  # a first download takes its time, and not the same on all hosts
            lm.fetch(model.source)
            hosts.exchange(model.source, hosts.DAY)
        loaded = LanguageModel(*lm.load(model.source, model.compute, lora=lora, mesh=mesh, key=key))
        _check_finite(model.source, loaded.variables)
        return loaded
    transformer, tokenizer = declared(model)
    sharding.check_sizes(transformer.architecture.sizes, mesh)
    init = jax.jit(lm.init, static_argnums=0, out_shardings=sharding.shardings(lm.axes(transformer), mesh))
    return LanguageModel(transformer, init(transformer, key), tokenizer)


def declared(model: config.Model) -> tuple[lm.Transformer, lm.ChatTokenizer]:
    """What ``load`` gives, without the weights."""
    lora = model.lora if model.trainable == "lora" else None
    if model.source != "science":
        return lm.declared(model.source, model.compute, lora)
    tokenizer = data.science.build_tokenizer()
    tokenizer = lm.ChatTokenizer.from_tokenizer(
        tokenizer, data.science.CHAT_TEMPLATE, eos=data.science.EOS, pad=data.science.PAD
    )
    shape = model.science
    architecture = lm.Architecture(
        family="qwen3",
        vocab_size=-(-tokenizer.vocab_limit // 128) * 128,  # rows without a token, so that it divides over devices
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_width=shape.head_width,
        mlp_width=shape.mlp_width,
        max_positions=1024,
        qk_norm=True,
    )
    return lm.Transformer(architecture, model.compute, lora), tokenizer


def _check_finite(source: str, variables: Tree) -> None:
    """Every weight that training begins with must be a number: no step would be."""
    is_finite = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.isfinite(x).all(), tree))(variables)
    paths = jax.tree_util.tree_leaves_with_path(jax.device_get(is_finite))
    bad = [jax.tree_util.keystr(path, simple=True, separator="/") for path, fine in paths if not fine]
    if bad:
        raise ValueError(f"model {source} has weights that are NaN or infinite, in {', '.join(bad[:5])}: load it again")


def without_adapters(model: config.Model) -> config.Model:
    """The same for one who does not train: fresh adapters add nothing and cost time at every token."""
    return dataclasses.replace(model, trainable="params")


def initial_state(experiment: config.Experiment, model: LanguageModel, mesh: Mesh) -> TrainState:
    """The state before the first step; it takes the weights of ``model`` over."""
    state = learning.init_state(model.transformer, model.variables, mesh=mesh, **_learning(experiment))
    return whole(state, model)


def learned(state: TrainState, *, has_separate_teacher: bool = False) -> TrainState:
    """The state without the weights that nothing changes: what a checkpoint holds."""
    own = {state.trainable: state.variables[state.trainable]}
    return dataclasses.replace(state, variables=own, teacher=None if has_separate_teacher else state.teacher)


def whole(state: TrainState, model: LanguageModel) -> TrainState:
    """A learned state together with the frozen weights of the model that it belongs to."""
    teacher = model.teacher.variables["params"] if model.teacher else state.teacher
    return dataclasses.replace(state, variables={**model.variables, **state.variables}, teacher=teacher)


def frozen_hash(experiment: config.Experiment, model: LanguageModel) -> str:
    """What the frozen weights are, in short: a learned state belongs to these and no others."""
    frozen = {name: tree for name, tree in model.variables.items() if name != experiment.model.trainable}
    if model.teacher:
        frozen["teacher"] = model.teacher.variables
    return weights_hash(frozen) if frozen else ""


def weights_hash(variables: Tree) -> str:
    """A short hash of weights, the same for any layout over devices."""
    return hashlib.sha256(json.dumps(fingerprints.describe(variables), sort_keys=True).encode()).hexdigest()[:16]


def abstract_state(experiment: config.Experiment, transformer: lm.Transformer, mesh: Mesh) -> TrainState:
    """Shapes, types and layout of the learned state, without its numbers: what a checkpoint is restored into."""
    variables = jax.eval_shape(functools.partial(lm.init, transformer), jax.random.key(0))
    initial = functools.partial(learning.init_state, transformer, **_learning(experiment))
    layout = learning.state_shardings(transformer, mesh, **_learning(experiment))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        learned(jax.eval_shape(initial, variables)),
        learned(layout),
    )


def _learning(e: config.Experiment) -> dict[str, Any]:
    return {"trainable": e.model.trainable, "optimizer": e.optimizer, "teacher": e.older_weights}
