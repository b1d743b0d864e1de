"""Token prompts in, completions out: the sampler with its prompt buckets, on a mesh."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from rcsd_jax import data, lm, sharding
from rcsd_jax.models import LanguageModel
from rcsd_jax.randomness import stable_id
from rcsd_jax.types import Array, PromptBatch, Rollout, Tree


class Generator:
    """Token prompts in, completions out: a sampler with its prompt buckets, on a mesh.

    Args:
      model: what samples; the weights come with every call.
      sampling: how.
      samples: completions a question.
      lengths: the prompt lengths that are compiled; prompts are padded to the next one.
      mesh: where the rows go.
      batch: questions that a call samples at a time, others wait for their places; 0: all.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: lm.SamplingConfig,
        samples: int,
        lengths: Sequence[int],
        mesh: Mesh,
        *,
        batch: int = 0,
    ):
        self.tokenizer = model.tokenizer
        self._lengths, self._mesh, self._batch = lengths, mesh, batch
        options = {
            "samples": samples,
            "eos_ids": self.tokenizer.eos_ids,
            "pad_id": self.tokenizer.pad_id,
            "vocab_limit": self.tokenizer.vocab_limit,
        }
        self._sampler = lm.Sampler(model.transformer, sampling, **options)
        transformer = model.transformer  # not the model: its weights belong to whoever trains them
        self._continuous = functools.cache(
            lambda questions: lm.ContinuousSampler(transformer, sampling, questions=questions, mesh=mesh, **options)
        )

    def __call__(self, variables: Tree, prompts: Sequence[Sequence[int]], ids: Sequence[str], key: Array) -> Rollout:
        """One rollout, laid out by rows; a question's noise is derived from its id, not from its place in the batch.

        It is only dispatched, unless questions wait for places: then the host has them change.
        """
        if 0 < self._batch < len(prompts):
            pieces = list(self.stream(variables, prompts, ids, key, batch=self._batch))
            return sharding.place_batch(_in_order(pieces, len(prompts)), self._mesh)
        question_G = np.array([stable_id(name) for name in ids], np.int32)
        batch = place_prompts(prompts, self._lengths, self.tokenizer.pad_id, self._mesh)
        rollout = self._sampler(variables, batch, key, question_G)
        # The layout as it is, in the words of `place_batch`: who takes either compiles for both at once.
        return jax.device_put(rollout, sharding.batch_sharding(self._mesh))

    def stream(
        self, variables: Tree, prompts: Sequence[Sequence[int]], ids: Sequence[str], key: Array, *, batch: int
    ) -> Iterator[tuple[np.ndarray, Rollout]]:
        """(places, rollout): any number of questions as they finish, ``batch`` at a time, on the host.

        A question gets the tokens that a call gives it; see ``lm.ContinuousSampler``.
        """
        question_U = np.asarray([stable_id(name) for name in ids], np.int32)
        padded = data.pad_prompts(prompts, pad_id=self.tokenizer.pad_id, buckets=self._lengths)
        return self._continuous(batch)(variables, padded, key, question_U)

    def texts(self, rollout: Rollout) -> list[list[str]]:
        """What was written, by question and sample; a thought that the prompt has opened begins with ``<think>``.

        Of a rollout that this host holds whole, see ``sharding.everywhere``.
        """
        tokens_BC, valid_BC = np.asarray(rollout.completion_BC), np.asarray(rollout.valid_BC)
        rows = [
            self.tokenizer.decode(tokens[valid].tolist()) for tokens, valid in zip(tokens_BC, valid_BC, strict=True)
        ]
        opened = ["<think>" * self.tokenizer.opens_thought(row) for row in np.asarray(rollout.prompts.tokens_GP)]
        n = rollout.samples
        return [[start + text for text in rows[g * n : (g + 1) * n]] for g, start in enumerate(opened)]


def _in_order(pieces: Sequence[tuple[np.ndarray, Rollout]], questions: int) -> Rollout:
    """One rollout of those that ended at different times."""
    order = np.argsort(np.concatenate([places for places, _ in pieces]))

    def joined(*parts: np.ndarray) -> np.ndarray:
        whole = np.concatenate(parts)  # one row for every question, or one for every sample of it
        return whole.reshape(questions, -1, *whole.shape[1:])[order].reshape(whole.shape)

    return jax.tree.map(joined, *(rollout for _, rollout in pieces))


def shortened(rollout: Rollout, seen: Rollout, lengths: Sequence[int]) -> tuple[Rollout, Rollout]:
    """Both cut to the first of ``lengths`` (increasing) that all completions fit; as they are if they fit none.

    ``seen`` is the same rollout, whole on this host. Waits until it is sampled, and for nothing that the devices were
    given after it.
    """
    seen = jax.device_get(seen)
    longest = int(seen.valid_BC.sum(axis=1).max())
    C = next((length for length in lengths if length >= longest), seen.valid_BC.shape[1])
    return _cut(rollout, C), _cut(seen, C)


def _cut(rollout: Rollout, C: int) -> Rollout:
    return dataclasses.replace(rollout, **{name: x[:, :C] for name, x in vars(rollout).items() if name.endswith("_BC")})


def place_prompts(prompts: Sequence[Sequence[int]], lengths: Sequence[int], pad_id: int, mesh: Mesh) -> PromptBatch:
    """Left-padded to the next of ``lengths`` and laid over the devices."""
    batch = data.pad_prompts(prompts, pad_id=pad_id, buckets=lengths)
    return sharding.place_batch(batch, mesh)
