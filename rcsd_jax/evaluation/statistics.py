"""Means over questions with intervals, and tests between two methods on the same questions.

The question is the unit that is resampled: samples of one question are not independent, so every function here
takes one number a question [G], or one row of them for each of R runs with other seeds [R, G]. Then runs and questions
are resampled, each by themselves, as they are crossed (the pigeonhole bootstrap, Owen 2007, Annals of Applied
Statistics 1); of few runs that makes the share of the runs in the variance too small by 1 / R. Everything is
deterministic given the seed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000
_CHUNK = 4_000_000  # numbers held at once


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over ``n`` questions and its 95% interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """Mean difference of two methods over ``n`` common questions, its 95% interval and a two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float
    n: int


def pass_at_k(samples_G: np.ndarray, correct_G: np.ndarray, k: int) -> np.ndarray:
    """Unbiased chance that at least one of k samples is right, a question (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    1 - C(n - c, k) / C(n, k) for n samples of which c are right.

    Raises:
      ValueError: a question has fewer than k samples.
    """
    samples_G, correct_G = np.asarray(samples_G, np.int64), np.asarray(correct_G, np.int64)
    if k < 1 or np.any(samples_G < k):
        raise ValueError(f"pass@{k} wants at least {max(k, 1)} samples a question, the fewest are {samples_G.min()}")
    i_1K = np.arange(k)[None, :]
    wrong_GK = np.maximum((samples_G - correct_G)[:, None] - i_1K, 0)
    return 1.0 - np.prod(wrong_GK / (samples_G[:, None] - i_1K), axis=1)


def majority_at_k(votes: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Whether the commonest answer among the first k samples of a question is right; None does not vote.

    Tied answers share the outcome, as if one of them were drawn: two of which one is right give 0.5.
    """
    groups: dict[str, list[bool]] = {}
    for vote, right in zip(votes[:k], correct[:k], strict=True):
        if vote is not None:
            groups.setdefault(vote, []).append(right)
    if not groups:
        return 0.0
    most = max(map(len, groups.values()))
    return float(np.mean([np.mean(group) for group in groups.values() if len(group) == most]))


def mean_interval(values: np.ndarray, *, seed: int) -> Interval:
    """Percentile bootstrap of a mean over questions (Efron and Tibshirani 1993, chapter 13), and over runs.

    Raises:
      ValueError: no questions.
    """
    values_RG = np.atleast_2d(np.asarray(values, np.float64))
    if values_RG.size == 0:
        raise ValueError("a mean over no questions: the records are empty")
    low, high = _bootstrap(values_RG, seed)
    return Interval(float(values_RG.mean()), low, high, values_RG.shape[1])


def rate_interval(values: np.ndarray, *, seed: int) -> Interval:
    """``mean_interval`` of rates in [0, 1], with honest width where every question gives 0 or every one gives 1.

    There the bootstrap has no width; the exact binomial bound takes its place (Clopper and Pearson 1934): with
    all of n right, the 95% interval is [0.025 ** (1 / n), 1].
    """
    interval = mean_interval(values, seed=seed)
    reach = 1.0 - ((1.0 - LEVEL) / 2) ** (1.0 / interval.n)
    if interval.low == interval.high == 0.0:
        return dataclasses.replace(interval, high=reach)
    if interval.low == interval.high == 1.0:
        return dataclasses.replace(interval, low=1.0 - reach)
    return interval


def paired_test(method: np.ndarray, baseline: np.ndarray, *, seed: int) -> PairedTest:
    """Compares two methods question by question: bootstrap interval of the mean difference, sign-flip p-value.

    Under the null hypothesis the two methods are exchangeable on every question, so the sign of each difference
    is a fair coin (Fisher 1935). All 2^G sign patterns are tried where those are few, else RESAMPLES random ones,
    the observed one counted among them. Of several runs the differences are averaged first: the p-value is about
    these runs, the interval also about others like them.

    Raises:
      ValueError: the two do not hold the same number of questions and runs, or none.
    """
    method_RG, baseline_RG = (np.atleast_2d(np.asarray(values, np.float64)) for values in (method, baseline))
    if method_RG.shape != baseline_RG.shape or method_RG.size == 0:
        sizes = " and ".join("x".join(map(str, np.shape(values))) for values in (method, baseline))
        raise ValueError(f"paired test of {sizes} questions: give the same, at least one")
    delta_RG = method_RG - baseline_RG
    low, high = _bootstrap(delta_RG, seed)
    p = _sign_flip_p(delta_RG.mean(axis=0), seed)
    return PairedTest(float(delta_RG.mean()), low, high, p, delta_RG.shape[1])


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for having made all these tests (Holm 1979); at most 1, in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _bootstrap(values_RG: np.ndarray, seed: int) -> tuple[float, float]:
    """The central ``LEVEL`` of the means of RESAMPLES resamples."""
    runs, questions = values_RG.shape
    # The mean of equal numbers need not be that number in floating point.
    if np.all(values_RG == values_RG[0, 0]):
        return float(values_RG[0, 0]), float(values_RG[0, 0])
    of_questions, of_runs = (np.random.default_rng([seed, questions, stream]) for stream in (0, 2))
    means = []
    for rows in _chunks(RESAMPLES, questions):
        drawn_XG = of_questions.integers(0, questions, (rows, questions), dtype=np.int32)
        if runs == 1:
            means.append(values_RG[0][drawn_XG].mean(axis=1))
        else:
            shares_XR = of_runs.multinomial(runs, np.full(runs, 1 / runs), size=rows) / runs
            means.append(np.take_along_axis(shares_XR @ values_RG, drawn_XG, axis=1).mean(axis=1))
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
    return float(low), float(high)


def _sign_flip_p(delta_G: np.ndarray, seed: int) -> float:
    delta_G = delta_G[delta_G != 0.0]  # Flipping a zero changes nothing.
    if delta_G.size == 0:
        return 1.0
    # A pattern that ties with the observed one must count as one, whatever the rounding of its sum.
    observed = abs(delta_G.sum()) * (1.0 - 1e-9)
    if 2**delta_G.size <= RESAMPLES:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=delta_G.size)))
        return float(np.mean(np.abs(signs @ delta_G) >= observed))
    generator = np.random.default_rng([seed, delta_G.size, 1])
    extreme = 0
    for rows in _chunks(RESAMPLES, delta_G.size):
        signs = 2.0 * generator.integers(0, 2, (rows, delta_G.size), dtype=np.int8) - 1.0
        extreme += int(np.sum(np.abs(signs @ delta_G) >= observed))
    return (extreme + 1) / (RESAMPLES + 1)


def _chunks(rows: int, width: int) -> Iterator[int]:
    """``rows`` in pieces whose rows times width stay below ``_CHUNK``."""
    step = max(1, _CHUNK // width)
    for start in range(0, rows, step):
        yield min(step, rows - start)
