"""Decoding: the pass over the prompts, and the step that gives every row one more token, whatever its age.

Keys and values live in two caches. The prompt's, [G, K, P, H], is written once and shared by all samples of a question;
the completions' own, [B, K, S, H], gets a slot a step. Positions inside a cache stay neighbours for one head (measured:
three times faster on CPU than [B, S, K, H]). The weights are cast to the compute dtype and cut into layers once, before
any loop: indexing the stack inside it would copy a layer each step.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rcsd_jax import sharding
from rcsd_jax.lm.attention import Rotation, rotation_of
from rcsd_jax.lm.plain_attention import attend
from rcsd_jax.lm.products import product
from rcsd_jax.lm.sampling import SamplingConfig, draw, row_noise
from rcsd_jax.lm.scoring import only_tokens, rows_in_cache
from rcsd_jax.lm.transformer import Block, Transformer, head_VD, layer_variables, positions_of
from rcsd_jax.types import CUT, FINISHED, RUNNING, Array, PromptBatch, Tree

# A step multiplies few rows with every weight: each device multiplies all rows with its own part of the weights, and
# sums over devices of [B, ...] follow (the weight-stationary layout of Pope et al. 2022, arXiv 2211.05102). Rows that
# stayed on their device would need all weights there, at every token.
FEW_ROWS = ("few_rows", None, "width")

Cache = tuple[tuple[Array, Array], ...]  # (keys, values) of every layer


class Weights(NamedTuple):
    """The model as the step reads it, in the compute dtype: each layer by itself, and all that is not a layer.

    ``rotation`` is of one row of all positions. Worked out in the step, it would be so in every layer, for every head.
    """

    layers: list[Tree]
    rest: Tree
    rotation: Rotation


@flax.struct.dataclass
class Prefix:
    """The prompts as the completions see them: keys and values [G, K, P, H], and which are of real tokens."""

    cache: Cache
    valid_GP: Array

    @property
    def length_G(self) -> Array:
        """Real tokens of each prompt: the position of the first completion token."""
        return jnp.sum(self.valid_GP, axis=1, dtype=jnp.int32)


@flax.struct.dataclass
class Drawn:
    """Tokens and their log-probabilities as in :class:`rcsd_jax.types.Rollout`."""

    completion_BC: Array
    logp_BC: Array
    tempered_logp_BC: Array
    sampling_logp_BC: Array


@flax.struct.dataclass
class Decoding:
    """What a loop over steps carries.

    All rows write the same column, so that rows of any age go through a step together: every array [B, C] is a ring,
    and step s is its column s % C. A row that began at step ``born_B`` has its token t in column (born + t) % C, and
    the keys and values of that token in slot (born + t) % S of ``cache`` [B, K, S, H]. ``step`` columns are drawn; the
    newest is not in the cache yet. ``length_B`` counts the tokens of a row, the EOS token among them. What a ring holds
    outside of a row's tokens means nothing.
    """

    step: Array
    cache: Cache
    noise_BC: Array
    drawn: Drawn
    born_B: Array
    length_B: Array
    finish_B: Array


@dataclasses.dataclass(frozen=True)
class Decoder:
    """How completions are drawn; the fields are explained at :func:`rcsd_jax.lm.sampler.sample`.

    Raises:
      ValueError: numbers that do not fit the model or each other.
    """

    transformer: Transformer
    sampling: SamplingConfig
    samples: int
    eos_ids: tuple[int, ...]
    pad_id: int
    vocab_limit: int

    def __post_init__(self) -> None:
        size = self.transformer.architecture.vocab_size
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}: ask for at least 1 completion per question")
        if not 1 <= self.vocab_limit <= size:
            raise ValueError(f"vocab_limit is {self.vocab_limit}, the model has {size} rows: it must be in 1 .. {size}")
        if any(not 0 <= token < self.vocab_limit for token in self.eos_ids):
            raise ValueError(
                f"eos_ids are {self.eos_ids}, vocab_limit is {self.vocab_limit}: an id from there on is never drawn"
            )
        if not 0 <= self.pad_id < size:
            raise ValueError(f"pad_id is {self.pad_id}, the model has {size} rows: use one of them, such as an EOS id")

    def weights(self, variables: Tree, P: int) -> Weights:
        """The view of ``variables`` that :meth:`step` takes for prompts of P tokens; made once, outside of any loop."""
        dtype = jnp.dtype(self.transformer.compute.dtype)
        # Every weight is used in the compute dtype anyway, so the cast changes no number.
        variables = jax.tree.map(lambda weight: weight.astype(dtype), variables)
        layers = [layer_variables(variables, index) for index in range(self.transformer.architecture.layers)]
        rest = {"params": {k: v for k, v in variables["params"].items() if k != "layers"}}
        positions_1T = jnp.arange(P + self.sampling.max_new_tokens)[None]
        return Weights(layers, rest, rotation_of(positions_1T, self.transformer.architecture))

    def no_prompts(self, G: int, P: int) -> Prefix:
        """Room for G prompts of P tokens."""
        a = self.transformer.architecture
        empty_GKPH = jnp.zeros((G, a.kv_heads, P, a.head_width), self._cache_dtype)
        return Prefix(((empty_GKPH, empty_GKPH),) * a.layers, jnp.zeros((G, P), bool))

    def blank(self, G: int, slots: int) -> Decoding:
        """Nothing drawn for G questions, no row running; a cache of ``slots`` slots."""
        a, B, C = self.transformer.architecture, G * self.samples, self.sampling.max_new_tokens
        empty_BKSH = jnp.zeros((B, a.kv_heads, slots, a.head_width), self._cache_dtype)
        zeros_BC, zeros_B = jnp.zeros((B, C), jnp.float32), jnp.zeros(B, jnp.int32)
        return Decoding(
            step=jnp.int32(0),
            cache=((empty_BKSH, empty_BKSH),) * a.layers,
            noise_BC=zeros_BC,
            drawn=Drawn(jnp.zeros((B, C), jnp.int32), zeros_BC, zeros_BC, zeros_BC),
            born_B=zeros_B,
            length_B=zeros_B,
            finish_B=jnp.full(B, CUT, jnp.int32),
        )

    def begin(
        self, variables: Tree, head: Array, prompts: PromptBatch, key: Array, question_G: Array, slots: int
    ) -> tuple[Prefix, Decoding]:
        """The pass over the prompts, and the first token of every row."""
        G, C = question_G.size, self.sampling.max_new_tokens
        sample_B = jnp.tile(jnp.arange(self.samples, dtype=jnp.int32), G)
        state = dataclasses.replace(
            self.blank(G, slots),
            noise_BC=row_noise(key, jnp.repeat(question_G, self.samples), sample_B, C),
            finish_B=jnp.full(G * self.samples, RUNNING, jnp.int32),
        )
        hidden_GD, prefix = self._read_prompts(variables, prompts)
        return prefix, self._draw(head, jnp.repeat(hidden_GD, self.samples, axis=0), state)

    def step(self, weights: Weights, prefix: Prefix, state: Decoding) -> Decoding:
        """One more token for every running row."""
        hidden_BD, cache = self._read(weights, prefix, state)
        head = head_VD(weights.rest, self.transformer.architecture)
        return self._draw(head, hidden_BD, dataclasses.replace(state, cache=cache))

    @property
    def _cache_dtype(self) -> str:
        compute = self.transformer.compute
        return compute.dtype if compute.cache_dtype == "same" else compute.cache_dtype

    @property
    def _block(self) -> Block:
        return Block(self.transformer.architecture, self.transformer.compute, self.transformer.lora)

    def _read_prompts(self, variables: Tree, prompts: PromptBatch) -> tuple[Array, Prefix]:
        """The hidden states [G, D] that predict the first new token, and the prompts' keys and values."""
        rotation = rotation_of(positions_of(prompts.valid_GP), self.transformer.architecture)

        def layer(x_GPD: Array, weights: Tree) -> tuple[Array, tuple[Array, Array]]:
            q, k, v = _apply(self._block, weights, x_GPD, rotation, method="project_qkv")
            x_GPD = _apply(self._block, weights, x_GPD, attend(q, k, v, prompts.valid_GP), method="finish")
            return x_GPD, (self._cached(k), self._cached(v))

        x_GPD = _apply(self.transformer, variables, prompts.tokens_GP, method="embed_tokens")
        stacked = {name: tree["layers"] for name, tree in variables.items()}
        x_GPD, (k_LGKPH, v_LGKPH) = jax.lax.scan(layer, x_GPD, stacked)
        hidden_G1D = _apply(self.transformer, variables, x_GPD[:, -1:], method="normalise")
        return hidden_G1D[:, 0], Prefix(tuple(zip(k_LGKPH, v_LGKPH, strict=True)), prompts.valid_GP)

    def _read(self, weights: Weights, prefix: Prefix, state: Decoding) -> tuple[Array, Cache]:
        """Reads the newest column: the hidden states [B, D] that predict the next one, and the cache with it."""
        B, S = state.born_B.size, state.cache[0][0].shape[2]
        slot, age_B = (state.step - 1) % S, state.step - state.born_B
        positions_B1 = (jnp.repeat(prefix.length_G, self.samples) + age_B - 1)[:, None]
        rotation = jax.tree.map(lambda table_1T1F: table_1T1F[0][positions_B1], weights.rotation)
        here_B1 = jnp.ones((B, 1), bool)
        filled_BS = (slot - jnp.arange(S))[None, :] % S < age_B[:, None]

        def extended(cache_BKSH: Array, new_B1KH: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(cache_BKSH, self._cached(new_B1KH), slot, axis=2)

        @jax.jit  # traced once for all layers
        def through(layer: Tree, x_B1D: Array, of_prompts: tuple[Array, Array], own: tuple[Array, Array]) -> Any:
            q, k, v = _apply(block, layer, x_B1D, rotation, method="project_qkv")
            q, k, v = (sharding.constrain(x, "batch", None, "heads", None) for x in (q, k, v))
            own = k_BKSH, v_BKSH = extended(own[0], k), extended(own[1], v)
            shared = self._uncached(of_prompts[0]), self._uncached(of_prompts[1]), prefix.valid_GP
            keys, values = self._uncached(k_BKSH), self._uncached(v_BKSH)
            attended = attend(q, keys, values, here_B1, filled_BS, causal=False, prefix=shared)
            return _apply(block, layer, x_B1D, attended, method="finish"), own

        last_B1 = _column(state.drawn.completion_BC, state.step - 1)
        x_B1D, cache = _apply(self.transformer, weights.rest, last_B1, FEW_ROWS, method="embed_tokens"), []
        block = Block(self.transformer.architecture, self.transformer.compute, self.transformer.lora, FEW_ROWS)
        for layer, of_prompts, own in zip(weights.layers, prefix.cache, state.cache, strict=True):
            x_B1D, own = through(layer, x_B1D, of_prompts, own)
            cache.append(own)
        return _apply(self.transformer, weights.rest, x_B1D, method="normalise")[:, 0], tuple(cache)

    def _cached(self, new_BTKH: Array) -> Array:
        return new_BTKH.swapaxes(1, 2).astype(self._cache_dtype)

    def _uncached(self, cache_BKSH: Array) -> Array:
        # The swap is undone inside `attend`; the compiler removes both.
        return cache_BKSH.swapaxes(1, 2).astype(self.transformer.compute.dtype)

    def _draw(self, head: Array, hidden_BD: Array, state: Decoding) -> Decoding:
        """One more column; rows that have ended keep what they have."""
        hidden_BD = sharding.constrain(hidden_BD, "few_rows", None)
        logits_BV = product("bd,vd->bv", "float32", hidden_BD, head.astype(hidden_BD.dtype))
        # In two moves: at once, the compiler would gather the logits of all rows on every device.
        logits_BV = sharding.constrain(only_tokens(logits_BV, self.vocab_limit), "few_rows", "vocab")
        logits_BV = sharding.constrain(logits_BV, "batch", "vocab_of_rows")
        noise_B = _column(state.noise_BC, state.step)[:, 0]
        token_B, logp_B, tempered_logp_B, sampling_logp_B = sharding.by_rows(self._drawn_in_blocks)(logits_BV, noise_B)
        running_B = state.finish_B == RUNNING
        length_B = state.length_B + running_B.astype(jnp.int32)
        ended_B = jnp.isin(token_B, jnp.array(self.eos_ids, jnp.int32))
        reason_B = jnp.where(ended_B, FINISHED, jnp.where(length_B == self.sampling.max_new_tokens, CUT, RUNNING))

        def written(ring_BC: Array, new_B: Array) -> Array:
            new_B1 = jnp.where(running_B[:, None], new_B[:, None], _column(ring_BC, state.step))
            return jax.lax.dynamic_update_slice_in_dim(ring_BC, new_B1, state.step % ring_BC.shape[1], axis=1)

        return dataclasses.replace(
            state,
            step=state.step + 1,
            drawn=jax.tree.map(written, state.drawn, Drawn(token_B, logp_B, tempered_logp_B, sampling_logp_B)),
            length_B=length_B,
            finish_B=jnp.where(running_B, reason_B, state.finish_B),
        )

    def _drawn_in_blocks(self, logits_BV: Array, noise_B: Array) -> Tree:
        B, V = logits_BV.shape
        size = rows_in_cache(B, V)
        if size == B:
            return self._drawn(logits_BV, noise_B)
        blocks = logits_BV.reshape(-1, size, V), noise_B.reshape(-1, size)
        return jax.tree.map(jnp.ravel, jax.lax.map(lambda block: self._drawn(*block), blocks))

    def _drawn(self, logits_BV: Array, noise_B: Array) -> tuple[Array, Array, Array, Array]:
        """A token of each row, and its log-probabilities as the fields of :class:`Drawn` have them."""
        token_B, sampling_logp_B = draw(logits_BV, noise_B, self.sampling)
        logit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0]
        logp_B = tempered_logp_B = logit_B - jax.nn.logsumexp(logits_BV, axis=-1)
        if self.sampling.temperature == 0:
            tempered_logp_B = sampling_logp_B
        elif self.sampling.temperature != 1:
            cold = 1 / self.sampling.temperature
            tempered_logp_B = logit_B * cold - jax.nn.logsumexp(logits_BV * cold, axis=-1)
        return token_B, logp_B, tempered_logp_B, sampling_logp_B


def _column(ring_BC: Array, step: Array) -> Array:
    """The column [B, 1] of a step."""
    return jax.lax.dynamic_slice_in_dim(ring_BC, step % ring_BC.shape[1], 1, axis=1)


def _apply(module: nn.Module, variables: Tree, *inputs: Any, method: str) -> Any:
    return module.apply(variables, *inputs, method=method)
