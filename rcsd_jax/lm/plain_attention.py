"""Attention as plain matrix products, for any device: grouped queries, segments, an optional shared prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from rcsd_jax import sharding
from rcsd_jax.lm.cpu import settled, widened
from rcsd_jax.lm.kernels import ATTENDED, Prefix
from rcsd_jax.lm.products import product
from rcsd_jax.types import Array

# Queries are taken in chunks, so that a chunk can leave out the keys after it. Chunks of 64 were fastest on CPU; an
# accelerator wants larger matrices. Forwards they are unrolled, so there are never more than 16 of them: compiling
# costs more with every one.
CHUNK, CHUNK_OF_ACCELERATORS, MOST_CHUNKS = 64, 512, 16
# Finite, so that a row that sees nothing (padding) becomes a plain mean and not NaN.
UNSEEN = -1e30


def attend(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    segments_BT: Array,
    key_segments_BS: Array | None = None,
    *,
    causal: bool = True,
    prefix: Prefix | None = None,
) -> Array:
    """Scaled dot-product attention with grouped queries; softmax in float32.

    A query sees the keys of its own non-zero segment and, if ``causal``, only those at its own column or before.
    Booleans do as segments where there is only one.

    Args:
      q_BTNH: queries; N is a multiple of K.
      k_BSKH: keys; S equals T if ``causal``.
      v_BSKH: values.
      segments_BT: segments of the queries; 0 is padding.
      key_segments_BS: segments of the keys; those of the queries if None.
      causal: queries and keys are the same columns. False where the keys are a cache that is all in the past.
      prefix: (k_GPKH, v_GPKH, valid_GP), keys before all others that B // G neighbouring rows share. Every query
        with a segment sees all valid ones. They are read once per question and never repeated.

    Returns:
      [B, T, N, H] in the dtype of the queries; finite, but meaningless, for queries that see nothing.
    """
    key_segments_BS = segments_BT if key_segments_BS is None else key_segments_BS
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    assert N % K == 0 and (not causal or k_BSKH.shape[1] == T), f"{q_BTNH.shape=} {k_BSKH.shape=} {causal=}"
    assert prefix is None or B % prefix[0].shape[0] == 0, f"{q_BTNH.shape=} {prefix[0].shape=}"
    q_BKRTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    if prefix is not None:
        prefix = (prefix[0].swapaxes(1, 2), prefix[1].swapaxes(1, 2), prefix[2])
    if causal:
        out_BKRTH = _causal(q_BKRTH, k_BKSH, v_BKSH, segments_BT, key_segments_BS, prefix)
    else:
        seen_BTS = _same(segments_BT, key_segments_BS)
        out_BKRTH = _of_chunk(q_BKRTH, k_BKSH, v_BKSH, seen_BTS, prefix)[0]
    return out_BKRTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _forward(
    q_BKRTH: Array,
    k_BKSH: Array,
    v_BKSH: Array,
    segments_BT: Array,
    key_segments_BS: Array,
    prefix: Prefix | None,
) -> tuple[Array, tuple[Any, ...]]:
    parts, T, column_T = [], q_BKRTH.shape[3], jnp.arange(q_BKRTH.shape[3])
    for start in range(0, T, _chunk(T)):
        rows, keys = slice(start, start + _chunk(T)), slice(0, start + _chunk(T))
        in_order_TS = column_T[None, keys] <= column_T[rows, None]
        seen_BTS = _same(segments_BT[:, rows], key_segments_BS[:, keys]) & in_order_TS[None]
        parts.append(_of_chunk(q_BKRTH[:, :, :, rows], k_BKSH[:, :, keys], v_BKSH[:, :, keys], seen_BTS, prefix))
    whole = (x[0] if len(x) == 1 else jnp.concatenate(x, axis=3) for x in zip(*parts, strict=True))
    out_BKRTH, *softmax = (checkpoint_name(widened(x), ATTENDED) for x in whole)
    out_BKRTH = out_BKRTH.astype(q_BKRTH.dtype)
    return out_BKRTH, (q_BKRTH, k_BKSH, v_BKSH, segments_BT, key_segments_BS, prefix, out_BKRTH, *softmax)


def _backward(residuals: tuple[Any, ...], gradient_BKRTH: Array) -> tuple[Any, ...]:
    """Scores are never all in memory: they are formed again, from what a softmax leaves of a row.

    That is how FlashAttention does it (Dao et al. 2022, arXiv 2205.14135, section 3.1 and algorithm 4).
    """
    q_BKRTH, k_BKSH, v_BKSH, segments_BT, key_segments_BS, prefix, out_BKRTH, highest_BKRT1, total_BKRT1 = residuals
    # The weights of a softmax are exp(score - highest) / total: the division is done here, in what they meet.
    gradient_BKRTH = (gradient_BKRTH.astype(jnp.float32) / total_BKRT1).astype(q_BKRTH.dtype)
    # The mean of the gradients by the weights, over the softmax. Of the gradient as the products see it, since only the
    # distance from the mean counts.
    mean_BKRT1 = jnp.sum(gradient_BKRTH.astype(jnp.float32) * out_BKRTH.astype(jnp.float32), axis=-1, keepdims=True)
    rows = q_BKRTH, gradient_BKRTH, highest_BKRT1, mean_BKRT1
    # L is a block of columns, of all rows. Cut before the loops: they take their arguments as they stand, where
    # XLA:CPU would turn these around anew for every score.
    rows_L = [_blocks(x_BKRTX, 3, _chunk(q_BKRTH.shape[3])) for x_BKRTX in rows]
    to_q_LBKRTH, *to_own = _through_own(rows_L, k_BKSH, v_BKSH, segments_BT, key_segments_BS)
    to_prefix = None
    if prefix is not None:
        more_LBKRTH, to_prefix = _through_prefix(rows_L, prefix)
        to_q_LBKRTH += more_LBKRTH
    to_q_BKRTH = jnp.moveaxis(to_q_LBKRTH, 0, 3).reshape(*q_BKRTH.shape[:3], -1, q_BKRTH.shape[4])
    return to_q_BKRTH[:, :, :, : q_BKRTH.shape[3]].astype(q_BKRTH.dtype), *to_own, None, None, to_prefix


def _through_own(
    rows_L: Sequence[Array], k_BKSH: Array, v_BKSH: Array, segments_BT: Array, key_segments_BS: Array
) -> tuple[Array, Array, Array]:
    """Gradients of queries [L, B, K, R, T, H], and of keys and values, block of queries by block of keys."""
    (L, B, K, R, chunk, H), S = rows_L[0].shape, k_BKSH.shape[2]
    rows_LBKMX = [x.reshape(L, B, K, R * chunk, -1) for x in rows_L]
    keys_L = _blocks(k_BKSH, 2, chunk), _blocks(k_BKSH.swapaxes(2, 3), 3, chunk), _blocks(v_BKSH, 2, chunk)
    of_rows_LBM, of_keys_LBS = jnp.tile(_blocks(segments_BT, 1, chunk), R), _blocks(key_segments_BS, 1, chunk)
    column_M, column_S = jnp.tile(jnp.arange(chunk), R), jnp.arange(chunk)

    def block(gradients: tuple[Array, ...], pair: tuple[Array, Array]) -> tuple[tuple[Array, ...], None]:
        i, j = pair
        seen_BSM = _same(of_rows_LBM[i], of_keys_LBS[j]).swapaxes(1, 2)
        seen_BSM &= (column_S[:, None] + j * chunk <= column_M[None, :] + i * chunk)[None]
        more = _of_keys([x[i] for x in rows_LBKMX], tuple(x[j] for x in keys_L), seen_BSM[:, None])
        added = zip(gradients, (i, j, j), more, strict=True)
        return tuple(jax.lax.dynamic_update_index_in_dim(x, x[n] + y, n, 0) for x, n, y in added), None

    nothing = tuple(jnp.zeros(x.shape, jnp.float32) for x in (rows_LBKMX[0], keys_L[0], keys_L[2]))
    later, earlier = np.tril_indices(L)
    pairs = jnp.asarray(later), jnp.asarray(earlier)
    (to_q_LBKMH, *to_kv), _ = jax.lax.scan(block, nothing, pairs)
    to_k_BKSH, to_v_BKSH = (jnp.moveaxis(x, 0, 2).reshape(B, K, -1, H)[:, :, :S].astype(k_BKSH.dtype) for x in to_kv)
    return to_q_LBKMH.reshape(L, B, K, R, chunk, H), to_k_BKSH, to_v_BKSH


def _through_prefix(rows_L: Sequence[Array], prefix: Prefix) -> tuple[Array, tuple[Array, Array, None]]:
    """Gradients of queries [L, B, K, R, T, H], and of the prefix, block of queries by block."""
    k_GKPH, v_GKPH, valid_GP = prefix
    keys = k_GKPH, k_GKPH.swapaxes(2, 3), v_GKPH
    seen_G1P1 = (valid_GP != 0)[:, None, :, None]

    def block(to_kv: tuple[Array, Array], rows: list[Array]) -> tuple[tuple[Array, Array], Array]:
        to_q_GKMH, *more = _of_keys(rows, keys, seen_G1P1)
        return (to_kv[0] + more[0], to_kv[1] + more[1]), _by_row(to_q_GKMH, rows_L[0].shape[1:-1])

    nothing = jnp.zeros(k_GKPH.shape, jnp.float32), jnp.zeros(v_GKPH.shape, jnp.float32)
    rows_LGKMX = [jax.vmap(lambda x: _by_question(x, valid_GP.shape[0]))(x) for x in rows_L]
    (to_k_GKPH, to_v_GKPH), to_q_LBKRTH = jax.lax.scan(block, nothing, rows_LGKMX)
    return to_q_LBKRTH, (to_k_GKPH.astype(k_GKPH.dtype), to_v_GKPH.astype(v_GKPH.dtype), None)


_causal = jax.custom_vjp(lambda *arguments: _forward(*arguments)[0])
_causal.defvjp(_forward, _backward)


def _of_chunk(
    q_BKRTH: Array, k_BKSH: Array, v_BKSH: Array, seen_BTS: Array, prefix: Prefix | None
) -> tuple[Array, Array, Array]:
    """One softmax over the prefix and the own keys: what comes out, the highest score of every row, and its total."""
    H = q_BKRTH.shape[-1]
    scores_BKRTS = product("bkrth,bksh->bkrts", "float32", q_BKRTH, k_BKSH) * H**-0.5
    scores_BKRTS = jnp.where(seen_BTS[:, None, None], scores_BKRTS, UNSEEN)
    highest_BKRT1 = jnp.max(scores_BKRTS, axis=-1, keepdims=True)
    if prefix is None:
        total_BKRT1, out_BKRTH = _weigh("bkrts,bksh->bkrth", scores_BKRTS, highest_BKRT1, v_BKSH)
        return (out_BKRTH / total_BKRT1).astype(q_BKRTH.dtype), highest_BKRT1, total_BKRT1

    k_GKPH, v_GKPH, valid_GP = prefix
    G, rows = valid_GP.shape[0], q_BKRTH.shape[:-1]
    scores_GKMP = product("gkmh,gkph->gkmp", "float32", _by_question(q_BKRTH, G), k_GKPH) * H**-0.5
    scores_GKMP = jnp.where(valid_GP[:, None, None, :] != 0, scores_GKMP, UNSEEN)
    highest_BKRT1 = jnp.maximum(highest_BKRT1, _by_row(jnp.max(scores_GKMP, axis=-1, keepdims=True), rows))
    total_BKRT1, out_BKRTH = _weigh("bkrts,bksh->bkrth", scores_BKRTS, highest_BKRT1, v_BKSH)
    total_GKM1, out_GKMH = _weigh("gkmp,gkph->gkmh", scores_GKMP, _by_question(highest_BKRT1, G), v_GKPH)
    total_BKRT1, out_BKRTH = total_BKRT1 + _by_row(total_GKM1, rows), out_BKRTH + _by_row(out_GKMH, rows)
    return (out_BKRTH / total_BKRT1).astype(q_BKRTH.dtype), highest_BKRT1, total_BKRT1


def _weigh(spec: str, scores: Array, highest: Array, values: Array) -> tuple[Array, Array]:
    """A softmax before its division: sum of exp(scores - highest), and the values weighed with it."""
    weights = settled(jnp.exp(scores - jax.lax.stop_gradient(highest)))
    return jnp.sum(weights, axis=-1, keepdims=True), product(spec, "float32", weights.astype(values.dtype), values)


def _of_keys(rows: Sequence[Array], keys: tuple[Array, ...], seen_X1SM: Array) -> tuple[Array, Array, Array]:
    """Gradients [X, K, M, H] of queries through some keys, and [X, K, S, H] of the keys and values; in float32.

    Args:
      rows: queries, and the gradient of what they get over the total of their softmax, [X, K, M, H]; their highest
        score, and the mean over their softmax of the gradient by its weights, [X, K, M, 1].
      keys: keys [X, K, S, H], the same transposed, and values.
      seen_X1SM: which query sees which key.
    """
    q_XKMH, gradient_XKMH, highest_XKM1, mean_XKM1 = rows
    k_XKSH, k_XKHS, v_XKSH = keys
    highest_XK1M, mean_XK1M, scale = highest_XKM1.swapaxes(2, 3), mean_XKM1.swapaxes(2, 3), q_XKMH.shape[-1] ** -0.5
    # Scores lie transposed, so that no product has to turn a large operand over.
    scores_XKSM = product("xksh,xkmh->xksm", "float32", k_XKSH, q_XKMH) * scale
    weights_XKSM = settled(jnp.exp(jnp.where(seen_X1SM, scores_XKSM, UNSEEN) - highest_XK1M))
    to_weights_XKSM = product("xksh,xkmh->xksm", "float32", v_XKSH, gradient_XKMH)
    to_scores_XKSM = jnp.where(seen_X1SM, weights_XKSM * (to_weights_XKSM - mean_XK1M), 0).astype(q_XKMH.dtype)
    to_v_XKSH = product("xksm,xkmh->xksh", "float32", weights_XKSM.astype(q_XKMH.dtype), gradient_XKMH)
    to_k_XKSH = product("xksm,xkmh->xksh", "float32", to_scores_XKSM, q_XKMH) * scale
    to_q_XKHM = product("xkhs,xksm->xkhm", "float32", k_XKHS, to_scores_XKSM) * scale
    return to_q_XKHM.swapaxes(2, 3), to_k_XKSH, to_v_XKSH


def _chunk(length: int) -> int:
    """Columns of a chunk: chunks are alike, but for rounding."""
    columns = CHUNK if sharding.platform() == "cpu" else CHUNK_OF_ACCELERATORS
    return -(-length // min(MOST_CHUNKS, -(-length // columns)))


def _blocks(x: Array, axis: int, size: int) -> Array:
    """Cut along an axis into blocks, the first axis of the result; padded with zeros to whole blocks."""
    x = jnp.pad(x, [(0, -x.shape[i] % size if i == axis else 0) for i in range(x.ndim)])
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def _same(segments_BT: Array, key_segments_BS: Array) -> Array:
    return (segments_BT[:, :, None] == key_segments_BS[:, None, :]) & (key_segments_BS[:, None, :] != 0)


def _by_question(x_BKRTX: Array, G: int) -> Array:
    """[G, K, M, X]: the M = B // G * R * T queries of one question and one key head are the rows of one matrix."""
    B, K, R, T, X = x_BKRTX.shape
    return x_BKRTX.reshape(G, B // G, K, R * T, X).swapaxes(1, 2).reshape(G, K, -1, X)


def _by_row(x_GKMX: Array, rows: tuple[int, ...]) -> Array:
    """[B, K, R, T, X] again; ``rows`` is (B, K, R, T)."""
    (B, K, R, T), (G, _, _, X) = rows, x_GKMX.shape
    return x_GKMX.reshape(G, K, B // G, R * T, X).swapaxes(1, 2).reshape(B, K, R, T, X)
