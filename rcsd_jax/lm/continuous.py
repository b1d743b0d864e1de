"""Continuous batching (Orca: Yu et al. 2022, OSDI): many questions over a fixed number of rows.

As soon as some questions are finished, others take their rows, so that one long completion does not hold the batch. The
loop over steps runs on the device until enough questions are finished; only then the host looks.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rcsd_jax import compilations, sharding
from rcsd_jax.lm.decoding import Decoder, Decoding, Prefix, Weights
from rcsd_jax.lm.sampler import check_prompts, rollout_of
from rcsd_jax.lm.sampling import SamplingConfig
from rcsd_jax.lm.transformer import Transformer, head_VD
from rcsd_jax.types import RUNNING, Array, PromptBatch, Rollout, Tree

# Questions are replaced this share of the batch at a time: fewer cost more passes over prompts, more leave rows idle
# for longer.
SHARE = 1 / 8
FREE = -1  # the place of the question in a slot where there is none


class ContinuousSampler:
    """Completions of any number of questions, ``questions`` of them at a time.

    A question gets the tokens that :func:`rcsd_jax.lm.sample` gives it. Compiled once for each width of the prompts:
    ``fill`` lets ``together`` questions begin, ``decode`` steps until enough have ended. Both take what ``blank`` has
    made (laid out as ``layout`` says), and ``decode`` the weights as ``view`` gives them.
    """

    def __init__(
        self, transformer: Transformer, sampling: SamplingConfig, *, questions: int, mesh: Mesh, **options: Any
    ):
        """``options`` are the other keyword arguments of :func:`rcsd_jax.lm.sample`.

        Raises:
          ValueError: the questions can not be dealt out evenly over the mesh.
        """
        parts = math.prod(mesh.shape[axis] for axis in sharding.TABLE["batch"])
        if questions % parts:
            raise ValueError(
                f"{questions} questions at a time do not divide over {parts} devices (data * fsdp of the mesh): make "
                f"their number a multiple of {parts}"
            )
        self._decoder, self._questions, self._mesh = Decoder(transformer, sampling, **options), questions, mesh
        self.together = max(1, round(SHARE * questions / parts)) * parts
        # Fixed layouts, so that what one call returns is what the next one was compiled for.
        divides = transformer.architecture.kv_heads % mesh.shape["tensor"] == 0
        heads: Tree = NamedSharding(mesh, sharding.spec(("batch", "kv_heads" if divides else None)))
        rows: Tree = sharding.batch_sharding(mesh)
        state = dict.fromkeys((field.name for field in dataclasses.fields(Decoding)), rows)
        state = Decoding(**state | {"step": sharding.replicated(mesh), "cache": heads})
        self.layout = Prefix(heads, rows), state
        self.view = jax.jit(self._decoder.weights, static_argnums=1)
        self.blank = jax.jit(self._empty, static_argnums=0, out_shardings=self.layout)
        self.fill = compilations.jit("fill", self._filled, donate_argnums=(1, 2), out_shardings=self.layout)
        self.decode = compilations.jit("decode", self._advanced, donate_argnums=2, out_shardings=state)
        self._to_rollout = jax.jit(partial(rollout_of, pad_id=self._decoder.pad_id))

    def __call__(
        self, variables: Tree, prompts: PromptBatch, key: Array, question_U: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Rollout]]:
        """(places, rollout): questions as they finish, as arrays on the host.

        Args:
          variables: the weights.
          prompts: U left-padded prompts, on the host.
          key: of this call.
          question_U: int32, an id of each question.
        """
        check_prompts(prompts, question_U)
        asked = jax.tree.map(np.asarray, (prompts, question_U))
        P, waiting = prompts.tokens_GP.shape[1], collections.deque(range(len(question_U)))
        weights, (prefix, state) = self.view(variables, P), self.blank(P)
        place_G, ended = np.full(self._questions, FREE), None
        while waiting or (place_G != FREE).any():
            while waiting and (free := np.flatnonzero(place_G == FREE)).size >= min(self.together, len(waiting)):
                slots = free[: min(self.together, len(waiting))]
                place_G[slots] = [waiting.popleft() for _ in slots]
                chosen = self._chosen(asked, place_G[slots], slots)
                prefix, state = self.fill(variables, prefix, state, key, *chosen)
            enough = min(self.together, len(waiting)) or self._questions
            state = self.decode(weights, prefix, state, enough)
            if ended is not None:
                yield ended  # the device is at work while the host reads them
            ended = self._take_ended(asked, state, place_G)
        if ended is not None:
            yield ended

    def _chosen(self, asked: Tree, places: np.ndarray, slots: np.ndarray) -> tuple[PromptBatch, Array, np.ndarray]:
        """What a filling takes: questions on the devices, and their slots; filled up with some that go nowhere."""
        more = (0, self.together - places.size)
        places, slots = np.pad(places, more, mode="edge"), np.pad(slots, more, constant_values=self._questions)
        prompts, question_W = sharding.place_batch(jax.tree.map(lambda x: x[places], asked), self._mesh)
        return prompts, question_W, slots

    def _take_ended(self, asked: Tree, state: Decoding, place_G: np.ndarray) -> tuple[np.ndarray, Rollout]:
        """(places, rollout) of the questions that are finished, which leave ``place_G``."""
        of_slots = jax.tree.map(lambda x: x[np.maximum(place_G, 0)], asked)
        rollout = jax.device_get(sharding.everywhere(self._to_rollout(state, *of_slots), self._mesh))
        is_done_G = (rollout.finish_B.reshape(len(place_G), -1) != RUNNING).all(axis=1) & (place_G != FREE)
        places = place_G[is_done_G]
        place_G[is_done_G] = FREE
        # A leaf has one row for every question or one for every sample of it.
        return places, jax.tree.map(lambda x: x[np.repeat(is_done_G, len(x) // len(place_G))], rollout)

    def _empty(self, P: int) -> tuple[Prefix, Decoding]:
        """No question in any slot."""
        room = self._decoder.sampling.max_new_tokens
        return self._decoder.no_prompts(self._questions, P), self._decoder.blank(self._questions, room)

    def _filled(
        self,
        variables: Tree,
        prefix: Prefix,
        state: Decoding,
        key: Array,
        prompts: PromptBatch,
        question_W: Array,
        slots_W: Array,
    ) -> tuple[Prefix, Decoding]:
        """W questions begin, in slots where none runs; what has a slot that does not exist is dropped."""
        decoder, newest = self._decoder, state.step - 1
        head = head_VD(variables, decoder.transformer.architecture)
        new_prefix, new = decoder.begin(variables, head, prompts, key, question_W, slots=1)

        def questions(old: Array, new: Array) -> Array:
            return old.at[slots_W].set(new, mode="drop")

        def rows(old: Array, new: Array) -> Array:
            by_question = (-1, decoder.samples, *old.shape[1:])
            return questions(old.reshape(by_question), new.reshape(by_question)).reshape(old.shape)

        def ring(old_BC: Array, new_BC: Array) -> Array:
            # The first token is in column 0 of the new ring, and it goes to the newest column of the old one.
            return rows(old_BC, jnp.roll(new_BC, newest % old_BC.shape[1], axis=1))

        return jax.tree.map(questions, prefix, new_prefix), dataclasses.replace(
            state,
            noise_BC=ring(state.noise_BC, new.noise_BC),
            drawn=jax.tree.map(ring, state.drawn, new.drawn),
            born_B=rows(state.born_B, jnp.full_like(new.born_B, newest)),
            length_B=rows(state.length_B, new.length_B),
            finish_B=rows(state.finish_B, new.finish_B),
        )

    def _advanced(self, weights: Weights, prefix: Prefix, state: Decoding, enough: Array) -> Decoding:
        """Steps until ``enough`` slots have no running row."""

        def is_needed(state: Decoding) -> Array:
            running_GN = (state.finish_B == RUNNING).reshape(-1, self._decoder.samples)
            return jnp.sum(~jnp.any(running_GN, axis=1)) < enough

        return jax.lax.while_loop(is_needed, lambda state: self._decoder.step(weights, prefix, state), state)
