"""Completions drawn from the model: one pass over each prompt, then a loop that draws a column of tokens at a time."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcsd_jax import compilations, sharding
from rcsd_jax.lm.decoding import Decoder, Decoding
from rcsd_jax.lm.sampling import SamplingConfig
from rcsd_jax.lm.transformer import Transformer, head_VD
from rcsd_jax.types import RUNNING, Array, PromptBatch, Rollout, Tree

# From this room on the cache grows while it fills: before, what the early steps save is not worth the compilation.
GROWING = 512


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
    decoder = Decoder(transformer, sampling, samples, eos_ids, pad_id, vocab_limit)
    check_prompts(prompts, question_G)
    weights = decoder.weights(variables, prompts.tokens_GP.shape[1])
    lengths = cache_lengths(sampling.max_new_tokens)
    head = head_VD(weights.rest, transformer.architecture)
    prefix, state = decoder.begin(variables, head, prompts, key, question_G, slots=lengths[0])
    for slots in lengths:
        state = jax.lax.while_loop(
            # Step s writes its predecessor's keys and values: `slots` of them are there before step `slots` + 1.
            lambda state, slots=slots: (state.step <= slots) & jnp.any(state.finish_B == RUNNING),
            lambda state: decoder.step(weights, prefix, state),
            _grown(state, slots),
        )
    return rollout_of(state, prompts, question_G, pad_id)


class Sampler:
    """``sample`` with everything fixed but weights, prompts and noise; compiled once for each shape of the prompts.

    ``jitted`` is the function of (variables, prompts, key, question_G).
    """

    def __init__(self, transformer: Transformer, sampling: SamplingConfig, **options: Any):
        """``options`` are the other keyword arguments of :func:`sample`."""
        self.jitted = compilations.jit("sample", partial(sample, transformer, sampling=sampling, **options))

    def __call__(self, variables: Tree, prompts: PromptBatch, key: Array, question_G: Array | np.ndarray) -> Rollout:
        """The completions; returns as soon as the work is dispatched."""
        return self.jitted(variables, prompts, key, question_G)


def cache_lengths(C: int) -> tuple[int, ...]:
    """The lengths that the completions' cache takes one after the other."""
    return (C,) if C < GROWING else (-(-C // 4), -(-C // 2), C)


def _grown(state: Decoding, slots: int) -> Decoding:
    more = slots - state.cache[0][0].shape[2]
    return dataclasses.replace(
        state, cache=jax.tree.map(lambda x_BKSH: jnp.pad(x_BKSH, ((0, 0), (0, 0), (0, more), (0, 0))), state.cache)
    )


def rollout_of(state: Decoding, prompts: PromptBatch, question_G: Array, pad_id: int) -> Rollout:
    """What is drawn, every row from its first token on."""
    B, C = state.noise_BC.shape
    place_BC = (state.born_B[:, None] + jnp.arange(C)[None, :]) % C
    valid_BC = jnp.arange(C)[None, :] < state.length_B[:, None]

    def by_row(values_BC: Array) -> Array:
        return sharding.constrain(values_BC, "batch", None)

    def unrolled(ring_BC: Array, fill: float) -> Array:
        return by_row(jnp.where(valid_BC, jnp.take_along_axis(ring_BC, place_BC, axis=1), fill))

    return Rollout(
        prompts=prompts,
        completion_BC=unrolled(state.drawn.completion_BC, pad_id),
        valid_BC=by_row(valid_BC),
        logp_BC=unrolled(state.drawn.logp_BC, 0.0),
        tempered_logp_BC=unrolled(state.drawn.tempered_logp_BC, 0.0),
        sampling_logp_BC=unrolled(state.drawn.sampling_logp_BC, 0.0),
        finish_B=state.finish_B,
        question_G=question_G,
        sample_B=sharding.constrain(
            jnp.tile(jnp.arange(B // question_G.size, dtype=jnp.int32), question_G.size), "batch"
        ),
    )


def check_prompts(prompts: PromptBatch, question_G: Array | np.ndarray) -> None:
    """Whether the shapes fit each other.

    Raises:
      ValueError: they do not.
    """
    shape = prompts.tokens_GP.shape
    if len(shape) != 2 or prompts.valid_GP.shape != shape or question_G.shape != shape[:1]:
        raise ValueError(
            f"tokens_GP {shape}, valid_GP {prompts.valid_GP.shape} and question_G {question_G.shape} must be [G, P], "
            "[G, P] and [G]: give one row and one id per question"
        )
