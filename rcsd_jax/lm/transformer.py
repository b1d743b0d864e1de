"""The decoder: tokens in, hidden states out. Layers are one stack of weights, scanned or unrolled."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rcsd_jax import sharding
from rcsd_jax.lm.architecture import Architecture, Compute, LoraConfig
from rcsd_jax.lm.attention import Rotation, attention, attention_kept, rotate, rotation_of
from rcsd_jax.lm.cpu import widened
from rcsd_jax.lm.elementwise import swiglu
from rcsd_jax.lm.weights import Linear, Norm, Table, project
from rcsd_jax.types import Array, Tree

# Logical axes of what goes from layer to layer: rows stay on their devices, and weights are gathered for them.
ROWS = ("batch", "length", None)
PRODUCTS_KEPT = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_from_both_policies(PRODUCTS_KEPT, attention_kept),
    "attention": attention_kept,
    "full": None,
}


class Block(nn.Module):
    """One layer. The sampler uses its halves, ``project_qkv`` and ``finish``, with attention over a cache between.

    ``stream`` are the logical axes of what goes from layer to layer, see ``ROWS``.
    """

    architecture: Architecture
    compute: Compute
    lora: LoraConfig | None = None
    stream: tuple[str | None, ...] = ROWS

    def setup(self) -> None:
        """Declares the weights of a layer."""
        a = self.architecture
        queries, keys = a.heads * a.head_width, a.kv_heads * a.head_width
        residual = 1 / math.sqrt(2 * a.layers)  # two projections a layer add to the residual stream
        self.input_norm = self._norm(a.width)
        self.q_proj = self._linear("q", (queries, a.width), ("heads", "width"), bias=a.qkv_bias)
        self.k_proj = self._linear("k", (keys, a.width), ("kv_heads", "width"), bias=a.qkv_bias)
        self.v_proj = self._linear("v", (keys, a.width), ("kv_heads", "width"), bias=a.qkv_bias)
        if a.qk_norm:
            self.q_norm, self.k_norm = self._norm(a.head_width), self._norm(a.head_width)
        self.o_proj = self._linear("o", (a.width, queries), ("width", "heads"), gain=residual)
        self.post_attention_norm = self._norm(a.width)
        self.gate_proj = self._linear("gate", (a.mlp_width, a.width), ("mlp", "width"))
        self.up_proj = self._linear("up", (a.mlp_width, a.width), ("mlp", "width"))
        self.down_proj = self._linear("down", (a.width, a.mlp_width), ("width", "mlp"), gain=residual)

    def _linear(self, target: str, shape: tuple[int, int], axes: tuple[str, str], **options: Any) -> Linear:
        adapted = self.lora is not None and target in self.lora.targets
        return Linear(shape, axes, self.compute, self.lora if adapted else None, **options)

    def _norm(self, width: int) -> Norm:
        return Norm(width, self.architecture.norm_eps, self.compute)

    def project_qkv(self, x_BTD: Array, rotation: Rotation) -> tuple[Array, Array, Array]:
        """Queries [B, T, N, H], keys and values [B, T, K, H], normed and rotated."""
        a = self.architecture
        B, T, _ = x_BTD.shape
        h_BTD = self.input_norm(x_BTD)
        q, k, v = self._projected(h_BTD, self.q_proj, self.k_proj, self.v_proj)
        q_BTNH = q.reshape(B, T, a.heads, a.head_width)
        k_BTKH, v_BTKH = (x.reshape(B, T, a.kv_heads, a.head_width) for x in (k, v))
        if a.qk_norm:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        return rotate(q_BTNH, rotation), rotate(k_BTKH, rotation), v_BTKH

    def _projected(self, x_BTD: Array, *linears: Linear) -> list[Array]:
        # Few rows of decoding gain nothing: there is no backward pass, and the fused kernel would be copied every step.
        return project(x_BTD, *linears) if self.stream == ROWS else [linear(x_BTD) for linear in linears]

    def finish(self, x_BTD: Array, attended_BTNH: Array) -> Array:
        """The rest of the layer: output projection, residual, MLP, residual."""
        B, T, _ = x_BTD.shape
        attended_BTX = sharding.constrain(attended_BTNH.reshape(B, T, -1), *self.stream[:2], "heads")
        x_BTD = x_BTD + self.o_proj(attended_BTX)
        h_BTD = self.post_attention_norm(x_BTD)
        gate_BTF, up_BTF = self._projected(h_BTD, self.gate_proj, self.up_proj)
        x_BTD = x_BTD + self.down_proj(swiglu(gate_BTF, up_BTF))
        return sharding.constrain(x_BTD, *self.stream)

    def __call__(self, x_BTD: Array, rotation: Rotation, segments_BT: Array) -> tuple[Array, None]:
        """One layer over whole rows; the None is for ``nn.scan``."""
        x_BTD = x_BTD.astype(self.compute.dtype)
        q, k, v = self.project_qkv(x_BTD, rotation)
        return widened(self.finish(x_BTD, attention(self._attention, q, k, v, segments_BT))), None

    def with_prefix(
        self, x: tuple[Array, Array], rotations: tuple[Rotation, Rotation], valid: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        """One layer over prompts [G, P, D] and the completions [B, C, D] that continue them."""
        x_GPD, x_BCD = (rows.astype(self.compute.dtype) for rows in x)
        (of_prompts, of_completions), (valid_GP, valid_BC) = rotations, valid
        q, k, v = self.project_qkv(x_GPD, of_prompts)
        q_own, k_own, v_own = self.project_qkv(x_BCD, of_completions)
        x_GPD = self.finish(x_GPD, attention(self._attention, q, k, v, valid_GP))
        own = attention(self._attention, q_own, k_own, v_own, valid_BC, prefix=(k, v, valid_GP))
        return widened((x_GPD, self.finish(x_BCD, own))), None

    @property
    def _attention(self) -> str:
        return "plain" if self.is_initializing() else self.compute.attention  # weights are made with a row of one token


class Transformer(nn.Module):
    """The decoder up to the final norm. ``lora`` says which adapters exist; the "lora" collection turns them on."""

    architecture: Architecture
    compute: Compute = Compute()
    lora: LoraConfig | None = None

    def setup(self) -> None:
        """Declares the tables and the stacked layers."""
        a = self.architecture
        self.embed = Table("embedding", (a.vocab_size, a.width), self.compute)
        self.layers = _stacked_block(a.layers, self.compute.remat)(a, self.compute, self.lora)
        self.final_norm = Norm(a.width, a.norm_eps, self.compute)
        if not a.tied:
            self.lm_head = Table("kernel", (a.vocab_size, a.width), self.compute)

    def __call__(self, tokens_BT: Array, positions_BT: Array, segments_BT: Array) -> Array:
        """Hidden states [B, T, D] after the final norm.

        A token sees the tokens at or before it (by column) of the same non-zero segment; ``positions_BT`` only set
        the rotary angles. The hidden states of padding are finite and mean nothing.
        """
        if self.is_initializing() and not self.architecture.tied:
            self.lm_head()
        rotation = rotation_of(positions_BT, self.architecture)
        x_BTD = self._through_layers("__call__", self.embed_tokens(tokens_BT), rotation, segments_BT)
        return self.final_norm(x_BTD)

    def with_prefix(self, tokens_GP: Array, valid_GP: Array, tokens_BC: Array, valid_BC: Array) -> Array:
        """Hidden states [B, C, D] that predict each completion token; every prompt is computed once.

        Args:
          tokens_GP: left-padded prompts; the last column is a real token.
          valid_GP: True on real tokens.
          tokens_BC: right-padded completions, row b continues prompt b // (B // G).
          valid_BC: True on real tokens.
        """
        G, B, C = tokens_GP.shape[0], *tokens_BC.shape
        length_G = jnp.sum(valid_GP, axis=1, dtype=jnp.int32)
        positions_GP = positions_of(valid_GP)
        positions_BC = jnp.repeat(length_G, B // G)[:, None] + jnp.arange(C)[None, :]
        x = self.embed_tokens(tokens_GP), self.embed_tokens(tokens_BC)
        rotations = tuple(rotation_of(positions, self.architecture) for positions in (positions_GP, positions_BC))
        x_GPD, x_BCD = self._through_layers("with_prefix", x, rotations, (valid_GP, valid_BC))
        # The last token of the prompt predicts the first of the completion.
        first_B1D = jnp.repeat(x_GPD[:, -1:], B // G, axis=0)
        return self.final_norm(jnp.concatenate([first_B1D, x_BCD[:, :-1]], axis=1))

    def embed_tokens(self, tokens_BT: Array, stream: tuple[str | None, ...] = ROWS) -> Array:
        """Rows of the embedding, in the compute dtype: the input of the first layer."""
        table_VD = self.embed()
        if stream == ROWS:  # or every device would look up, in its part of the table, the tokens of all
            table_VD = sharding.constrain(table_VD, "vocab_of_rows", None)
        return sharding.constrain(jnp.take(table_VD, tokens_BT, axis=0).astype(self.compute.dtype), *stream)

    def normalise(self, x_BTD: Array) -> Array:
        """The final norm: from the output of the last layer to the hidden states."""
        return self.final_norm(x_BTD)

    def _through_layers(self, method: str, x: Tree, rotations: Tree, segments: Tree) -> Tree:
        if self.compute.scan_layers or self.is_initializing():
            return self._computed(getattr(self.layers, method)(widened(x), rotations, segments)[0])
        block = Block(self.architecture, self.compute, self.lora, parent=None)

        def layer(weights: Tree, x: Tree) -> Tree:
            return self._computed(block.apply(weights, x, rotations, segments, method=method)[0])

        if self.compute.remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT_POLICIES[self.compute.remat])
        for index in range(self.architecture.layers):
            x = layer(layer_variables(self.variables, index), x)
        return x

    def _computed(self, x: Tree) -> Tree:
        return jax.tree.map(lambda x: x.astype(self.compute.dtype), x)


def _stacked_block(layers: int, remat: str) -> type[nn.Module]:
    methods = ["__call__", "with_prefix"]
    block = (
        Block if remat == "none" else nn.remat(Block, policy=REMAT_POLICIES[remat], prevent_cse=False, methods=methods)
    )
    return nn.scan(
        block,
        variable_axes={"params": 0, "lora": 0},
        split_rngs={"params": True, "lora": True},
        in_axes=nn.broadcast,
        length=layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
        methods=methods,
    )


def positions_of(valid_BT: Array) -> Array:
    """The number of real tokens before each token; 0 on left padding."""
    return jnp.maximum(jnp.cumsum(valid_BT, axis=1, dtype=jnp.int32) - 1, 0)


def layer_variables(variables: Tree, index: int) -> Tree:
    """The weights of one layer, cut from the stack: what ``Block.apply`` takes."""
    return {
        name: jax.tree.map(lambda weight: weight[index], tree["layers"])
        for name, tree in variables.items()
        if "layers" in tree
    }


def init(transformer: Transformer, key: Array) -> Tree:
    """Fresh weights: {"params": ...} and, with adapters, {"lora": ...}."""
    return nn.meta.unbox(_boxed(transformer, key))


def axes(transformer: Transformer) -> Tree:
    """The tree of ``init`` with a tuple of logical axis names in place of every array."""
    boxed = jax.eval_shape(lambda key: _boxed(transformer, key), jax.random.key(0))
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def _boxed(transformer: Transformer, key: Array) -> Tree:
    token = jnp.zeros((1, 1), jnp.int32)
    # A stream of their own: the same key gives the same params with and without adapters.
    keys = {"params": key, "lora": jax.random.fold_in(key, 1)}
    return transformer.init(keys, token, token, token)


def head_VD(variables: Tree, architecture: Architecture) -> Array:
    """The matrix that turns hidden states into logits, as stored; the embedding where it is tied."""
    params = variables["params"]
    return params["embed"]["embedding"] if architecture.tied else params["lm_head"]["kernel"]
