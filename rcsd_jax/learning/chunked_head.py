"""A loss of the LM head's logits, chunk by chunk, so that nothing of size tokens times vocabulary exists.

The gradient is made in the forward pass: a chunk's logits are formed, the loss and its derivative are taken while
they are at hand, two matrix products turn the derivative into the gradients of hidden states and head, and the
logits are forgotten. The backward pass only scales. With the teacher's logits that is 4 matrix products of
[tokens, D] x [D, V] where recomputation would need 6 (the scheme of Liger-Kernel, arXiv 2410.10989).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rcsd_jax import sharding
from rcsd_jax.lm import logit_at, logits_of, rows_in_cache
from rcsd_jax.masked import masked_sum
from rcsd_jax.types import Array, Tree

# Tokens of a chunk on one device: as many as have CHUNK_BYTES of float32 logits, within these bounds. With fewer,
# matrix products read the head more than they use it; with more, a small vocabulary falls out of the cache.
CHUNK_BYTES = 64 * 2**20
FEWEST_TOKENS, MOST_TOKENS = 256, 1024

# (logits_UV, the teacher's or None, rows) -> (loss_U, metrics by name, each _U)
LossOfLogits = Callable[[Array, Any, Tree], tuple[Array, dict[str, Array]]]


class States(NamedTuple):
    """What a model has before tokens: states after its final norm, and the LM head that they belong to.

    A teacher of several prompts has the states of each, [U, K, D], and logits [U, K, V].
    """

    hidden_UD: Array
    head_VD: Array


def head_sum(
    loss_of_logits: LossOfLogits,
    student: States,
    teacher: States | None,
    rows: Tree,
    weight_U: Array,
    *,
    vocab_limit: int,
    head_trainable: bool,
    chunk_tokens: int | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sums over tokens of a loss of the logits and of its metrics.

    Gradients flow into the student's states and, where ``head_trainable``, into its head; never into the teacher's, the
    rows or the weights. A token of weight 0 contributes nothing, not even a NaN.

    Args:
      loss_of_logits: hashable, it is a static argument; the loss of a token depends on its row of the arguments alone.
      student: heads are read in the dtype of their states, sums are float32.
      teacher: of the same tokens, or None.
      rows: what the loss needs for each token; every leaf begins with U and is cut with the tokens.
      weight_U: what each token counts.
      vocab_limit: rows of the heads with a token.
      head_trainable: False leaves the gradient of the head out (LoRA).
      chunk_tokens: tokens in a chunk at most; None goes by ``CHUNK_BYTES`` a device.
    """
    count = chunks(len(weight_U), student.head_VD.shape[0], chunk_tokens)

    def cut(x: Array) -> Array:
        return _cut(jnp.where((weight_U > 0).reshape(-1, *[1] * (x.ndim - 1)), x, 0), count)

    loss = functools.partial(_masked_loss, loss_of_logits)
    teacher_hidden, teacher_VD = (None, None) if teacher is None else (cut(teacher.hidden_UD), teacher.head_VD)
    cut_rows = teacher_hidden, jax.tree.map(cut, rows), cut(weight_U)
    return _scan(loss, vocab_limit, head_trainable, cut(student.hidden_UD), student.head_VD, teacher_VD, cut_rows)


def logp_of_tokens(
    hidden_UD: Array,
    head_VD: Array,
    token_U: Array,
    *,
    temperature: float,
    vocab_limit: int,
    chunk_tokens: int | None = None,
) -> Array:
    """log p(token) of every row at the temperature, float32 [U]; no gradient.

    Args: as of ``head_sum``; row u of the states predicts ``token_U[u]``.
    """
    count = chunks(len(token_U), head_VD.shape[0], chunk_tokens)
    compute_VD = head_VD.astype(hidden_UD.dtype)

    def logp(chunk: tuple[Array, Array]) -> Array:
        logits_UV = logits_of(chunk[0], compute_VD, vocab_limit) / temperature
        return logit_at(logits_UV, chunk[1]) - jax.nn.logsumexp(logits_UV, axis=-1)

    logp_XU = jax.lax.map(logp, (_cut(hidden_UD, count), _cut(token_U, count)))
    return jax.lax.stop_gradient(logp_XU.T.reshape(-1)[: len(token_U)])


def _cut(x_U: Array, count: int) -> Array:
    """[U, ...] as [count, size, ...], with zeros at the end.

    Token u goes into chunk u % count: where tokens lie on several devices, each has its part of every chunk.
    """
    size = -(-len(x_U) // count)
    x_U = jnp.pad(x_U, [(0, count * size - len(x_U))] + [(0, 0)] * (x_U.ndim - 1))
    return x_U.reshape(size, count, *x_U.shape[1:]).swapaxes(0, 1)


def chunks(tokens: int, vocabulary: int, chunk_tokens: int | None) -> int:
    """How many chunks: a power of two, so that the usual numbers of tokens are cut without padding."""
    if chunk_tokens is None:
        devices = max(1, jax.sharding.get_abstract_mesh().size)
        chunk_tokens = devices * min(MOST_TOKENS, max(FEWEST_TOKENS, CHUNK_BYTES // (4 * vocabulary)))
    return 1 << max(0, -(-tokens // chunk_tokens) - 1).bit_length()


def _masked_loss(
    loss_of_logits: LossOfLogits, logits_UV: Array, teacher_UV: Array | None, rows: Tree, weight_U: Array
) -> tuple[Array, dict[str, Array]]:
    loss_U, metrics = loss_of_logits(logits_UV, teacher_UV, rows)
    return masked_sum(loss_U, weight_U), {name: masked_sum(value_U, weight_U) for name, value_U in metrics.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan(loss, vocab_limit, head_trainable, hidden, head_VD, teacher_VD, rows):
    compute_VD = head_VD.astype(hidden.dtype)

    def body(_, chunk):
        hidden_UD, (teacher_UD, rows_U, weight_U) = chunk
        teacher_UV = _teacher_logits(teacher_UD, teacher_VD, vocab_limit)
        return None, loss(logits_of(hidden_UD, compute_VD, vocab_limit), teacher_UV, rows_U, weight_U)

    return _total(jax.lax.scan(body, None, (hidden, rows))[1])


def _forward(loss, vocab_limit, head_trainable, hidden, head_VD, teacher_VD, rows):
    compute_VD = head_VD.astype(hidden.dtype)

    def body(dhead_VD, chunk):
        hidden_UD, (teacher_UD, rows_U, weight_U) = chunk
        teacher_UV = _teacher_logits(teacher_UD, teacher_VD, vocab_limit)
        logits_UV = logits_of(hidden_UD, compute_VD, vocab_limit)
        sums, dlogits_UV = _in_blocks(loss, hidden.dtype, (logits_UV, teacher_UV, rows_U, weight_U))
        if head_trainable:
            dhead_VD += _outer_products(dlogits_UV, hidden_UD)
        return dhead_VD, (sums, _of_states(dlogits_UV, compute_VD).astype(hidden.dtype))

    nothing = jnp.zeros(head_VD.shape, jnp.float32) if head_trainable else None
    dhead_VD, (sums, dhidden) = jax.lax.scan(body, nothing, (hidden, rows))
    return _total(sums), (dhidden, jax.tree.map(lambda x: x.astype(head_VD.dtype), dhead_VD))


def _teacher_logits(hidden_UD: Array | None, head_VD: Array | None, vocab_limit: int) -> Array | None:
    if hidden_UD is None:
        return None
    assert head_VD is not None
    logits = logits_of(hidden_UD.reshape(-1, head_VD.shape[1]), head_VD.astype(hidden_UD.dtype), vocab_limit)
    return logits.reshape(*hidden_UD.shape[:-1], -1)


def _in_blocks(loss: Callable, dtype: jnp.dtype, arguments: tuple) -> tuple[Tree, Array]:
    """(sums, the derivative by the logits in ``dtype``); on a CPU some rows after the others."""

    def of_rows(block: tuple) -> tuple[Tree, Array]:
        sums, dlogits_UV = jax.value_and_grad(loss, has_aux=True)(*block)
        return sums, dlogits_UV.astype(dtype)

    def as_bits(block: tuple) -> tuple[Tree, Array]:
        sums, dlogits_UV = of_rows(block)
        return sums, jax.lax.bitcast_convert_type(dlogits_UV, bits)

    U, V = arguments[0].shape
    size = rows_in_cache(U, V)
    if size == U or jax.sharding.get_abstract_mesh().size > 1:
        return of_rows(arguments)
    # XLA:CPU updates a bfloat16 array by way of a float32 copy of all of it, at every block; one of integers in place.
    bits = jnp.uint16 if dtype == jnp.bfloat16 else jnp.uint32
    sums, bits_XUV = jax.lax.map(as_bits, jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), arguments))
    return _total(sums), jax.lax.bitcast_convert_type(bits_XUV.reshape(U, V), dtype)


def _of_states(dlogits_UV: Array, head_VD: Array) -> Array:
    """The derivative by hidden states, float32 [U, D]. A device multiplies the words that it has, and gets rows back.

    Left to itself the compiler may gather the derivatives by all words instead.
    """

    def product(dlogits_UV: Array, head_VD: Array) -> Array:
        return jnp.einsum("uv,vd->ud", dlogits_UV, head_VD, preferred_element_type=jnp.float32)

    def on_device(dlogits_UV: Array, head_VD: Array) -> Array:
        return jax.lax.psum(jax.lax.psum_scatter(product(dlogits_UV, head_VD), "fsdp", tiled=True), "tensor")

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or len(dlogits_UV) % sharding.row_parts(mesh):
        return sharding.constrain(product(dlogits_UV, head_VD), "batch", None)
    words, head = sharding.spec(("few_rows", "vocab")), sharding.spec(("vocab", None))
    rows = sharding.spec(("batch", None))
    return jax.shard_map(on_device, in_specs=(words, head), out_specs=rows, check_vma=False)(dlogits_UV, head_VD)


def _outer_products(left_UV: Array, right_UD: Array) -> Array:
    """The sum over rows of outer products, float32 [V, D]."""
    if sharding.platform() == "cpu" and left_UV.dtype == jnp.bfloat16:
        # Summed over an axis of one as well, XLA:CPU takes another kernel: twice as fast here, slower in float32.
        return jnp.einsum("luv,lud->vd", left_UV[None], right_UD[None], preferred_element_type=jnp.float32)
    return jnp.einsum("uv,ud->vd", left_UV, right_UD, preferred_element_type=jnp.float32)


def _backward(loss, vocab_limit, head_trainable, gradients, cotangents):
    scale, _ = cotangents
    dhidden, dhead_VD = jax.tree.map(lambda x: (x * scale).astype(x.dtype), gradients)
    return dhidden, dhead_VD, None, None


def _total(sums: Tree) -> Tree:
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)


_scan.defvjp(_forward, _backward)
