"""The model of a run: a Hugging Face folder or hub id, or a new small one for the science world."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax.sharding import Mesh

from rcsd_jax import config, data, learning, lm, sharding
from rcsd_jax.randomness import key_for
from rcsd_jax.types import TrainState, Tree


class LanguageModel(NamedTuple):
    """What computes, its weights, and its tokenizer."""

    transformer: lm.Transformer
    variables: Tree
    tokenizer: lm.ChatTokenizer


def load(model: config.Model, seed: int, mesh: Mesh) -> LanguageModel:
    """The model that ``model.source`` names, on the mesh, with fresh adapters where adapters learn."""
    lora = model.lora if model.trainable == "lora" else None
    key = key_for(seed, "init")
    if model.source != "science":
        return LanguageModel(*lm.load(model.source, model.compute, lora=lora, mesh=mesh, key=key))
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
    transformer = lm.Transformer(architecture, model.compute, lora)
    init = jax.jit(lm.init, static_argnums=0, out_shardings=sharding.shardings(lm.axes(transformer), mesh))
    return LanguageModel(transformer, init(transformer, key), tokenizer)


def initial_state(experiment: config.Experiment, model: LanguageModel, mesh: Mesh) -> TrainState:
    """The state before the first step; it takes the weights of ``model`` over."""
    return learning.init_state(
        model.transformer,
        model.variables,
        trainable=experiment.model.trainable,
        optimizer=experiment.optimizer,
        teacher=experiment.older_weights,
        mesh=mesh,
    )
