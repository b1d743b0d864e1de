"""Learning from rewards: hand numbers on three tokens, a naive float64 version, and what top-k and top-p do to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_naive as naive

from rcsd_jax import collector
from rcsd_jax.judges import explicit
from rcsd_jax.learning import PolicyConfig, advantages, best
from rcsd_jax.learning.chunked_head import logp_of_tokens
from rcsd_jax.learning.policy import PolicyRows, aggregated, policy_sum
from rcsd_jax.types import CUT, FINISHED, Criterion, Rubric


def loss_and_gradient(logits_UV, rows, config=PolicyConfig(), temperature=1.0, weight_U=None):
    """(sum, gradient, metrics) of ``policy_sum`` with an identity for a head."""
    logits_UV = jnp.asarray(logits_UV, jnp.float32)
    weight_U = jnp.ones(len(logits_UV)) if weight_U is None else weight_U
    options = {"temperature": temperature, "vocab_limit": logits_UV.shape[1], "head_trainable": False}
    head = jnp.eye(logits_UV.shape[1])

    def total(logits_UV):
        return policy_sum(logits_UV, head, rows, weight_U, config, **options)

    (value, metrics), gradient = jax.value_and_grad(total, has_aux=True)(logits_UV)
    return float(value), np.asarray(gradient), {name: float(x) for name, x in metrics.items()}


def rows_of(token, advantage, then, base=None, correction=None):
    given = (jnp.asarray(x, jnp.float32) if x is not None else None for x in (advantage, then, base, correction))
    return PolicyRows(jnp.asarray(token, jnp.int32), *given)


def test_hand_numbers_on_three_tokens():
    p = np.array([[0.5, 0.25, 0.25]])
    # First update: the ratio is 1 and the gradient of the logits is -A (onehot - p).
    value, gradient, metrics = loss_and_gradient(np.log(p), rows_of([1], [2.0], np.log([0.25])))
    assert value == pytest.approx(-2)
    np.testing.assert_allclose(gradient, [[2 * 0.5, -2 * 0.75, 2 * 0.25]], atol=1e-6)
    assert metrics["ratio"] == pytest.approx(1) and metrics["policy_gap"] == pytest.approx(0, abs=1e-6)
    assert metrics["student_entropy"] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(4), rel=1e-6)
    # The token was half as likely: ratio 2 is beyond 1.28, so the loss is -1.28 A and nothing moves.
    value, gradient, metrics = loss_and_gradient(np.log(p), rows_of([1], [2.0], np.log([0.125])))
    assert value == pytest.approx(-2.56) and not gradient.any()
    assert (metrics["clipped_high"], metrics["clipped_low"]) == (1, 0)
    # With a negative advantage the same token still has its whole gradient: -r A grad log p.
    value, gradient, _ = loss_and_gradient(np.log(p), rows_of([1], [-1.0], np.log([0.125])))
    assert value == pytest.approx(2)
    np.testing.assert_allclose(gradient, [[-2 * 0.5, 2 * 0.75, -2 * 0.25]], atol=1e-6)
    # Ratio 0.5 is below 0.8: a negative advantage has done its work.
    value, gradient, metrics = loss_and_gradient(np.log(p), rows_of([1], [-1.0], np.log([0.5])))
    assert value == pytest.approx(0.8) and not gradient.any() and metrics["clipped_low"] == 1
    # KL to a base of 0.5: q = 2, so 2 - log 2 - 1, with gradient (1 - q) grad log p.
    config = PolicyConfig(kl_coefficient=0.1)
    value, gradient, metrics = loss_and_gradient(np.log(p), rows_of([1], [0.0], np.log([0.25]), np.log([0.5])), config)
    assert value == pytest.approx(0.1 * (1 - np.log(2))) and metrics["kl_to_base"] == pytest.approx(1 - np.log(2))
    np.testing.assert_allclose(gradient, [[0.1 * 0.5, -0.1 * 0.75, 0.1 * 0.25]], atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 1.3])
@pytest.mark.parametrize(("kl", "corrected"), [(0.0, False), (0.05, True)])
def test_values_and_gradients_are_those_of_the_naive_version(temperature, kl, corrected):
    rng, size = np.random.default_rng(0), 40
    logits = rng.normal(size=(size, 7)) * 2
    token, advantage = rng.integers(0, 7, size), rng.normal(size=size)
    now = np.array([naive.log_softmax(row / temperature)[v] for row, v in zip(logits, token, strict=True)])
    then, base = now + rng.normal(size=size) * 0.4, now + rng.normal(size=size) * 0.4
    correction, weight = rng.uniform(0.5, 2, size), rng.uniform(size=size)
    if not corrected:
        base = correction = None
    config = PolicyConfig(kl_coefficient=kl)
    value, gradient, metrics = loss_and_gradient(
        logits, rows_of(token, advantage, then, base, correction), config, temperature, jnp.asarray(weight)
    )
    reference = functools.partial(
        naive.policy_loss, token_U=token, advantage_U=advantage, then_U=then, base_U=base, correction_U=correction,
        config=config, temperature=temperature,
    )  # fmt: skip
    assert value == pytest.approx((reference(logits) * weight).sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, naive.gradient(reference, logits) * weight[:, None], atol=1e-5)
    assert metrics["clipped_low"] > 0 and metrics["clipped_high"] > 0, "both clips are part of this test"


def test_a_token_that_does_not_count_may_hold_anything():
    nan = [np.nan]
    weight = jnp.array([1.0, 0.0])
    rows = rows_of([1, 2], [2.0, *nan], [np.log(0.25), *nan], [-1.0, *nan], [1.0, *nan])
    value, gradient, _ = loss_and_gradient(np.log([[0.5, 0.25, 0.25], [1, 1, 1]]), rows, weight_U=weight)
    assert np.isfinite(value) and np.isfinite(gradient).all() and not gradient[1].any()


def test_aggregations_on_a_completion_of_one_token_and_one_of_three():
    weight = jnp.array([[1.0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    loss = np.array([[6.0, 0, 0, 0], [1, 2, 3, 0], [0, 0, 0, 0]])
    expected = {"grpo": (6 + 2) / 2, "dapo": 12 / 4, "bnpo": 12 / 4, "dr_grpo": 12 / 12}
    for name, mean in expected.items():
        weights, count = aggregated(weight, name)
        assert (weights * loss).sum() / count == pytest.approx(mean), name
    for name in ("grpo", "dapo", "bnpo"):
        weights, count = aggregated(weight * 0, name)
        assert count == 0 and not weights.any()


# Advantages


def test_advantages_by_hand():
    rewards_GN = np.array([[1, 0, 0, 1], [3, 3, 3, 3], [0, 0, 0, 4]])
    found = advantages(rewards_GN)
    np.testing.assert_allclose(found.advantage_GN[0], np.array([0.5, -0.5, -0.5, 0.5]) / np.sqrt(1 / 3))
    np.testing.assert_allclose(found.advantage_GN[2], np.array([-1, -1, -1, 3]) / 2)
    assert not found.advantage_GN[1].any() and not found.counts_GN[1].any(), "no spread: nothing to learn"
    assert found.counts_GN[[0, 2]].all()
    np.testing.assert_allclose(advantages(rewards_GN, "none").advantage_GN[2], [-1, -1, -1, 3])
    scale = np.std(rewards_GN, ddof=1)
    np.testing.assert_allclose(advantages(rewards_GN, "batch").advantage_GN[2], np.array([-1, -1, -1, 3]) / scale)


def test_a_reward_that_nobody_could_give_leaves_its_group_as_if_it_had_not_been_drawn():
    with_hole, without = advantages(np.array([[1, np.nan, 0, 0]])), advantages(np.array([[1, 0, 0]]))
    np.testing.assert_allclose(with_hole.advantage_GN[:, [0, 2, 3]], without.advantage_GN)
    assert with_hole.counts_GN.tolist() == [[True, False, True, True]] and with_hole.advantage_GN[0, 1] == 0
    for hopeless in ([np.nan] * 3, [np.nan, np.nan, 1.0]):
        for std in ("group", "batch", "none"):
            found = advantages(np.array([hopeless]), std)
            assert not found.counts_GN.any() and not found.advantage_GN.any()


def test_the_best_is_the_first_of_the_highest_if_it_is_above_the_threshold():
    reward = np.array([[0.2, 0.9, 0.9], [0.6, 0.5, np.nan], [np.nan, np.nan, np.nan], [np.nan, 0.1, 0.7]])
    assert best(reward, 0.6).tolist() == [[False, True, False], [False] * 3, [False] * 3, [False, False, True]]


def test_what_is_left_out_has_neither_weight_nor_advantage():
    advantage, weight = jnp.array([1.0, 2.0, 3.0]), jnp.ones((3, 2))
    counts, finish = jnp.array([True, False, True]), jnp.array([FINISHED, FINISHED, CUT])
    for mask_truncated, expected in ((False, [1, 0, 1]), (True, [1, 0, 0])):
        found, weights = collector._counted(advantage, weight, counts, finish, mask_truncated)
        np.testing.assert_array_equal(found, advantage * jnp.array(expected))
        np.testing.assert_array_equal(weights, np.repeat(expected, 2).reshape(3, 2))


# Filters: tokens come from p / m on the kept ones.

P = np.array([0.45, 0.25, 0.2, 0.1])
KEPT = np.array([True, True, False, False])
MASS = P[KEPT].sum()


def gradients_of_samples(advantage_V):
    """-gradient of the loss for each token that could be sampled, when the weights are those that sampled."""
    rows = rows_of(np.arange(4), advantage_V, np.log(P))
    return -loss_and_gradient(np.tile(np.log(P), (4, 1)), rows)[1]


def test_ratios_of_filtered_samples_begin_at_one_and_would_be_clipped_against_the_filtered_probabilities():
    _, _, metrics = loss_and_gradient(np.log(P)[None], rows_of([0], [-1.0], np.log(P[:1])))
    assert metrics["ratio"] == pytest.approx(1) and not metrics["clipped_low"]
    _, gradient, metrics = loss_and_gradient(np.log(P)[None], rows_of([0], [-1.0], np.log(P[:1] / MASS)))
    assert metrics["ratio"] == pytest.approx(MASS) and metrics["clipped_low"] and not gradient.any()


def test_filters_bias_the_gradient_by_that_of_the_kept_mass_unless_advantages_are_centred():
    q = np.where(KEPT, P / MASS, 0)
    of_log_mass = np.where(KEPT, P / MASS, 0) - P
    np.testing.assert_allclose(P @ gradients_of_samples(np.ones(4)), np.zeros(4), atol=1e-6)
    np.testing.assert_allclose(q @ gradients_of_samples(np.ones(4)), of_log_mass, atol=1e-6)
    # Centred under q, the same filters leave no pull on the kept mass: what is gained on one is lost on the other.
    advantage = np.array([1.0, -P[0] / P[1], 0, 0])
    pull = q @ gradients_of_samples(advantage)
    assert pull[KEPT].sum() == pytest.approx(0, abs=1e-6) and not np.abs(pull[~KEPT]).max() > 1e-6


def test_log_probs_of_sampled_tokens_are_those_of_the_naive_softmax():
    rng = np.random.default_rng(1)
    hidden, head = rng.normal(size=(23, 5)).astype(np.float32), rng.normal(size=(11, 5)).astype(np.float32)
    token = rng.integers(0, 9, 23)
    found = logp_of_tokens(jnp.asarray(hidden), jnp.asarray(head), jnp.asarray(token), temperature=0.7, vocab_limit=9)
    wanted = [naive.log_softmax(h @ head[:9].T / 0.7)[v] for h, v in zip(hidden.astype(np.float64), token, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_low": 1.5},
        {"clip_high": -0.1},
        {"kl_coefficient": np.inf},
        {"aggregation": "mean"},
        {"advantage_std": "all"},
        {"importance_cap": 0.0},
    ],
)
def test_a_wrong_config_is_refused_by_name(options):
    with pytest.raises(ValueError, match=f"policy.{next(iter(options))} is"):
        PolicyConfig(**options)


# Rewards

RUBRIC = Rubric(
    (
        Criterion("Formula", "Essential: uses F = m a", 9),
        Criterion("Unit", "answers in N", 4),
        Criterion("Aside", "Important: says why", 2),
        Criterion("Pitfall", "divides by m", -3),
    )
)


@pytest.mark.parametrize(
    ("met", "integers", "categories"),
    [
        ((True, True, True, False), 1.0, 1.0),
        ((True, False, False, True), (9 - 3) / 15, (1.0 - 0.9) / 2.4),
        ((False, True, True, False), 6 / 15, (0.7 + 0.7) / 2.4),  # 4 is important, and so is what says so itself
        ((False, False, False, True), -3 / 15, -0.9 / 2.4),
    ],
)
def test_the_explicit_reward_is_the_share_of_the_weight_that_is_met(met, integers, categories):
    assert explicit(RUBRIC, met) == pytest.approx(integers)
    assert explicit(RUBRIC, met, "categories") == pytest.approx(categories)


def test_a_rubric_without_a_positive_weight_gives_no_reward_at_all():
    assert np.isnan(explicit(Rubric(RUBRIC.criteria[3:]), (True,)))
