"""Log-probabilities of tokens: exact, and never a [tokens, V] array."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcsd_jax import sharding
from rcsd_jax.learning.chunked_head import logp_of_tokens

U, D, V = 45, 12, 67


def inputs(dtype=jnp.float32):
    hidden_UD = jax.random.normal(jax.random.key(0), (U, D), dtype)
    head_VD = jax.random.normal(jax.random.key(1), (V, D), dtype)
    return hidden_UD, head_VD, jax.random.randint(jax.random.key(2), (U,), 0, 60)


def naive(hidden_UD, head_VD, token_U, temperature, vocab_limit):
    """In float64."""
    logits = np.asarray(hidden_UD, np.float64) @ np.asarray(head_VD, np.float64).T / temperature
    logits[:, vocab_limit:] = -np.inf
    logits -= logits.max(-1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logp[np.arange(len(logp)), np.asarray(token_U)]


@pytest.mark.parametrize("vocab_limit", [V, 60])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, None])
def test_they_equal_a_float64_log_softmax(chunk_tokens, vocab_limit):
    logp_U = logp_of_tokens(*inputs(), temperature=0.7, vocab_limit=vocab_limit, chunk_tokens=chunk_tokens)
    np.testing.assert_allclose(logp_U, naive(*inputs(), 0.7, vocab_limit), atol=3e-5)


def test_rows_of_the_head_without_a_token_change_nothing():
    hidden_UD, head_VD, token_U = inputs()
    one, other = (
        logp_of_tokens(hidden_UD, head, token_U, temperature=1.0, vocab_limit=60)
        for head in (head_VD, head_VD.at[60:].set(1e4))
    )
    np.testing.assert_array_equal(one, other)


def test_bfloat16_hidden_states_give_float32_log_probabilities():
    hidden_UD, head_VD, token_U = inputs(jnp.bfloat16)
    logp_U = logp_of_tokens(hidden_UD, head_VD.astype(jnp.float32), token_U, temperature=1.0, vocab_limit=V)
    assert logp_U.dtype == jnp.float32
    np.testing.assert_allclose(logp_U, naive(*inputs(jnp.bfloat16), 1.0, V), atol=1e-4)


def test_memory_grows_with_neither_tokens_times_vocabulary():
    vocabulary, chunk_tokens = 8192, 64
    logp = functools.partial(logp_of_tokens, temperature=1.0, vocab_limit=vocabulary, chunk_tokens=chunk_tokens)

    def bytes_at(tokens):
        arrays = [((tokens, 8), "f4"), ((vocabulary, 8), "f4"), ((tokens,), "i4")]
        compiled = jax.jit(logp).lower(*(jax.ShapeDtypeStruct(*shape) for shape in arrays)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = bytes_at(256), bytes_at(4096)
    assert large < 4 * chunk_tokens * vocabulary * 4, f"{large=}: more than a few chunks of logits"
    assert large - small < 4096 * 8 * 4 * 8, f"{small=} {large=}: more than a few copies of the hidden states"


def test_eight_devices_equal_one():
    hidden_UD, head_VD, token_U = (x[:40] for x in inputs())
    head_VD = jnp.pad(head_VD, ((0, 80 - len(head_VD)), (0, 0)))
    logp = functools.partial(logp_of_tokens, temperature=1.3, vocab_limit=40, chunk_tokens=2)
    one = logp(hidden_UD, head_VD, token_U)
    mesh = sharding.make_mesh(sharding.MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        head = jax.device_put(head_VD, sharding.shardings(("vocab", "table_width"), mesh))
        hidden, token = jax.device_put((hidden_UD, token_U), sharding.batch_sharding(mesh))
        eight = jax.jit(logp)(hidden, head, token)
    np.testing.assert_allclose(one, eight, rtol=1e-5, atol=1e-5)
