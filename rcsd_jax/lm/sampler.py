"""Completions drawn from the model: one prefill per question, then a loop that draws a column of tokens at a time.

Keys and values live in two caches. The prompt's, [G, K, P, H], is written once by the prefill and shared by all samples
of a question; the completions' own, [B, K, S, H], grows by a slot each step. Positions inside a cache stay neighbours
for one head (measured: three times faster on CPU than [B, S, K, H]). The weights are cast to the compute dtype and cut
into layers once per call, before the loop: indexing the stack inside it would copy a layer each step.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rcsd_jax import sharding
from rcsd_jax.lm.attention import attend
from rcsd_jax.lm.sampling import SamplingConfig, draw, row_noise
from rcsd_jax.lm.scoring import logits_of
from rcsd_jax.lm.transformer import Block, Transformer, head_VD, layer_variables, positions_of
from rcsd_jax.types import CUT, FINISHED, RUNNING, Array, PromptBatch, Rollout, Tree


@flax.struct.dataclass
class Decoding:
    """What the loop carries. ``step`` columns are drawn; all but the last of them are in ``cache``.

    ``cache`` holds (keys, values) of every layer, [B, K, S, H] with S = C. ``length_B`` counts the tokens of a row, the
    EOS token among them. The columns at and after a row's end hold the pad id and zeros.
    """

    step: Array
    cache: tuple[tuple[Array, Array], ...]
    completion_BC: Array
    logp_BC: Array
    tempered_logp_BC: Array
    sampling_logp_BC: Array
    length_B: Array
    finish_B: Array

    @property
    def last_B1(self) -> Array:
        """The newest column: what the model reads next."""
        return jax.lax.dynamic_slice_in_dim(self.completion_BC, self.step - 1, 1, axis=1)


@flax.struct.dataclass
class Prefix:
    """The prompts as the completions see them: (keys, values) [G, K, P, H] of every layer, and how long they are."""

    cache: tuple[tuple[Array, Array], ...]
    valid_GP: Array

    @property
    def length_G(self) -> Array:
        """Real tokens of each prompt: the position of the first completion token."""
        return jnp.sum(self.valid_GP, axis=1, dtype=jnp.int32)


def sample(
    transformer: Transformer,
    variables: Tree,
    prompts: PromptBatch,
    key: Array,
    question_G: Array,
    *,
    samples: int,
    sampling: SamplingConfig,
    eos_ids: tuple[int, ...],
    pad_id: int,
    vocab_limit: int,
) -> Rollout:
    """Draws ``samples`` completions of every prompt; to be jitted (see :class:`Sampler`).

    The noise of a token is a function of ``key``, its question id, its sample index and its place in the completion
    (``sampling.row_noise``): order and number of the questions, other samples, padding of the prompts, room for the
    completions and the mesh change nothing but the rounding of the logits. Fold seed, purpose and step into ``key``.

    Args:
      transformer: the model.
      variables: its weights, in any dtype; adapters count if the "lora" collection is there.
      prompts: G left-padded prompts.
      key: of this call.
      question_G: int32, an id of each question that does not depend on the batch.
      samples: completions per question; they become neighbouring rows.
      sampling: temperature, filters and the room for new tokens.
      eos_ids: tokens that end a completion and belong to it; none: every completion fills its room.
      pad_id: fills the columns after the end.
      vocab_limit: ids from here on belong to no token and are never drawn.

    Raises:
      ValueError: numbers or shapes that do not fit the model or each other.
    """
    _check(transformer, prompts, question_G, samples, eos_ids, pad_id, vocab_limit)
    G, C, dtype = question_G.size, sampling.max_new_tokens, jnp.dtype(transformer.compute.dtype)
    sample_B = jnp.tile(jnp.arange(samples, dtype=jnp.int32), G)
    noise_BC = row_noise(key, jnp.repeat(question_G, samples), sample_B, C)
    # Every weight is used in the compute dtype anyway, so one cast here changes no number.
    variables = jax.tree.map(lambda weight: weight.astype(dtype), variables)
    layers = [layer_variables(variables, index) for index in range(transformer.architecture.layers)]
    head = head_VD(variables, transformer.architecture)

    def draw_column(state: Decoding, hidden_BD: Array) -> Decoding:
        logits_BV = logits_of(hidden_BD, head, vocab_limit)
        uniform_B = jax.lax.dynamic_index_in_dim(noise_BC, state.step, axis=1, keepdims=False)
        token_B, sampling_logp_B = draw(logits_BV, uniform_B, sampling)
        logit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0]
        logp_B = tempered_logp_B = logit_B - jax.nn.logsumexp(logits_BV, axis=-1)
        if sampling.temperature == 0:
            tempered_logp_B = sampling_logp_B
        elif sampling.temperature != 1:
            cold = 1 / sampling.temperature
            tempered_logp_B = logit_B * cold - jax.nn.logsumexp(logits_BV * cold, axis=-1)
        return _write(state, token_B, (logp_B, tempered_logp_B, sampling_logp_B), eos_ids, pad_id)

    def step(state: Decoding) -> Decoding:
        hidden_BD, cache = _advance(transformer, variables, layers, prefix, state)
        return draw_column(dataclasses.replace(state, cache=cache), hidden_BD)

    def unfinished(state: Decoding) -> Array:
        return (state.step < C) & jnp.any(state.finish_B == RUNNING)

    hidden_GD, prefix = _prefill(transformer, variables, prompts)
    state = draw_column(_nothing_drawn(transformer, G * samples, C, pad_id), jnp.repeat(hidden_GD, samples, axis=0))
    state = jax.lax.while_loop(unfinished, step, state)
    return _rollout(state, prompts, question_G, sample_B)


class Sampler:
    """``sample`` with everything fixed but weights, prompts and noise; compiled once for each shape of the prompts.

    ``compilations`` counts those shapes: if it still grows late in a run, the prompts come in too many lengths.
    """

    def __init__(self, transformer: Transformer, sampling: SamplingConfig, **options: Any):
        """``options`` are the other keyword arguments of :func:`sample`."""
        self.compilations = 0

        def traced(variables: Tree, prompts: PromptBatch, key: Array, question_G: Array) -> Rollout:
            self.compilations += 1  # Python runs only while jax traces
            return sample(transformer, variables, prompts, key, question_G, sampling=sampling, **options)

        self._sample = jax.jit(traced)

    def __call__(self, variables: Tree, prompts: PromptBatch, key: Array, question_G: Array) -> Rollout:
        """The completions; returns as soon as the work is dispatched."""
        return self._sample(variables, prompts, key, question_G)


def _nothing_drawn(transformer: Transformer, B: int, C: int, pad_id: int) -> Decoding:
    a = transformer.architecture
    empty_BKSH = jnp.zeros((B, a.kv_heads, C, a.head_width), transformer.compute.dtype)
    return Decoding(
        step=jnp.int32(0),
        cache=((empty_BKSH, empty_BKSH),) * a.layers,
        completion_BC=jnp.full((B, C), pad_id, jnp.int32),
        logp_BC=jnp.zeros((B, C), jnp.float32),
        tempered_logp_BC=jnp.zeros((B, C), jnp.float32),
        sampling_logp_BC=jnp.zeros((B, C), jnp.float32),
        length_B=jnp.zeros(B, jnp.int32),
        finish_B=jnp.full(B, RUNNING, jnp.int32),
    )


def _prefill(transformer: Transformer, variables: Tree, prompts: PromptBatch) -> tuple[Array, Prefix]:
    """The hidden states [G, D] that predict the first new token, and the prompts' keys and values."""
    block = Block(transformer.architecture, transformer.compute, transformer.lora)
    positions_GP = positions_of(prompts.valid_GP)

    def layer(x_GPD: Array, weights: Tree) -> tuple[Array, tuple[Array, Array]]:
        q, k, v = _apply(block, weights, x_GPD, positions_GP, method="project_qkv")
        x_GPD = _apply(block, weights, x_GPD, attend(q, k, v, prompts.valid_GP), method="finish")
        return x_GPD, (k.swapaxes(1, 2), v.swapaxes(1, 2))

    x_GPD = _apply(transformer, variables, prompts.tokens_GP, method="embed_tokens")
    stacked = {name: tree["layers"] for name, tree in variables.items()}
    x_GPD, (k_LGKPH, v_LGKPH) = jax.lax.scan(layer, x_GPD, stacked)
    hidden_G1D = _apply(transformer, variables, x_GPD[:, -1:], method="normalise")
    return hidden_G1D[:, 0], Prefix(tuple(zip(k_LGKPH, v_LGKPH, strict=True)), prompts.valid_GP)


def _advance(
    transformer: Transformer, variables: Tree, layers: list[Tree], prefix: Prefix, state: Decoding
) -> tuple[Array, tuple[tuple[Array, Array], ...]]:
    """Reads the newest column: the hidden states [B, D] that predict the next one, and the cache with one more slot."""
    block = Block(transformer.architecture, transformer.compute, transformer.lora)
    B, C = state.completion_BC.shape
    slot = state.step - 1
    positions_B1 = (jnp.repeat(prefix.length_G, B // prefix.length_G.size) + slot)[:, None]
    here_B1 = jnp.ones((B, 1), bool)
    filled_BS = jnp.broadcast_to(jnp.arange(C)[None, :] <= slot, (B, C))

    def extended(cache_BKSH: Array, new_B1KH: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(cache_BKSH, new_B1KH.swapaxes(1, 2), slot, axis=2)

    x_B1D = _apply(transformer, variables, state.last_B1, method="embed_tokens")
    cache = []
    for weights, (k_GKPH, v_GKPH), (k_BKSH, v_BKSH) in zip(layers, prefix.cache, state.cache, strict=True):
        q, k, v = _apply(block, weights, x_B1D, positions_B1, method="project_qkv")
        k_BKSH, v_BKSH = extended(k_BKSH, k), extended(v_BKSH, v)
        # The swaps are undone inside `attend`; the compiler removes both.
        shared = (k_GKPH.swapaxes(1, 2), v_GKPH.swapaxes(1, 2), prefix.valid_GP)
        own = (k_BKSH.swapaxes(1, 2), v_BKSH.swapaxes(1, 2))
        attended = attend(q, *own, here_B1, filled_BS, causal=False, prefix=shared)
        x_B1D = _apply(block, weights, x_B1D, attended, method="finish")
        cache.append((k_BKSH, v_BKSH))
    return _apply(transformer, variables, x_B1D, method="normalise")[:, 0], tuple(cache)


def _apply(module: nn.Module, variables: Tree, *inputs: Array, method: str) -> Any:
    return module.apply(variables, *inputs, method=method)


def _write(
    state: Decoding, token_B: Array, logps_B: tuple[Array, Array, Array], eos_ids: tuple[int, ...], pad_id: int
) -> Decoding:
    """One more column; rows that have ended get padding."""
    logp_B, tempered_logp_B, sampling_logp_B = logps_B
    running_B = state.finish_B == RUNNING
    ended_B = running_B & jnp.isin(token_B, jnp.array(eos_ids, jnp.int32))

    def column(values_BC: Array, new_B: Array, padding: int | float) -> Array:
        new_B1 = jnp.where(running_B, new_B, padding)[:, None].astype(values_BC.dtype)
        return jax.lax.dynamic_update_slice_in_dim(values_BC, new_B1, state.step, axis=1)

    return dataclasses.replace(
        state,
        step=state.step + 1,
        completion_BC=column(state.completion_BC, token_B, pad_id),
        logp_BC=column(state.logp_BC, logp_B, 0.0),
        tempered_logp_BC=column(state.tempered_logp_BC, tempered_logp_B, 0.0),
        sampling_logp_BC=column(state.sampling_logp_BC, sampling_logp_B, 0.0),
        length_B=state.length_B + running_B.astype(jnp.int32),
        finish_B=jnp.where(ended_B, FINISHED, state.finish_B),
    )


def _rollout(state: Decoding, prompts: PromptBatch, question_G: Array, sample_B: Array) -> Rollout:
    def by_row(values_BC: Array) -> Array:
        return sharding.constrain(values_BC, "batch", None)

    return Rollout(
        prompts=prompts,
        completion_BC=by_row(state.completion_BC),
        valid_BC=by_row(jnp.arange(state.completion_BC.shape[1])[None, :] < state.length_B[:, None]),
        logp_BC=by_row(state.logp_BC),
        tempered_logp_BC=by_row(state.tempered_logp_BC),
        sampling_logp_BC=by_row(state.sampling_logp_BC),
        finish_B=jnp.where(state.finish_B == RUNNING, CUT, state.finish_B),
        question_G=question_G,
        sample_B=sample_B,
    )


def _check(
    transformer: Transformer,
    prompts: PromptBatch,
    question_G: Array,
    samples: int,
    eos_ids: tuple[int, ...],
    pad_id: int,
    vocab_limit: int,
) -> None:
    size, shape = transformer.architecture.vocab_size, prompts.tokens_GP.shape
    if samples < 1:
        raise ValueError(f"samples is {samples}: ask for at least 1 completion per question")
    if len(shape) != 2 or prompts.valid_GP.shape != shape or question_G.shape != shape[:1]:
        raise ValueError(
            f"tokens_GP {shape}, valid_GP {prompts.valid_GP.shape} and question_G {question_G.shape} must be [G, P], "
            "[G, P] and [G]: give one row and one id per question"
        )
    if not 1 <= vocab_limit <= size:
        raise ValueError(f"vocab_limit is {vocab_limit}, the model has {size} rows: it must be in 1 .. {size}")
    if any(not 0 <= token < vocab_limit for token in eos_ids):
        raise ValueError(f"eos_ids are {eos_ids}, vocab_limit is {vocab_limit}: an id from there on is never drawn")
    if not 0 <= pad_id < size:
        raise ValueError(f"pad_id is {pad_id}, the model has {size} rows: use one of them, such as an EOS id")
