"""A teacher in a policy loss: against the exact divergence, a naive float64 version, and its two parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_naive as naive

from rcsd_jax.learning import DivergenceConfig, Gates, LossConfig, PolicyConfig
from rcsd_jax.learning.chunked_head import States
from rcsd_jax.learning.divergence import Sampled, divergence_sum
from rcsd_jax.learning.guided_policy import divergence_and_policy_sum, sampled_divergence_sum
from rcsd_jax.learning.policy import PolicyRows, policy_sum

V = 5
EYE = jnp.eye(V)  # the states are the logits
RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(12, V)) * 2, RNG.normal(size=(12, V)) * 2
TOKEN = RNG.integers(0, V, 12)
OPTIONS = {"vocab_limit": V, "head_trainable": False}


def logp(logits_UV, token_U=TOKEN, temperature=1.0):
    return np.array([naive.log_softmax(row / temperature)[v] for row, v in zip(logits_UV, token_U, strict=True)])


def rows_of(token, then, advantage=None):
    given = [None if x is None else jnp.asarray(x, jnp.float32) for x in (advantage, then)]
    return PolicyRows(jnp.asarray(token, jnp.int32), *given)


def guided_sum(student, teacher, rows, weight, config):
    loss_sum = sampled_divergence_sum if rows.advantage_U is None else divergence_and_policy_sum
    return loss_sum(States(student, EYE), States(teacher, EYE), rows, weight, config, **OPTIONS)


def run(config, rows, student=STUDENT, teacher=TEACHER, weight=None):
    """(sum, gradient of the student's logits, metrics)."""
    student, teacher = jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32)
    weight = jnp.ones(len(student)) if weight is None else jnp.asarray(weight, jnp.float32)

    def total(student):
        return guided_sum(student, teacher, rows, weight, config)

    (value, metrics), gradient = jax.value_and_grad(total, has_aux=True)(student)
    return float(value), np.asarray(gradient), {name: float(x) for name, x in metrics.items()}


@pytest.mark.parametrize("temperature", [1.0, 1.4])
def test_the_mean_gradient_over_the_students_own_tokens_is_that_of_the_reverse_divergence(temperature):
    student, teacher = STUDENT[:1], TEACHER[:1]
    everything = np.arange(V)
    p = np.exp(naive.log_softmax(student[0] / temperature))
    repeated = [np.repeat(x, V, axis=0) for x in (student, teacher)]
    rows = rows_of(everything, np.log(p))
    _, gradient, metrics = run(LossConfig(temperature=temperature), rows, *repeated, weight=p)
    config = DivergenceConfig(kind="kl_student_teacher", temperature=temperature)
    reference = functools.partial(naive.divergence, teacher_UV=teacher, config=config)
    np.testing.assert_allclose(gradient.sum(axis=0), naive.gradient(reference, student)[0], atol=1e-5)
    assert metrics["sampled_divergence"] == pytest.approx(reference(student)[0], rel=1e-5)


def test_a_sampled_token_is_a_policy_loss_with_the_teachers_word_as_advantage():
    then = logp(STUDENT) + RNG.normal(size=12) * 0.3
    value, gradient, _ = run(LossConfig(), rows_of(TOKEN, then))
    # The advantage is a number, not a function of the student: it is fixed before the naive version is nudged.
    advantage = logp(TEACHER) - logp(STUDENT)
    reference = functools.partial(
        naive.policy_loss, token_U=TOKEN, advantage_U=advantage, then_U=then, base_U=None, correction_U=None,
        config=PolicyConfig(), temperature=1.0,
    )  # fmt: skip
    assert value == pytest.approx(reference(STUDENT).sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, naive.gradient(reference, STUDENT), atol=1e-5)


def test_a_teacher_that_is_the_student_teaches_exactly_nothing():
    value, gradient, metrics = run(LossConfig(), rows_of(TOKEN, logp(STUDENT) - 0.1), teacher=STUDENT)
    assert value == 0 and not gradient.any() and metrics["sampled_divergence"] == 0


def test_divergence_and_reward_add_up():
    advantage, then = RNG.normal(size=12), logp(STUDENT, temperature=1.3)
    weight = jnp.asarray(RNG.uniform(0.5, 1, 12), jnp.float32)
    config = LossConfig(DivergenceConfig(kind="jsd"), PolicyConfig(reward_coefficient=0.7), temperature=1.3)
    rows = rows_of(TOKEN, then, advantage)
    value, gradient, metrics = run(config, rows, weight=weight)
    student, teacher = jnp.asarray(STUDENT, jnp.float32), jnp.asarray(TEACHER, jnp.float32)

    def both(student):
        divergence, _ = divergence_sum(States(student, EYE), States(teacher, EYE), weight, config.divergence, **OPTIONS)
        reward, _ = policy_sum(student, EYE, rows, weight, config.policy, temperature=1.3, **OPTIONS)
        return divergence + 0.7 * reward

    expected, expected_gradient = jax.value_and_grad(both)(student)
    assert value == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    assert {"divergence", "policy_loss", "ratio", "teacher_entropy"} <= set(metrics)


@pytest.mark.parametrize("gates", [Gates(min_student_entropy=0.9), Gates(max_teacher_entropy=1.0)])
@pytest.mark.parametrize("form", ["sampled", "mixed", "divergence"])
def test_tokens_that_a_gate_stops_add_nothing_and_are_not_counted(form, gates):
    entropy = {
        name: np.array([-(np.exp(naive.log_softmax(x)) @ naive.log_softmax(x)) for x in logits])
        for name, logits in (("student", STUDENT), ("teacher", TEACHER))
    }
    open_U = entropy["student"] >= 0.9 if gates.min_student_entropy else entropy["teacher"] <= 1.0
    assert 0 < open_U.sum() < len(open_U)
    student, teacher = jnp.asarray(STUDENT, jnp.float32), jnp.asarray(TEACHER, jnp.float32)

    def total(student, weight, gates):
        if form == "divergence":
            return divergence_sum(
                States(student, EYE), States(teacher, EYE), weight, DivergenceConfig(), gates=gates, **OPTIONS
            )
        rows = rows_of(TOKEN, logp(STUDENT), np.ones(12) if form == "mixed" else None)
        return guided_sum(student, teacher, rows, weight, LossConfig(gates=gates))

    function = jax.value_and_grad(total, has_aux=True)
    (value, metrics), gradient = function(student, jnp.ones(12), gates)
    (expected, without), expected_gradient = function(student, jnp.asarray(open_U, jnp.float32), Gates())
    assert value == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-7)
    assert metrics["passed"] == open_U.sum() and "passed" not in without


def test_a_uniform_teacher_is_noticed():
    weight = jnp.ones(12)
    for scale, share in ((0.0, 12), (0.01, 12), (1.0, 0)):
        teacher = jnp.asarray(TEACHER * scale, jnp.float32)
        _, metrics = divergence_sum(
            States(teacher * 0, EYE), States(teacher, EYE), weight, DivergenceConfig(), **OPTIONS
        )
        assert metrics["teacher_uniform"] == share
    # Rows of the head that have no token are no reason to think that the teacher knows something.
    padded = jnp.concatenate([EYE, jnp.full((3, V), 9.0)])
    flat = jnp.ones((12, V))
    _, metrics = divergence_sum(States(flat, padded), States(flat, padded), weight, DivergenceConfig(), **OPTIONS)
    assert metrics["teacher_uniform"] == 12


def test_tokens_of_older_weights_count_for_what_they_still_are_up_to_a_cap():
    then = logp(STUDENT, temperature=1.3) + RNG.normal(size=12)
    sampled = Sampled(
        jnp.asarray(TOKEN, jnp.int32), *(jnp.asarray(x, jnp.float32) for x in (logp(STUDENT), then)), temperature=1.3
    )
    student, teacher = jnp.asarray(STUDENT, jnp.float32), jnp.asarray(TEACHER, jnp.float32)
    importance = np.minimum(np.exp(logp(STUDENT, temperature=1.3) - then), 2)
    assert 0 < (importance == 2).sum() < 12

    def total(student, config, weight):
        weight = jnp.asarray(weight, jnp.float32)
        return divergence_sum(States(student, EYE), States(teacher, EYE), weight, config, sampled=sampled, **OPTIONS)

    function = jax.value_and_grad(total, has_aux=True)
    (value, metrics), gradient = function(student, DivergenceConfig(importance_cap=2.0), np.ones(12))
    (expected, _), expected_gradient = function(student, DivergenceConfig(), importance)
    assert value == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    assert metrics["importance"] == pytest.approx(importance.sum(), rel=1e-5)
