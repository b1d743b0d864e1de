"""Claims about completions: scored as they were drawn, and decided by model, key, question and sample alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from rcsd_jax import compilations, lm, sharding
from rcsd_jax.lm import decoding, scoring
from rcsd_jax.lm import sampler as sampler_file
from rcsd_jax.lm.sampler import Sampler
from rcsd_jax.lm.sampling import SamplingConfig, row_noise
from rcsd_jax.types import CUT, FINISHED, PromptBatch

VOCAB, LIMIT, PAD, ROOM = 48, 43, 44, 8
LONG_ROPE = lm.Llama3Rope(8.0, 1.0, 4.0, 16)
SHAPES = {
    "qwen3": {"heads": 6, "kv_heads": 2, "head_width": 10, "qk_norm": True},  # groups of 3
    "qwen2": {"heads": 7, "kv_heads": 1, "head_width": 8, "qkv_bias": True},  # groups of 7
    "llama": {"heads": 4, "kv_heads": 4, "head_width": 6, "rope_scaling": LONG_ROPE, "tied": False},  # groups of 1
}
HOT = SamplingConfig(temperature=1.3, top_k=30, top_p=0.98, max_new_tokens=ROOM)
GREEDY = SamplingConfig(temperature=0, max_new_tokens=ROOM)


@functools.cache
def model(family, *, adapters=False, dtype="float32"):
    """A transformer and weights loud enough for the logits to differ."""
    architecture = lm.Architecture(
        family, VOCAB, width=24, layers=2 if family == "qwen3" else 1, mlp_width=40, **SHAPES[family]
    )
    lora = lm.LoraConfig(rank=4, alpha=4.0) if adapters else None
    transformer = lm.Transformer(architecture, lm.Compute(dtype=dtype), lora)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(lm.init, transformer), jax.random.key(0))
    return transformer, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.25, leaf.shape), leaf.dtype), shapes)


def prompts_of(lengths, width):
    """Left-padded prompts; the tokens of a question depend on its place in ``lengths`` only."""
    tokens_GP, valid_GP = np.full((len(lengths), width), PAD, np.int32), np.zeros((len(lengths), width), bool)
    for row, length in enumerate(lengths):
        tokens_GP[row, width - length :] = np.random.default_rng(row).integers(0, LIMIT, length)
        valid_GP[row, width - length :] = True
    return PromptBatch(jnp.asarray(tokens_GP), jnp.asarray(valid_GP))


PROMPTS, QUESTIONS = prompts_of([5, 9, 2], width=9), jnp.array([11, 5, 70], jnp.int32)


@functools.cache
def sampler_of(transformer, sampling, samples=4, eos_ids=()):
    return Sampler(transformer, sampling, samples=samples, eos_ids=eos_ids, pad_id=PAD, vocab_limit=LIMIT)


def rollout_of(transformer, variables, sampling=HOT, *, prompts=PROMPTS, questions=QUESTIONS, seed=0, **options):
    return sampler_of(transformer, sampling, **options)(variables, prompts, jax.random.key(seed), questions)


@functools.partial(jax.jit, static_argnums=0)
def scored_logits(transformer, variables, rollout):
    """All logits by the scorer's way: whole rows, the prompt repeated in each, nothing cached."""
    hidden_BCD = lm.hidden_of_completion(
        transformer, variables, rollout.prompts, rollout.completion_BC, rollout.valid_BC, shared=False
    )
    head_VD = lm.head_VD(variables, transformer.architecture).astype(hidden_BCD.dtype)
    logits_BCV = jnp.einsum("bcd,vd->bcv", hidden_BCD, head_VD, preferred_element_type=jnp.float32)
    return jnp.where(jnp.arange(VOCAB)[None, None] < LIMIT, logits_BCV, -jnp.inf)


def logp_of(logits_BCV, completion_BC):
    return jnp.take_along_axis(jax.nn.log_softmax(logits_BCV), completion_BC[..., None], -1)[..., 0]


def assert_same_completions(one, other, rows=slice(None)):
    for name in ("completion_BC", "valid_BC", "finish_B"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name)[rows], err_msg=name)
    for name in ("logp_BC", "tempered_logp_BC", "sampling_logp_BC"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name)[rows], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("family, adapters", [("qwen3", False), ("qwen3", True), ("qwen2", True), ("llama", False)])
def test_the_sampler_gives_the_log_probs_of_the_scorer(family, adapters):
    transformer, variables = model(family, adapters=adapters)
    rollout = rollout_of(transformer, variables)
    expected_BC = logp_of(scored_logits(transformer, variables, rollout), rollout.completion_BC)
    np.testing.assert_allclose(rollout.logp_BC, expected_BC, atol=1e-4)


def test_without_the_lora_collection_the_base_model_speaks():
    transformer, variables = model("qwen2", adapters=True)
    base = {"params": variables["params"]}
    rollout = rollout_of(transformer, base)
    expected_BC = logp_of(scored_logits(transformer, base, rollout), rollout.completion_BC)
    np.testing.assert_allclose(rollout.logp_BC, expected_BC, atol=1e-4)
    adapted = rollout_of(transformer, variables)
    assert not np.array_equal(adapted.completion_BC, rollout.completion_BC)


def test_in_bfloat16_the_log_probs_of_the_scorer_are_met_to_its_rounding():
    """bfloat16 keeps 8 bits: logits of about 5 are off by about 0.02. Both sides are compared with float32 too."""
    transformer, variables = model("qwen2", dtype="bfloat16")
    rollout = rollout_of(transformer, variables)
    scored_BC = logp_of(scored_logits(transformer, variables, rollout), rollout.completion_BC)
    exact_BC = logp_of(scored_logits(model("qwen2")[0], variables, rollout), rollout.completion_BC)
    difference = np.abs(rollout.logp_BC - scored_BC)
    assert difference.mean() < 0.03 and difference.max() < 0.2
    assert np.abs(rollout.logp_BC - exact_BC).mean() < 0.06


def test_the_sampling_log_prob_is_that_of_the_filtered_softmax():
    transformer, variables = model("qwen2", adapters=True)
    rollout = rollout_of(transformer, variables)
    logits = np.asarray(scored_logits(transformer, variables, rollout), np.float64) / HOT.temperature
    kept = logits >= np.sort(logits, -1)[..., -HOT.top_k, None]
    p = np.where(kept, np.exp(logits - logits.max(-1, keepdims=True)), 0)
    p /= p.sum(-1, keepdims=True)
    descending = -np.sort(-p, -1)
    crossing = np.argmax(np.cumsum(descending, -1) >= HOT.top_p, -1)
    p *= p >= np.take_along_axis(descending, crossing[..., None], -1)
    expected_BC = np.log(np.take_along_axis(p, np.asarray(rollout.completion_BC)[..., None], -1)[..., 0] / p.sum(-1))
    np.testing.assert_allclose(rollout.sampling_logp_BC, expected_BC, atol=2e-4)


def test_the_tempered_log_prob_is_that_of_the_whole_softmax_at_the_temperature():
    transformer, variables = model("qwen2", adapters=True)
    rollout = rollout_of(transformer, variables)
    expected_BC = logp_of(scored_logits(transformer, variables, rollout) / HOT.temperature, rollout.completion_BC)
    np.testing.assert_allclose(rollout.tempered_logp_BC, expected_BC, atol=1e-4)
    assert (rollout.tempered_logp_BC <= rollout.sampling_logp_BC + 1e-5).all(), "the filters only take mass away"


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_greedy_is_the_argmax_of_the_full_forward(family):
    transformer, variables = model(family)
    rollout = rollout_of(transformer, variables, GREEDY)
    likeliest_BC = jnp.argmax(scored_logits(transformer, variables, rollout), axis=-1)
    np.testing.assert_array_equal(rollout.completion_BC, likeliest_BC)
    np.testing.assert_array_equal(rollout.sampling_logp_BC, np.zeros((12, ROOM)))
    np.testing.assert_array_equal(rollout.tempered_logp_BC, np.zeros((12, ROOM)))


def test_top_k_1_is_greedy():
    transformer, variables = model("llama")
    first = SamplingConfig(temperature=0.7, top_k=1, max_new_tokens=ROOM)
    greedy = rollout_of(transformer, variables, GREEDY)
    rollout = rollout_of(transformer, variables, first)
    assert_same_completions(rollout.replace(tempered_logp_BC=greedy.tempered_logp_BC), greedy)


def test_first_tokens_of_many_samples_follow_the_models_softmax():
    transformer, variables = model("llama")
    sampling, samples = SamplingConfig(max_new_tokens=1), 8000
    prompts = jax.tree.map(lambda x: x[:1], PROMPTS)
    rollout = rollout_of(
        transformer, variables, sampling, prompts=prompts, questions=QUESTIONS[:1], samples=samples, seed=3
    )
    four = jax.tree.map(lambda x: x[:4] if x.shape[0] == samples else x, rollout)
    p_V = np.asarray(jax.nn.softmax(scored_logits(transformer, variables, four)[0, 0]), np.float64)
    counts_V = np.bincount(rollout.completion_BC[:, 0], minlength=VOCAB)
    assert counts_V[LIMIT:].sum() == 0
    common = p_V * samples >= 5  # what the test wants of a cell; the rare tokens share one
    observed = np.append(counts_V[common], counts_V[~common].sum())
    expected = np.append(p_V[common], p_V[~common].sum() + 1e-9) * samples
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 0.01


def test_samples_that_share_a_prefill_are_those_of_separate_calls(monkeypatch):
    transformer, variables = model("llama")
    together = rollout_of(transformer, variables)
    np.testing.assert_array_equal(together.sample_B, [0, 1, 2, 3] * 3)
    assert len(np.unique(together.completion_BC, axis=0)) == 12, "samples differ"
    monkeypatch.setattr(decoding, "row_noise", lambda key, q, s, length: row_noise(key, q, s + 2, length))
    alone = Sampler(transformer, HOT, samples=1, eos_ids=(), pad_id=PAD, vocab_limit=LIMIT)
    assert_same_completions(alone(variables, PROMPTS, jax.random.key(0), QUESTIONS), together, slice(2, None, 4))


def test_order_and_company_of_the_questions_change_nothing_and_a_new_shape_compiles_once():
    transformer, variables = model("llama")
    together = rollout_of(transformer, variables)
    for order, new_shapes in (([2, 0, 1], 0), ([1], 1), ([0], 0)):
        before = len(compilations.ledger())
        prompts, questions = jax.tree.map(lambda x, order=order: x[jnp.array(order)], (PROMPTS, QUESTIONS))
        other = rollout_of(transformer, variables, prompts=prompts, questions=questions)
        rows = np.concatenate([np.arange(4) + 4 * question for question in order])
        assert_same_completions(other, together, rows)
        assert len(compilations.ledger()) == before + new_shapes


def test_padding_of_the_prompts_and_room_for_more_tokens_change_nothing():
    transformer, variables = model("llama")
    roomy = SamplingConfig(temperature=1.3, top_k=30, top_p=0.98, max_new_tokens=ROOM + 3)
    wider = rollout_of(transformer, variables, roomy, prompts=prompts_of([5, 9, 2], width=16))
    rollout = rollout_of(transformer, variables)
    np.testing.assert_array_equal(wider.completion_BC[:, :ROOM], rollout.completion_BC)
    np.testing.assert_allclose(wider.logp_BC[:, :ROOM], rollout.logp_BC, atol=1e-4)


def test_a_cache_that_grows_changes_nothing(monkeypatch):
    transformer, variables = model("llama")
    monkeypatch.setattr(sampler_file, "GROWING", ROOM)
    assert sampler_file.cache_lengths(ROOM) == (2, 4, ROOM)
    growing = Sampler(transformer, HOT, samples=4, eos_ids=(), pad_id=PAD, vocab_limit=LIMIT)
    rollout = growing(variables, PROMPTS, jax.random.key(0), QUESTIONS)
    assert_same_completions(rollout, rollout_of(transformer, variables))


def test_rows_that_are_drawn_in_blocks_draw_the_same(monkeypatch):
    transformer, variables = model("llama")
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 4 * 4 * VOCAB)  # 3 blocks of 4 rows
    in_blocks = Sampler(transformer, HOT, samples=4, eos_ids=(), pad_id=PAD, vocab_limit=LIMIT)
    rollout = in_blocks(variables, PROMPTS, jax.random.key(0), QUESTIONS)
    assert_same_completions(rollout, rollout_of(transformer, variables))


def test_a_cache_in_bfloat16_moves_the_log_probs_by_its_rounding():
    transformer, variables = model("llama")
    narrow = transformer.clone(compute=lm.Compute(cache_dtype="bfloat16"))
    rollout = rollout_of(narrow, variables)
    expected_BC = logp_of(scored_logits(transformer, variables, rollout), rollout.completion_BC)
    difference = np.abs(rollout.logp_BC - expected_BC)[:, 1:]
    assert 1e-5 < difference.max() < 0.1 and difference.mean() < 0.02
    with pytest.raises(ValueError, match="compute.cache_dtype is 'float16'"):
        lm.Compute(cache_dtype="float16")


def test_another_key_or_another_question_id_gives_other_completions():
    transformer, variables = model("llama")
    rollout = rollout_of(transformer, variables)
    assert not np.array_equal(rollout_of(transformer, variables, seed=1).completion_BC, rollout.completion_BC)
    renamed = rollout_of(transformer, variables, questions=QUESTIONS.at[1].set(6))
    same_B = (renamed.completion_BC == rollout.completion_BC).all(1)
    np.testing.assert_array_equal(same_B, [True] * 4 + [False] * 4 + [True] * 4)


def test_several_eos_ids_end_completions_and_change_nothing_before():
    transformer, variables = model("llama")
    free = rollout_of(transformer, variables)
    assert (free.finish_B == CUT).all() and free.valid_BC.all(), "without EOS ids every completion fills its room"
    tokens_BC = np.asarray(free.completion_BC)
    first, lasts_B = tokens_BC[0, 0], tokens_BC[:, -1]
    early_B = (np.isin(tokens_BC[:, :-1], first) | (tokens_BC[:, :-1] == lasts_B[:, None])).any(1)
    row = int(np.argmin(early_B))  # its last token, as an EOS id, ends it in the last column
    eos_ids = (int(first), int(lasts_B[row]))
    ended = rollout_of(transformer, variables, eos_ids=eos_ids)
    is_end_BC = np.isin(tokens_BC, eos_ids)
    length_B = np.where(is_end_BC.any(1), is_end_BC.argmax(1) + 1, ROOM)
    valid_BC = np.arange(ROOM)[None] < length_B[:, None]
    assert length_B[0] == 1 and length_B[row] == ROOM and 2 <= is_end_BC.any(1).sum() < 12
    np.testing.assert_array_equal(ended.valid_BC, valid_BC)
    np.testing.assert_array_equal(ended.completion_BC, np.where(valid_BC, tokens_BC, PAD))
    np.testing.assert_array_equal(ended.finish_B, np.where(is_end_BC.any(1), FINISHED, CUT))
    np.testing.assert_allclose(ended.logp_BC, np.where(valid_BC, free.logp_BC, 0), atol=1e-5)
    np.testing.assert_allclose(ended.sampling_logp_BC, np.where(valid_BC, free.sampling_logp_BC, 0), atol=1e-5)


def test_the_loop_ends_with_the_last_row(monkeypatch):
    transformer, variables = model("llama")
    draw, drawn = decoding.draw, []

    def counted(logits_BV, uniform_B, sampling):
        jax.debug.callback(lambda: drawn.append(1))
        return draw(logits_BV, uniform_B, sampling)

    monkeypatch.setattr(decoding, "draw", counted)
    options = {"samples": 4, "eos_ids": tuple(range(0, LIMIT, 2)), "pad_id": PAD, "vocab_limit": LIMIT}
    rollout = Sampler(transformer, HOT, **options)(variables, PROMPTS, jax.random.key(0), QUESTIONS)
    longest = int(rollout.valid_BC.sum(1).max())
    jax.effects_barrier()
    assert 1 < longest < ROOM
    assert len(drawn) == longest


def test_one_device_equals_eight():
    transformer, variables = model("llama", adapters=True)
    prompts, questions = prompts_of([3, 9, 5, 7, 8, 2, 6, 4], width=9), jnp.arange(8, dtype=jnp.int32)
    alone = rollout_of(transformer, variables, prompts=prompts, questions=questions, eos_ids=(1, 2))
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    placed = jax.device_put(variables, sharding.shardings(lm.axes(transformer), mesh))
    prompts, questions = jax.device_put((prompts, questions), sharding.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        rollout = rollout_of(transformer, placed, prompts=prompts, questions=questions, eos_ids=(1, 2))
    assert_same_completions(alone, rollout)
    assert rollout.completion_BC.addressable_shards[0].data.shape == (8, ROOM), "rows lie on data and fsdp"


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"samples": 0}, "samples is 0"),
        ({"vocab_limit": VOCAB + 1}, "vocab_limit is 49"),
        ({"eos_ids": (LIMIT,)}, "eos_ids are .43"),
        ({"pad_id": VOCAB}, "pad_id is 48"),
        ({"question_G": QUESTIONS[:2]}, "question_G .2"),
    ],
    ids=lambda bad: str(bad),
)
def test_what_does_not_fit_is_refused_by_name(bad, message):
    transformer, variables = model("llama")
    good = {
        "samples": 1,
        "sampling": HOT,
        "eos_ids": (0,),
        "pad_id": PAD,
        "vocab_limit": LIMIT,
        "question_G": QUESTIONS,
    }
    with pytest.raises(ValueError, match=message):
        lm.sample(transformer, variables, PROMPTS, jax.random.key(0), **{**good, **bad})
