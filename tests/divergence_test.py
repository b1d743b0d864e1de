"""The divergence: against hand numbers, a naive float64 version, its limits, and its memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_naive as naive
from jax.sharding import NamedSharding

from rcsd_jax import sharding
from rcsd_jax.learning import DivergenceConfig, cross_entropy_sum, divergence_sum
from rcsd_jax.learning.chunked_head import States, chunks
from rcsd_jax.learning.divergence import KINDS, SUPPORTS, target_logits, token_divergence
from rcsd_jax.lm import scoring
from rcsd_jax.sharding import MeshConfig

U, V, D = 11, 37, 8  # odd sizes: chunks need padding
CLIP_AND_TEMPERATURE = [(None, None, 1.3), (0.03, None, 1.0), (None, 0.3, 1.0), (0.03, 0.1, 1.3)]
SUPPORT_AND_TAIL = [("full", False)] + [(support, tail) for support in SUPPORTS[1:] for tail in (False, True)]


def logits(seed, rows=U, scale=1.5):
    student, teacher = np.random.default_rng(seed).normal(scale=scale, size=(2, rows, V)).astype(np.float32)
    return student, teacher


def states(seed=0, rows=U, dtype=np.float32):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(2, rows, D)).astype(dtype)
    heads = rng.normal(scale=0.7, size=(2, V, D)).astype(dtype)
    return hidden[0], heads[0], hidden[1], heads[1]


def pairs(arrays):
    """(states, head, states, head, more) as student, teacher, more."""
    return States(*arrays[:2]), States(*arrays[2:4]), *arrays[4:]


def total_and_gradients(config, student, head, teacher, teacher_head, weight, **options):
    options = {"vocab_limit": V, "head_trainable": True} | options

    def total(*arrays):
        return divergence_sum(*pairs(arrays), weight, config, **options)

    function = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True))
    (value, sums), gradients = jax.device_get(function(student, head, teacher, teacher_head))
    return (value, {name: float(x) for name, x in sums.items()}), gradients


@pytest.mark.parametrize(("support", "tail"), SUPPORT_AND_TAIL)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_support_clip_and_temperature_equals_the_naive_float64_version(kind, support, tail):
    student, teacher = logits(1, rows=4)
    for entry_clip, token_clip, temperature in CLIP_AND_TEMPERATURE:
        config = DivergenceConfig(
            kind=kind, beta=0.3, support=support, top_k=5, tail=tail,
            temperature=temperature, entry_clip=entry_clip, token_clip=token_clip,
        )  # fmt: skip
        value, backward = jax.vjp(
            lambda s, config=config: token_divergence(s, jnp.asarray(teacher), config)[0], student
        )
        reference = functools.partial(naive.divergence, teacher_UV=teacher.astype(np.float64), config=config)
        np.testing.assert_allclose(value, reference(student.astype(np.float64)), atol=2e-6)
        expected = naive.gradient(reference, student.astype(np.float64))
        np.testing.assert_allclose(backward(jnp.ones(4))[0], expected, atol=2e-6, err_msg=str(config))


@pytest.mark.parametrize(
    "config",
    [
        DivergenceConfig(chunk_tokens=4),
        DivergenceConfig(kind="jsd", temperature=1.2, entry_clip=0.05, chunk_tokens=3),
        DivergenceConfig(
            kind="kl_student_teacher", support="union", top_k=4, tail=True, token_clip=0.5, chunk_tokens=4
        ),
        DivergenceConfig(kind="jsd", beta=0.9),
    ],
)
def test_chunks_with_the_head_inside_give_the_sum_and_both_gradients_of_the_naive_version(config):
    student, head, teacher, teacher_head = states()
    weight = np.random.default_rng(2).uniform(0.1, 2, U).astype(np.float32)
    (total, _), (d_student, d_head, *_) = total_and_gradients(config, student, head, teacher, teacher_head, weight)
    wide = [x.astype(np.float64) for x in (student, head, teacher, teacher_head)]
    reference = functools.partial(naive.divergence, teacher_UV=wide[2] @ wide[3].T, config=config)
    student_logits = wide[0] @ wide[1].T
    assert total == pytest.approx((weight * reference(student_logits)).sum(), abs=1e-5)
    d_logits = naive.gradient(reference, student_logits) * weight[:, None]
    np.testing.assert_allclose(d_student, d_logits @ wide[1], atol=1e-5)
    np.testing.assert_allclose(d_head, d_logits.T @ wide[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_taken_in_blocks_give_what_they_give_together(monkeypatch, dtype):
    config, weight = DivergenceConfig(kind="jsd", entry_clip=0.05), np.linspace(0, 2, 8, dtype=np.float32)
    given = states(rows=8, dtype=dtype)
    together = total_and_gradients(config, *given, weight)
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 2 * 4 * V)  # two rows
    in_blocks = total_and_gradients(config, *given, weight)
    # A last bit of bfloat16 may fall the other way.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5 if dtype == jnp.float32 else 1e-2, atol=1e-6)
    jax.tree.map(lambda x, y: close(np.float32(x), np.float32(y)), in_blocks, together)
    assert any(np.any(x) for x in in_blocks[1])


def test_a_purified_target_is_the_question_moved_by_what_the_context_adds_to_itself():
    guided, context, question = np.random.default_rng(4).normal(scale=2, size=(3, 5, V)).astype(np.float32)
    teacher = jnp.stack([guided, context, question], axis=1)
    for bound in (0.3, 2.0):
        for rows, found in zip(teacher, jax.nn.softmax(target_logits(teacher, bound)), strict=True):
            logp_of_guided, logp_of_context, logp_of_question = (naive.log_softmax(np.float64(row)) for row in rows)
            wanted = np.exp(logp_of_question) * np.exp(bound * np.tanh((logp_of_guided - logp_of_context) / bound))
            np.testing.assert_allclose(found, wanted / wanted.sum(), atol=1e-6)
    far = jax.nn.softmax(target_logits(teacher, 1e3))  # without a bound: p(question) p(guided) / p(context)
    np.testing.assert_allclose(far, jax.nn.softmax(question + guided - context), atol=5e-3)
    blind = target_logits(teacher.at[:, 0].set(teacher[:, 1]), 2.0)
    np.testing.assert_allclose(jax.nn.softmax(blind), jax.nn.softmax(question), atol=1e-6)


def test_a_purified_divergence_through_the_head_equals_that_of_its_target():
    student, head, _, teacher_head = states(5)
    hidden = np.random.default_rng(6).normal(size=(U, 3, D)).astype(np.float32)
    weight, config = np.linspace(0, 1, U, dtype=np.float32), DivergenceConfig(kind="jsd", purify=1.5, chunk_tokens=4)
    (value, sums), gradients = total_and_gradients(config, student, head, hidden, teacher_head, weight)

    def plain(student, head):
        target_UV = target_logits(jnp.einsum("ukd,vd->ukv", hidden, teacher_head), 1.5)
        return weight @ token_divergence(student @ head.T, target_UV, DivergenceConfig(kind="jsd"))[0]

    expected, expected_gradients = jax.value_and_grad(plain, argnums=(0, 1))(student, head)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, wanted in zip(gradients[:2], expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert not np.any(gradients[2]) and not np.any(gradients[3]) and sums["teacher_entropy"] > 0


def test_hand_numbers_on_three_tokens():
    # p_S = 1/2, 1/4, 1/4 and p_T = 1/4, 1/4, 1/2.
    student, teacher = jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.log(jnp.array([[0.25, 0.25, 0.5]]))
    ln2 = math.log(2)

    def value(**options):
        return token_divergence(student, teacher, DivergenceConfig(**options))[0][0]

    # 1/4 ln(1/2) + 0 + 1/2 ln 2
    assert value(kind="kl_teacher_student") == pytest.approx(ln2 / 4)
    # m = 3/8, 1/4, 3/8: both halves are 1/4 ln(2/3) + 1/2 ln(4/3)
    assert value(kind="jsd") == pytest.approx(0.25 * math.log(2 / 3) + 0.5 * math.log(4 / 3))
    # The largest term, 1/2 ln 2, becomes 0.1; the negative one stays: 0.1 - 1/4 ln 2 < 0.
    assert value(kind="kl_teacher_student", entry_clip=0.1) == pytest.approx(0.1 - ln2 / 4)
    assert value(kind="kl_teacher_student", token_clip=0.1) == pytest.approx(0.1)
    # The teacher's two likeliest, tokens 2 and 0: p_T = 2/3, 1/3 and p_S = 1/3, 2/3 after renormalising.
    top = {"support": "teacher", "top_k": 1}
    assert value(kind="kl_teacher_student", **top) == pytest.approx(0, abs=1e-7)
    # Token 2 against the rest: 1/2 ln(1/2 / 1/4) + 1/2 ln(1/2 / 3/4).
    assert value(kind="kl_teacher_student", tail=True, **top) == pytest.approx(ln2 / 2 + math.log(2 / 3) / 2)


def test_directions_differ_as_their_names_say():
    # The teacher is sure of token 0, the student is not: KL(p_T || p_S) = ln 3, the reverse is much larger.
    student, teacher = jnp.zeros((1, 3)), jnp.array([[20.0, 0.0, 0.0]])
    forward = token_divergence(student, teacher, DivergenceConfig(kind="kl_teacher_student"))[0][0]
    reverse = token_divergence(student, teacher, DivergenceConfig(kind="kl_student_teacher"))[0][0]
    assert forward == pytest.approx(math.log(3), abs=1e-4)
    assert reverse == pytest.approx(40 / 3 - math.log(3), abs=1e-3)


@pytest.mark.parametrize(("beta", "share", "kind"), [(1e-3, 1e-3, KINDS[0]), (1 - 1e-3, 1e-3, KINDS[1])])
def test_jsd_over_its_small_share_approaches_the_kl_of_that_end(beta, share, kind):
    student, teacher = (jnp.asarray(x) for x in logits(3, scale=0.5))
    jsd = token_divergence(student, teacher, DivergenceConfig(kind="jsd", beta=beta))[0] / share
    np.testing.assert_allclose(jsd, token_divergence(student, teacher, DivergenceConfig(kind=kind))[0], rtol=5e-3)


def test_jsd_of_one_half_is_symmetric_and_at_most_ln_2():
    student, teacher = (jnp.asarray(x) for x in logits(4, scale=30))
    config = DivergenceConfig(kind="jsd")
    value = token_divergence(student, teacher, config)[0]
    np.testing.assert_allclose(value, token_divergence(teacher, student, config)[0], rtol=1e-5)
    assert value.max() > 0.6 and value.max() <= math.log(2) + 1e-6


def test_a_uniform_teacher_against_a_sure_student_shows_as_a_jsd_near_ln_2():
    sure = jnp.zeros((1, 50_000)).at[0, 7].set(40.0)
    value = token_divergence(sure, jnp.zeros((1, 50_000)), DivergenceConfig(kind="jsd"))[0][0]
    assert value == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize(("support", "tail"), SUPPORT_AND_TAIL)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_logits_give_exactly_0_and_a_gradient_of_0(kind, support, tail):
    same = jnp.asarray(logits(5)[0])
    config = DivergenceConfig(kind=kind, beta=0.3, support=support, top_k=5, tail=tail, entry_clip=0.05)
    value, backward = jax.vjp(lambda s: token_divergence(s, same, config)[0], same)
    assert (value == 0).all()
    np.testing.assert_allclose(backward(jnp.ones(U))[0], 0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_far_apart_logits_stay_finite(kind):
    student, teacher = (jnp.asarray(x) for x in logits(6, scale=300))
    value, backward = jax.vjp(lambda s: token_divergence(s, teacher, DivergenceConfig(kind=kind))[0], student)
    assert jnp.isfinite(value).all() and jnp.isfinite(backward(jnp.ones(U))[0]).all()


def test_no_gradient_reaches_the_teacher():
    _, (_, _, d_teacher, d_teacher_head) = total_and_gradients(DivergenceConfig(kind="jsd"), *states(), np.ones(U))
    assert not d_teacher.any() and not d_teacher_head.any()


def test_a_head_that_is_not_trainable_gets_no_gradient_and_changes_no_other():
    with_head = total_and_gradients(DivergenceConfig(), *states(), np.ones(U))
    without = total_and_gradients(DivergenceConfig(), *states(), np.ones(U), head_trainable=False)
    assert without[0][0] == with_head[0][0] and not without[1][1].any()
    np.testing.assert_array_equal(without[1][0], with_head[1][0])


@pytest.mark.parametrize("config", [DivergenceConfig(chunk_tokens=4), DivergenceConfig(kind="jsd", support="union")])
def test_tokens_of_weight_0_count_for_exactly_nothing_even_as_nan(config):
    student, head, teacher, teacher_head = states()
    weight = np.ones(U, np.float32)
    weight[[2, 9]] = 0
    clean = student.copy(), teacher.copy()
    student[2], student[9], teacher[2], teacher[9] = np.nan, np.inf, -np.inf, np.nan
    (total, sums), gradients = total_and_gradients(config, student, head, teacher, teacher_head, weight)
    (expected, expected_sums), clean_gradients = total_and_gradients(
        config, clean[0], head, clean[1], teacher_head, weight
    )
    assert total == expected and sums == expected_sums
    assert not gradients[0][[2, 9]].any()
    np.testing.assert_array_equal(gradients[1], clean_gradients[1])
    np.testing.assert_array_equal(gradients[0], clean_gradients[0])


@pytest.mark.parametrize("options", [{}, {"kind": "jsd"}, {"support": "union", "top_k": 6, "tail": True}])
def test_rows_beyond_the_vocabulary_limit_are_as_if_they_did_not_exist(options):
    config = DivergenceConfig(**options)
    student, head, teacher, teacher_head = states()
    limit = 30
    heads = head.copy(), teacher_head.copy()
    heads[0][limit:], heads[1][limit:] = 9.0, -9.0
    (total, sums), gradients = total_and_gradients(
        config, student, heads[0], teacher, heads[1], np.ones(U), vocab_limit=limit
    )
    (expected, expected_sums), cut = total_and_gradients(
        config, student, head[:limit], teacher, teacher_head[:limit], np.ones(U), vocab_limit=limit
    )
    assert total == pytest.approx(expected, rel=1e-5)
    assert sums == pytest.approx(expected_sums, rel=1e-5)
    np.testing.assert_allclose(gradients[0], cut[0], atol=1e-5)
    np.testing.assert_allclose(gradients[1][:limit], cut[1], atol=1e-5)
    assert not gradients[1][limit:].any()


def test_metrics_are_entropies_agreement_and_shares_of_what_was_clipped():
    student, teacher = jnp.zeros((1, 4)), jnp.array([[math.log(5.0), 0.0, 0.0, 0.0]])  # p_T = 5/8, 1/8, 1/8, 1/8
    config = DivergenceConfig(entry_clip=0.2, token_clip=0.01)
    loss, metrics = token_divergence(student, teacher, config)
    entropy = -(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(1 / 8))
    assert metrics["teacher_entropy"][0] == pytest.approx(entropy)
    assert metrics["student_entropy"][0] == pytest.approx(math.log(4))
    assert metrics["divergence"][0] == pytest.approx(math.log(4) - entropy)
    assert metrics["clipped_entries"][0] == 1  # 5/8 ln(5/2) = 0.57; the others are negative
    assert metrics["top1_agreement"][0]  # a tie of the student includes the teacher's choice
    assert loss[0] == pytest.approx(0.2 + 3 / 8 * math.log(1 / 2)) and not metrics["clipped_tokens"][0]
    other = token_divergence(jnp.array([[0.0, 1.0, 0.0, 0.0]]), teacher, config)[1]
    assert not other["top1_agreement"][0]


def temporary_bytes(tokens, vocabulary, chunk_tokens):
    config = DivergenceConfig(kind="jsd", chunk_tokens=chunk_tokens)
    hidden, head = jax.ShapeDtypeStruct((tokens, 16), jnp.float32), jax.ShapeDtypeStruct((vocabulary, 16), jnp.float32)

    def total(*arrays):
        return divergence_sum(*pairs(arrays), jnp.ones(tokens), config, vocab_limit=vocabulary, head_trainable=True)

    compiled = (
        jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True)).lower(hidden, head, hidden, head).compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_chunk_and_not_with_tokens_times_vocabulary():
    vocabulary, chunk = 8192, 64
    few, many = temporary_bytes(512, vocabulary, chunk), temporary_bytes(4096, vocabulary, chunk)
    assert many - few < 8 * 4 * (4096 - 512) * 16  # a few copies of the hidden states
    assert many < 4 * vocabulary * (16 * chunk + 4 * 16) + 8 * 4 * 4096 * 16
    assert many < 4 * 4096 * vocabulary / 4  # a single float32 array of tokens x vocabulary would be 4 times that


@pytest.mark.parametrize("mesh", [MeshConfig(data=8, fsdp=1), MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2)])
def test_eight_devices_share_the_work_evenly(mesh):
    mesh = sharding.make_mesh(mesh)
    tokens, vocabulary, width = 512, 4096, 64

    def placed(shape, *axes):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, sharding.spec(axes)))

    hidden, head = placed((tokens, width), "batch", None), placed((vocabulary, width), "vocab", "table_width")

    def total(*arrays):
        return divergence_sum(*pairs(arrays), DivergenceConfig(), vocab_limit=vocabulary, head_trainable=True)

    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
        compiled = step.lower(hidden, head, hidden, head, placed((tokens,), "batch")).compile()
    four_products = 4 * 2 * tokens * vocabulary * width
    assert compiled.cost_analysis()["flops"] < 1.4 * four_products / 8


@pytest.mark.parametrize(("tokens", "most"), [(1, None), (3000, 7), (4096, 256), (1000, 333), (5, 8)])
def test_chunks_hold_all_tokens_with_little_padding(tokens, most):
    count = chunks(tokens, 1200, most)
    size = -(-tokens // count)
    assert tokens <= count * size < tokens + count
    assert most is None or size <= most


@pytest.mark.parametrize("chunk_tokens", [None, 4])
def test_cross_entropy_equals_the_naive_float64_version_with_its_gradients(chunk_tokens):
    hidden, head, _, _ = states(7)
    tokens = np.random.default_rng(8).integers(0, V, U)
    weight = np.arange(U, dtype=np.float32) / 4

    def total(hidden, head):
        return cross_entropy_sum(
            hidden, head, tokens, weight, vocab_limit=V, head_trainable=True, chunk_tokens=chunk_tokens
        )

    (value, sums), (d_hidden, d_head) = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, head)
    hidden, head = hidden.astype(np.float64), head.astype(np.float64)
    logp = np.stack([naive.log_softmax(row) for row in hidden @ head.T])
    assert value == pytest.approx(-(weight * logp[np.arange(U), tokens]).sum(), rel=1e-5)
    assert sums["accuracy"] == (weight * (logp.argmax(1) == tokens)).sum()
    d_logits = weight[:, None] * (np.exp(logp) - np.eye(V)[tokens])
    np.testing.assert_allclose(d_hidden, d_logits @ head, atol=1e-5)
    np.testing.assert_allclose(d_head, d_logits.T @ hidden, atol=1e-5)


def test_bfloat16_states_give_float32_sums_near_the_float32_ones():
    exact = total_and_gradients(DivergenceConfig(), *states(), np.ones(U))
    student, head, teacher, teacher_head = (jnp.asarray(x, jnp.bfloat16) for x in states())
    # The head stays float32, as master weights do: its gradient is not rounded to bfloat16.
    rounded = total_and_gradients(
        DivergenceConfig(), student, head.astype(jnp.float32), teacher, teacher_head, np.ones(U)
    )
    assert rounded[0][0].dtype == jnp.float32 and rounded[1][1].dtype == jnp.float32
    assert rounded[0][0] == pytest.approx(exact[0][0], rel=0.02)
    np.testing.assert_allclose(rounded[1][1], exact[1][1], atol=0.1)


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"kind": "kl"}, "kl_teacher_student"),
        ({"support": "top"}, "union"),
        ({"reduction": "mean"}, "sequence"),
        ({"kind": "jsd", "beta": 0.0}, "kl_teacher_student"),
        ({"temperature": 0.0}, "positive"),
        ({"temperature": float("nan")}, "positive"),
        ({"support": "teacher", "top_k": 0}, "at least 1"),
        ({"tail": True}, "top-k support"),
        ({"entry_clip": 0.0}, "None"),
        ({"token_clip": -1.0}, "None"),
    ],
)
def test_a_wrong_config_is_refused_with_the_cure(options, cure):
    with pytest.raises(ValueError, match=cure):
        DivergenceConfig(**options)


def test_a_top_k_beyond_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="top_k is 40, the vocabulary has 37"):
        total_and_gradients(DivergenceConfig(support="teacher", top_k=40), *states(), np.ones(U))
