"""The decoder: who sees whom, and that every way to compute it gives the same numbers."""

import dataclasses
import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcsd_jax import lm, sharding
from rcsd_jax.lm import plain_attention
from rcsd_jax.lm.architecture import REMAT
from rcsd_jax.lm.attention import rope_frequencies
from rcsd_jax.types import PromptBatch

SMALL = lm.Architecture("qwen3", 61, 24, 2, 6, 2, 10, 40, rope_theta=1e4, qk_norm=True, tied=True)
ODD = {
    "group 1, wide heads": dataclasses.replace(SMALL, heads=3, kv_heads=3, head_width=14),
    "group 3, untied": dataclasses.replace(SMALL, family="llama", qk_norm=False, tied=False),
    "group 7, biases": dataclasses.replace(SMALL, family="qwen2", heads=7, kv_heads=1, qk_norm=False, qkv_bias=True),
}


@functools.cache
def build(architecture=SMALL, lora=None, **compute):
    """A model whose norms, biases and adapters are not 1 and 0: left out, they are missed."""
    transformer = lm.Transformer(architecture, lm.Compute(**compute), lora)

    @jax.jit
    def moved(key):
        leaves, tree = jax.tree.flatten(lm.init(transformer, key))
        keys = jax.random.split(key, len(leaves))
        noise = (0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True))
        return jax.tree.unflatten(tree, [leaf + move for leaf, move in zip(leaves, noise, strict=True)])

    return transformer, moved(jax.random.key(0))


def tokens_of(seed, *shape):
    return jax.random.randint(jax.random.key(seed), shape, 0, SMALL.vocab_size)


@functools.cache
def program(transformer):
    """Compiled once for all tests that run the same model on the same shape."""
    return jax.jit(transformer.apply, static_argnames="method")


def run(transformer, variables, tokens_BT, segments_BT=None, positions_BT=None):
    B, T = tokens_BT.shape
    positions_BT = jnp.tile(jnp.arange(T), (B, 1)) if positions_BT is None else positions_BT
    segments_BT = jnp.ones((B, T), jnp.int32) if segments_BT is None else segments_BT
    return program(transformer)(variables, tokens_BT, positions_BT, segments_BT)


def close(left, right, atol=1e-5):
    """Equal to ``atol``, as a part of the largest number in the array where that is above 1."""
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(x, y, atol=atol * max(1.0, np.abs(y).max()), rtol=0)


def naive_attention(q, k, v, seen_BTS):
    """Every key repeated for its queries, everything at once, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(q.shape[-1])
    scores = np.where(np.asarray(seen_BTS)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize(("heads", "kv_heads", "T"), [(4, 4, 9), (6, 2, 150), (7, 1, 129)])
def test_attention_equals_the_textbook_formula_for_every_group_size(heads, kv_heads, T):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, T, n, 6)) for i, n in enumerate((heads, kv_heads, kv_heads)))
    segments_BT = jnp.where(jnp.arange(T) < T // 3, 1, 2)[None].repeat(2, axis=0)
    seen_BTS = (segments_BT[:, :, None] == segments_BT[:, None, :]) & np.tril(np.ones((T, T), bool))[None]
    close(jax.jit(lm.attend)(q, k, v, segments_BT), naive_attention(q, k, v, seen_BTS))


def test_attention_over_a_prefix_equals_attention_over_repeated_keys():
    G, n, P, T, N, K = 2, 3, 5, 70, 6, 2
    q, k, v = (jax.random.normal(jax.random.key(i), (G * n, T, heads, 6)) for i, heads in enumerate((N, K, K)))
    k_GPKH, v_GPKH = (jax.random.normal(jax.random.key(i), (G, P, K, 6)) for i in (7, 8))
    valid_GP = jnp.array([[False, False, True, True, True], [True] * 5])
    out = jax.jit(lm.attend)(q, k, v, jnp.ones((G * n, T)), prefix=(k_GPKH, v_GPKH, valid_GP))
    before = np.broadcast_to(np.repeat(valid_GP, n, axis=0)[:, None, :], (G * n, T, P))
    seen_BTS = np.concatenate([before, np.broadcast_to(np.tril(np.ones((T, T), bool)), (G * n, T, T))], axis=2)
    long = [np.concatenate([np.repeat(a, n, axis=0), b], axis=1) for a, b in ((k_GPKH, k), (v_GPKH, v))]
    close(out, naive_attention(q, *long, seen_BTS))


def test_a_query_over_a_cache_sees_its_valid_slots_and_no_others():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, t, n, 6)) for i, (t, n) in enumerate(((1, 4), (9, 2), (9, 2))))
    valid_BS = jnp.arange(9)[None, :] < jnp.array([[4], [9]])
    out = jax.jit(lm.attend, static_argnames="causal")(q, k, v, jnp.ones((2, 1), bool), valid_BS, causal=False)
    close(out, naive_attention(q, k, v, valid_BS[:, None, :]))


def whole_attention(q, k, v, seen_BTS):
    """As ``naive_attention``, for autodiff; where a query sees nothing its gradients are left out by the caller."""
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(seen_BTS[:, None], scores, -1e30), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


@pytest.mark.parametrize("chunk", [64, 512])
@pytest.mark.parametrize(
    ("G", "n", "T", "P", "K"),
    [(1, 3, 150, 70, 2), (2, 2, 64, 5, 2), (2, 1, 9, 0, 2), (1, 1, 200, 0, 1), (1, 1, 65, 3, 1)],
)
@pytest.mark.parametrize("padded", ["left", "right"])
def test_gradients_of_attention_are_those_of_the_textbook_formula(G, n, T, P, K, chunk, padded, monkeypatch):
    monkeypatch.setattr(plain_attention, "CHUNK", chunk)
    monkeypatch.setattr(plain_attention, "MOST_CHUNKS", 3)
    N, B = 6, G * n
    q, k, v = (jax.random.normal(jax.random.key(i), (B, T, heads, 8)) for i, heads in enumerate((N, K, K)))
    k_GPKH, v_GPKH = (jax.random.normal(jax.random.key(i), (G, P, K, 8)) for i in (7, 8))
    real_T = jnp.arange(T) >= 2 if padded == "left" else jnp.arange(T) < T - 2
    several_T = jnp.where(jnp.arange(T) % 50 == 20, 0, 1 + jnp.arange(T) // 50)  # with padding between them
    segments_BT = (real_T if P else several_T * real_T)[None].repeat(B, axis=0)
    valid_GP = jnp.arange(P)[None, :].repeat(G, axis=0) >= P // 4 + 10 * jnp.arange(G)[:, None]  # one has no prompt
    weight = jax.random.normal(jax.random.key(9), q.shape) * (segments_BT != 0)[:, :, None, None]
    own_BTT = (segments_BT[:, :, None] == segments_BT[:, None, :]) & np.tril(np.ones((T, T), bool))[None]
    own_BTT &= (segments_BT != 0)[:, None, :]
    before_BTP = jnp.broadcast_to(jnp.repeat(valid_GP, n, axis=0)[:, None, :], (B, T, P))

    def plain(q, k, v, *shared):
        return jnp.sum(weight * lm.attend(q, k, v, segments_BT, prefix=(*shared, valid_GP) if shared else None))

    def textbook(q, k, v, *shared):
        if shared:
            k, v = (jnp.concatenate([jnp.repeat(x, n, axis=0), y], axis=1) for x, y in zip(shared, (k, v), strict=True))
        return jnp.sum(weight * whole_attention(q, k, v, jnp.concatenate([before_BTP, own_BTT], axis=2)))

    arrays = (q, k, v, k_GPKH, v_GPKH) if P else (q, k, v)
    everything = tuple(range(len(arrays)))
    got, expected = (jax.jit(jax.grad(function, everything))(*arrays) for function in (plain, textbook))
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)


@pytest.mark.parametrize("offset", [0, 3, 10])
def test_gradients_of_attention_in_bfloat16_are_near_those_in_float32_whatever_values_have_in_common(offset):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 150, n, 32)) for i, n in enumerate((4, 2, 2)))
    k_GPKH, v_GPKH = (jax.random.normal(jax.random.key(i), (1, 70, 2, 32)) for i in (7, 8))
    weight = jax.random.normal(jax.random.key(9), q.shape)
    arrays = [x.astype("bfloat16") for x in (q, k, v + offset, k_GPKH, v_GPKH + offset)]

    def total(arrays):
        *own, k_GPKH, v_GPKH = arrays
        prefix = k_GPKH, v_GPKH, jnp.ones((1, 70), bool)
        return jnp.sum(weight * lm.attend(*own, jnp.ones((2, 150), bool), prefix=prefix))

    got = jax.jit(jax.grad(total))(arrays)
    expected = jax.jit(jax.grad(total))([x.astype("float32") for x in arrays])
    for x, y in zip(got, expected, strict=True):
        assert np.linalg.norm(np.asarray(x, np.float32) - y) < (0.005 + 0.0035 * offset) * np.linalg.norm(y)


def test_queries_that_see_nothing_teach_nothing_to_queries_and_keys():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 70, n, 6)) for i, n in enumerate((4, 2, 2)))
    segments_BT = (jnp.arange(70) >= 10)[None].repeat(2, axis=0)
    real = segments_BT[:, :, None, None]

    def gradients(weight):
        return jax.jit(jax.grad(lambda q, k: jnp.sum(weight * lm.attend(q, k, v, segments_BT)), (0, 1)))(q, k)

    for x, y in zip(gradients(jnp.ones(q.shape)), gradients(jnp.ones(q.shape) * real), strict=True):
        np.testing.assert_array_equal(x, y)


def test_attention_in_bfloat16_multiplies_bfloat16_on_a_cpu():
    q, k, v = (jnp.ones((4, 128, n, 64), "bfloat16") for n in (6, 2, 2))
    shared = jnp.ones((1, 96, 2, 64), "bfloat16")

    def total(q, k, v, shared):
        prefix = shared, shared, jnp.ones((1, 96), bool)
        return jnp.sum(lm.attend(q, k, v, jnp.ones((4, 128), bool), prefix=prefix).astype("float32"))

    text = jax.jit(jax.grad(total, (0, 1, 2, 3))).lower(q, k, v, shared).compile().as_text()
    made = dict(re.findall(r"^\s*(?:ROOT )?(%[\w.-]+) = (\w+)\[", text, re.MULTILINE))
    operands = [made[name] for pair in re.findall(r" dot\((%[\w.-]+), (%[\w.-]+)\)", text) for name in pair]
    assert operands and set(operands) == {"bf16"}


def test_attention_that_sees_nothing_is_finite_in_value_and_gradient():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 70, n, 6)) for i, n in enumerate((4, 2, 2)))
    nothing = jnp.zeros((2, 70), jnp.int32)
    prefix = (k[:, :3], v[:, :3], jnp.zeros((2, 3), bool))

    def total(q, k, v):
        return lm.attend(q, k, v, nothing, prefix=prefix).sum()

    assert all(
        np.isfinite(x).all() for x in jax.tree.leaves(jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(q, k, v))
    )


def test_llama3_frequencies_equal_the_formula_of_transformers():
    scaling = lm.Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)
    architecture = dataclasses.replace(SMALL, head_width=64, rope_theta=5e5, rope_scaling=scaling)
    expected = []
    for i in range(0, 64, 2):
        frequency = 5e5 ** (-i / 64)
        wavelength = 2 * math.pi / frequency
        smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
        if wavelength > 8192 / 1.0:
            frequency /= 8
        elif wavelength >= 8192 / 4.0:
            frequency = (1 - smooth) * frequency / 8 + smooth * frequency
        expected.append(frequency)
    np.testing.assert_allclose(rope_frequencies(architecture), expected, rtol=1e-6)


def test_only_differences_of_positions_matter():
    transformer, variables = build()
    tokens_BT = tokens_of(2, 2, 9)
    positions_BT = jnp.tile(jnp.arange(9), (2, 1))
    close(
        run(transformer, variables, tokens_BT),
        run(transformer, variables, tokens_BT, positions_BT=positions_BT + 100),
        atol=1e-4,
    )
    assert not np.allclose(
        run(transformer, variables, tokens_BT), run(transformer, variables, tokens_BT, positions_BT=positions_BT * 2)
    )


def test_a_later_token_changes_nothing_before_it():
    transformer, variables = build()
    tokens_BT = tokens_of(2, 2, 9)
    other_BT = tokens_BT.at[:, 6].add(1)
    before, after = run(transformer, variables, tokens_BT), run(transformer, variables, other_BT)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (np.abs(before[:, 6:] - after[:, 6:]).max(axis=-1) > 1e-4).all(), "later tokens must see the change"


def test_examples_packed_in_one_row_equal_examples_in_rows_of_their_own():
    transformer, variables = build()
    first, second = tokens_of(2, 1, 5), tokens_of(3, 1, 7)
    packed = jnp.concatenate([first, second, jnp.zeros((1, 2), jnp.int32)], axis=1)
    segments = jnp.array([[1] * 5 + [2] * 7 + [0] * 2])
    positions = jnp.array([[*range(5), *range(7), 0, 0]])
    hidden = run(transformer, variables, packed, segments, positions)
    close(hidden[:, :5], run(transformer, variables, first))
    close(hidden[:, 5:12], run(transformer, variables, second))
    assert np.isfinite(hidden).all()


def test_padding_on_the_left_changes_nothing():
    transformer, variables = build()
    tokens = tokens_of(2, 2, 9)
    padded = jnp.concatenate([tokens_of(3, 2, 4), tokens], axis=1)
    segments = jnp.array([[0] * 4 + [1] * 9] * 2)
    positions = jnp.array([[0] * 4 + [*range(9)]] * 2)
    close(run(transformer, variables, padded, segments, positions)[:, 4:], run(transformer, variables, tokens))


WAYS = [{"scan_layers": False}, {"remat": "full"}, {"remat": "attention"}, {"remat": "dots"},
        {"remat": "attention", "scan_layers": False}]  # fmt: skip


@pytest.mark.parametrize("compute", WAYS, ids=str)
def test_scan_and_remat_change_neither_value_nor_gradient(compute):
    plain, _ = build(lora=lm.LoraConfig(rank=3, targets=("q", "down")))
    other = lm.Transformer(SMALL, lm.Compute(**compute), plain.lora)
    assert lm.axes(other) == lm.axes(plain)
    close(value_and_gradient(other), value_and_gradient(plain), atol=5e-5)


@functools.cache
def value_and_gradient(transformer):
    """Of a number that every hidden state of rows, prompts and completions has a part in."""
    _, variables = build(lora=transformer.lora)
    tokens_BT = tokens_of(2, 2, 9)
    valid_BT = jnp.ones(tokens_BT.shape, bool)

    def loss(variables):
        rows = transformer.apply(variables, tokens_BT, jnp.cumsum(valid_BT, axis=1), valid_BT)
        shared = transformer.apply(variables, tokens_BT, valid_BT, tokens_BT, valid_BT, method="with_prefix")
        return jnp.sum(jnp.sin(rows)) + jnp.sum(jnp.cos(shared))

    return jax.jit(jax.value_and_grad(loss))(variables)


@pytest.mark.parametrize("remat", ["full", "attention", "dots"])
def test_a_bfloat16_model_on_a_cpu_copies_no_stack_of_what_layers_keep(remat):
    transformer, variables = build(dataclasses.replace(SMALL, layers=5), dtype="bfloat16", remat=remat)
    tokens = jnp.ones((2, 7), jnp.int32)
    loss = jax.jit(
        jax.grad(lambda variables: transformer.apply(variables, tokens, tokens, tokens).sum().astype("float32"))
    )
    text = loss.lower(variables).compile().as_text()
    assert f"f32[5,2,7,{SMALL.width}]" in text and "bf16[5,2," not in text
    # The output of attention, [B, K, R, T, H], of every layer.
    assert (f"f32[5,2,{SMALL.kv_heads},{SMALL.heads // SMALL.kv_heads},7," in text) == (remat != "full")


@pytest.mark.parametrize("tensor", [1, 2])
def test_remat_trades_memory_for_work(tensor):
    architecture = dataclasses.replace(SMALL, layers=8)
    mesh = sharding.make_mesh(sharding.MeshConfig(tensor=tensor), jax.devices()[:tensor])
    tokens_BT = jax.ShapeDtypeStruct((4, 128), jnp.int32)

    def cost(remat):
        transformer = lm.Transformer(architecture, lm.Compute(remat=remat))

        def total(variables, *batch):
            return transformer.apply(variables, *batch).sum()

        variables = jax.eval_shape(lambda key: lm.init(transformer, key), jax.random.key(0))
        with jax.set_mesh(mesh):
            compiled = jax.jit(jax.grad(total)).lower(variables, tokens_BT, tokens_BT, tokens_BT).compile()
        return compiled.memory_analysis().temp_size_in_bytes, compiled.cost_analysis()["flops"]

    memory, work = zip(*(cost(remat) for remat in REMAT), strict=True)
    assert all(more > less for more, less in itertools.pairwise(memory)), f"{REMAT=} {memory=}"
    assert all(less < more for less, more in itertools.pairwise(work)), f"{REMAT=} {work=}"


@pytest.mark.parametrize("samples", [1, 3])
def test_completions_over_a_shared_prompt_equal_whole_rows_in_value_and_gradient(samples):
    transformer, variables = build(lora=lm.LoraConfig(rank=3))
    valid_GP = jnp.arange(8)[None, :] >= jnp.array([[5], [0]])  # prompts of 3 and 8 tokens
    prompts = PromptBatch(tokens_of(2, 2, 8), valid_GP)
    completion_BC = tokens_of(3, 2 * samples, 6)
    lengths = jnp.array([6, 1, 4, 2, 6, 3])[: 2 * samples, None]
    valid_BC = jnp.arange(6)[None, :] < lengths
    weight_BCD = jax.random.normal(jax.random.key(4), (2 * samples, 6, SMALL.width)) * valid_BC[:, :, None]

    def total(variables, shared):
        hidden = lm.hidden_of_completion(transformer, variables, prompts, completion_BC, valid_BC, shared=shared)
        return jnp.sum(hidden * weight_BCD), hidden * valid_BC[:, :, None]

    results = [jax.jit(jax.value_and_grad(lambda v, s=s: total(v, s), has_aux=True))(variables) for s in (True, False)]
    close(*results, atol=5e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(results[0][1])), "every weight must have a gradient"


def test_a_completion_sees_its_own_prompt_only():
    transformer, variables = build()
    tokens_GP, tokens_BC = tokens_of(2, 2, 5), tokens_of(3, 4, 3)
    valid_GP, valid_BC = jnp.ones((2, 5), bool), jnp.ones((4, 3), bool)

    def hidden_of(tokens_GP):
        return program(transformer)(variables, tokens_GP, valid_GP, tokens_BC, valid_BC, method="with_prefix")

    before, after = hidden_of(tokens_GP), hidden_of(tokens_GP.at[0, 0].add(1))
    np.testing.assert_array_equal(before[2:], after[2:])
    assert (np.abs(before[:2] - after[:2]).max(axis=-1) > 1e-4).all()


@pytest.mark.parametrize("architecture", ODD.values(), ids=ODD)
def test_odd_shapes_agree_between_scan_loop_and_prefix(architecture):
    transformer, variables = build(architecture)
    tokens_BT = tokens_of(2, 2, 8)
    hidden = run(transformer, variables, tokens_BT)
    assert hidden.shape == (2, 8, architecture.width)
    assert lm.head_VD(variables, architecture).shape == (architecture.vocab_size, architecture.width)
    assert ("lm_head" in variables["params"]) == (not architecture.tied)
    assert ("bias" in variables["params"]["layers"]["k_proj"]) == architecture.qkv_bias
    close(hidden, run(lm.Transformer(architecture, lm.Compute(scan_layers=False)), variables, tokens_BT))
    prompts = PromptBatch(tokens_BT[:, :3], jnp.ones((2, 3), bool))
    args = (transformer, variables, prompts, tokens_BT[:, 3:], jnp.ones((2, 5), bool))
    close(lm.hidden_of_completion(*args, shared=True), hidden[:, 2:7])


def test_a_layer_at_a_time_is_the_whole_decoder():
    lora = lm.LoraConfig(rank=3, targets=("q", "down"))
    transformer, variables = build(lora=lora)
    tokens_BT, segments_BT = tokens_of(2, 2, 9), jnp.ones((2, 9), jnp.int32)
    rotation = lm.rotation_of(jnp.tile(jnp.arange(9), (2, 1)), SMALL)
    block = lm.Block(SMALL, transformer.compute, lora)
    x = transformer.apply(variables, tokens_BT, method="embed_tokens")
    for index in range(SMALL.layers):
        layer = lm.layer_variables(variables, index)
        q, k, v = block.apply(layer, x, rotation, method="project_qkv")
        x = block.apply(layer, x, lm.attend(q, k, v, segments_BT), method="finish")
    close(transformer.apply(variables, x, method="normalise"), run(transformer, variables, tokens_BT))


def test_bfloat16_stays_close_to_float32():
    transformer, variables = build()
    half = lm.Transformer(SMALL, lm.Compute(dtype="bfloat16"))
    hidden = run(half, variables, tokens_of(2, 2, 40))
    assert hidden.dtype == jnp.bfloat16
    exact = run(transformer, variables, tokens_of(2, 2, 40))
    error = jnp.linalg.norm(hidden.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert error < 0.02, f"{error=}"
    stored = lm.init(lm.Transformer(SMALL, lm.Compute(param_dtype="bfloat16"), lm.LoraConfig()), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(stored["params"])} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(stored["lora"])} == {jnp.dtype("float32")}, "adapters learn"


@pytest.mark.parametrize("mesh_config", [sharding.MeshConfig(1, 8, 1), sharding.MeshConfig(2, 2, 2),
                                         sharding.MeshConfig(1, 1, 8)], ids=str)  # fmt: skip
def test_eight_devices_equal_one(mesh_config):
    architecture = dataclasses.replace(SMALL, vocab_size=64, width=32, heads=8, kv_heads=2, head_width=8, tied=False)
    transformer, variables = build(architecture, lm.LoraConfig(rank=8))
    tokens_GP, tokens_BC = tokens_of(2, 8, 6), tokens_of(3, 16, 5)
    valid_GP, valid_BC = jnp.arange(6)[None, :] >= jnp.arange(8)[:, None] % 4, jnp.ones((16, 5), bool)

    one = program(transformer)(variables, tokens_GP, valid_GP, tokens_BC, valid_BC, method="with_prefix")
    mesh = sharding.make_mesh(mesh_config)
    shardings = sharding.shardings(lm.axes(transformer), mesh)
    with jax.set_mesh(mesh):
        placed = jax.device_put(variables, shardings)
        batch = jax.device_put((tokens_GP, valid_GP, tokens_BC, valid_BC), sharding.batch_sharding(mesh))
        eight = program(transformer)(placed, *batch, method="with_prefix")
    assert len(eight.sharding.device_set) == 8
    close(eight, one)
    kernel = placed["params"]["layers"]["gate_proj"]["kernel"]
    cut = mesh_config.fsdp * mesh_config.tensor
    assert kernel.addressable_shards[0].data.size * cut == kernel.size, "the layers must be cut along fsdp and tensor"


def test_every_weight_has_axes_for_all_its_dimensions():
    for architecture in (SMALL, *ODD.values()):
        transformer = lm.Transformer(architecture, lm.Compute(), lm.LoraConfig(rank=3))
        axes = lm.axes(transformer)
        ranks = jax.tree.map(jnp.ndim, jax.eval_shape(lambda key, t=transformer: lm.init(t, key), jax.random.key(0)))
        assert jax.tree.map(len, axes, is_leaf=lambda x: isinstance(x, tuple)) == ranks
        assert axes["params"]["layers"]["q_proj"]["kernel"] == ("layers", "heads", "width")


def test_fresh_weights_do_not_depend_on_the_layout_and_differ_between_layers():
    transformer, mesh = lm.Transformer(SMALL), sharding.make_mesh(sharding.MeshConfig(1, 2, 1), jax.devices()[:2])

    def init(key):
        return lm.init(transformer, key)

    kernels = init(jax.random.key(0))["params"]["layers"]["o_proj"]["kernel"]
    assert not np.allclose(kernels[0], kernels[1])
    np.testing.assert_allclose(jnp.std(kernels), 1 / math.sqrt(2 * SMALL.layers * 60), rtol=0.05)
    with jax.set_mesh(mesh):
        replicated = jax.jit(init, out_shardings=sharding.replicated(mesh))(jax.random.key(0))
    close(init(jax.random.key(0)), replicated, atol=1e-7)


@pytest.mark.parametrize(("make", "said"), [
    (lambda: dataclasses.replace(SMALL, kv_heads=4), "kv_heads"),
    (lambda: dataclasses.replace(SMALL, head_width=7), "head_width"),
    (lambda: dataclasses.replace(SMALL, family="gpt2"), "family"),
    (lambda: dataclasses.replace(SMALL, layers=0), "layers"),
    (lambda: lm.Compute(remat="some"), "remat"),
    (lambda: lm.Compute(dtype="float16"), "dtype"),
    (lambda: lm.LoraConfig(targets=("q", "head")), "targets"),
    (lambda: lm.LoraConfig(rank=0), "rank"),
])  # fmt: skip
def test_an_impossible_model_is_refused_by_the_name_of_its_field(make, said):
    with pytest.raises(ValueError, match=said):
        make()
