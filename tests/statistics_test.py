"""Estimators against enumeration, intervals against their promise, tests against the null hypothesis."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from rcsd_jax.evaluation import statistics
from rcsd_jax.evaluation.statistics import (
    holm,
    majority_at_k,
    mean_interval,
    paired_test,
    pass_at_k,
    rate_interval,
)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 2), (6, 2, 3), (5, 0, 2), (5, 5, 5), (7, 3, 5), (8, 1, 1)])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_sample(n: int, c: int, k: int) -> None:
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(np.array([n]), np.array([c]), k)[0] == pytest.approx(np.mean([any(s) for s in subsets]))


def test_pass_at_k_takes_questions_of_different_sample_counts() -> None:
    np.testing.assert_allclose(pass_at_k(np.array([2, 4]), np.array([1, 1]), 2), [1.0, 0.5])


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_refuses_more_samples_than_there_are(k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} wants"):
        pass_at_k(np.array([4]), np.array([1]), k)


def test_majority_counts_the_commonest_answer_and_shares_ties() -> None:
    assert majority_at_k(["a", "b", "a"], [True, False, True], 3) == 1.0
    assert majority_at_k(["a", "b", "b"], [True, False, False], 3) == 0.0
    assert majority_at_k(["a", "b"], [True, False], 2) == 0.5
    assert majority_at_k([None, None, "a"], [False, False, True], 3) == 1.0
    assert majority_at_k([None, None], [False, False], 2) == 0.0
    assert majority_at_k(["a", "b", "b"], [True, False, False], 1) == 1.0


def test_the_interval_is_that_of_scipys_percentile_bootstrap() -> None:
    values_G = np.random.default_rng(0).beta(0.5, 0.5, 80)
    ours = mean_interval(values_G, seed=0)
    theirs = scipy.stats.bootstrap(
        (values_G,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.mean, ours.n) == (pytest.approx(values_G.mean()), 80)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.01), pytest.approx(theirs.high, abs=0.01))


def test_95_percent_intervals_hold_the_truth_about_95_times_in_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        chance_G = generator.beta(2, 3, 100)  # mean 0.4: questions differ, 4 samples each
        interval = rate_interval(generator.binomial(4, chance_G) / 4, seed=0)
        held += interval.low <= 0.4 <= interval.high
    assert 0.91 <= held / 400 <= 0.98


def test_questions_are_resampled_not_samples() -> None:
    # 50 questions of certain outcome hold as much as 50 coins, however often each is sampled.
    half_G = np.repeat([0.0, 1.0], 25)
    interval = rate_interval(half_G, seed=0)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(50), rel=0.1)


def test_intervals_over_runs_and_questions_hold_the_truth_where_those_over_questions_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    generator = np.random.default_rng(0)
    held = {"both": 0, "questions": 0}
    for _ in range(300):
        runs_R1, questions_G = generator.normal(0, 0.1, (8, 1)), generator.normal(0, 0.5, 60)
        values_RG = runs_R1 + questions_G + generator.normal(0, 0.3, (8, 60))
        for name, values in (("both", values_RG), ("questions", values_RG - runs_R1 + runs_R1[0])):
            interval = mean_interval(values, seed=0)
            held[name] += interval.low <= 0 <= interval.high
    assert 0.91 <= held["both"] / 300 <= 0.98
    assert held["questions"] / 300 < 0.85


def test_one_run_is_no_runs_and_the_p_value_is_about_the_mean_of_runs() -> None:
    a_RG, b_RG = np.random.default_rng(0).random((2, 3, 60))
    assert paired_test(a_RG[:1], b_RG[:1], seed=1) == paired_test(a_RG[0], b_RG[0], seed=1)
    of_runs, of_means = paired_test(a_RG, b_RG, seed=1), paired_test(a_RG.mean(axis=0), b_RG.mean(axis=0), seed=1)
    assert (of_runs.p, of_runs.n) == (of_means.p, 60) and of_runs.difference == pytest.approx(of_means.difference)
    assert of_runs.high - of_runs.low > of_means.high - of_means.low
    with pytest.raises(ValueError, match="3x60 and 2x60"):
        paired_test(a_RG, b_RG[:2], seed=1)


def test_all_right_is_not_certainty() -> None:
    assert rate_interval(np.ones(50), seed=0) == statistics.Interval(1.0, pytest.approx(0.025 ** (1 / 50)), 1.0, 50)
    exact = scipy.stats.binomtest(0, 50).proportion_ci(method="exact")
    assert rate_interval(np.zeros(50), seed=0).high == pytest.approx(exact.high)
    assert mean_interval(np.full(9, 0.1), seed=0) == statistics.Interval(pytest.approx(0.1), 0.1, 0.1, 9)


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    a_G, b_G = np.random.default_rng(0).random((2, 60))
    assert paired_test(a_G, b_G, seed=3) == paired_test(a_G, b_G, seed=3)
    assert paired_test(a_G, b_G, seed=3).low != paired_test(a_G, b_G, seed=4).low


def test_few_questions_get_the_exact_permutation_p_value() -> None:
    generator = np.random.default_rng(0)
    a_G, b_G = generator.integers(0, 5, (2, 9)) / 4
    exact = scipy.stats.permutation_test((a_G, b_G), lambda x, y: np.mean(x - y), permutation_type="samples")
    assert paired_test(a_G, b_G, seed=0).p == pytest.approx(exact.pvalue)
    # Five of five in favour: two of the 32 sign patterns are as extreme.
    assert paired_test(np.ones(5), np.zeros(5), seed=0).p == 2 / 32


def test_many_questions_get_nearly_the_same_p_value_as_from_a_t_test() -> None:
    generator = np.random.default_rng(0)
    a_G, b_G = generator.normal(0.2, 1, 200), generator.normal(0, 1, 200)
    assert paired_test(a_G, b_G, seed=0).p == pytest.approx(scipy.stats.ttest_rel(a_G, b_G).pvalue, abs=0.01)


def test_p_values_of_equal_methods_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    generator = np.random.default_rng(0)
    p = np.array([paired_test(*generator.random((2, 40)), seed=0).p for _ in range(400)])
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p < 0.05) <= 0.08


def test_no_difference_is_p_1_and_a_clear_one_is_small_but_never_zero() -> None:
    ones_G = np.ones(100)
    nothing = paired_test(ones_G, ones_G, seed=0)
    assert (nothing.difference, nothing.low, nothing.high, nothing.p) == (0.0, 0.0, 0.0, 1.0)
    clear = paired_test(ones_G, 1 - ones_G, seed=0)
    assert 0 < clear.p <= 1 / 10_000


def test_pairing_sees_what_question_difficulty_hides() -> None:
    difficulty_G = np.tile([0.0, 0.75], 50)
    better = paired_test(difficulty_G + 0.25 * (np.arange(100) % 5 == 0), difficulty_G, seed=0)
    assert better.low > 0
    apart = mean_interval(difficulty_G, seed=0)
    assert apart.low < better.difference + difficulty_G.mean() < apart.high


def test_holm_multiplies_the_smallest_by_all_and_never_reorders() -> None:
    assert holm([0.04, 0.01, 0.03]) == [pytest.approx(0.06), pytest.approx(0.03), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_empty_and_unequal_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="no questions"):
        mean_interval(np.array([]), seed=0)
    with pytest.raises(ValueError, match="3 and 2 questions"):
        paired_test(np.zeros(3), np.zeros(2), seed=0)
