"""From the rewards of a question's samples to what each sample was better than the others. On the host, in float64.

advantages([[1, 0, 0, 1]]).advantage_GN  ->  [[0.866, -0.866, -0.866, 0.866]]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Advantages(NamedTuple):
    """``counts_GN`` is False for samples that nothing can be learned from; their advantage is 0."""

    advantage_GN: np.ndarray
    counts_GN: np.ndarray


def advantages(reward_GN: np.ndarray, std: str = "group") -> Advantages:
    """Rewards less the mean of their group, divided by a standard deviation (of a sample: n - 1).

    A NaN is a reward that nobody could give: that sample leaves its group, as if it had not been drawn. A group without
    spread says nothing about what is better: all of it is left out.

    Args:
      reward_GN: one row a question, one column a sample.
      std: of the "group", of the whole "batch" (groups without spread included), or "none".
    """
    assert std in ("group", "batch", "none"), f"{std=}"
    reward_GN = np.asarray(reward_GN, np.float64)
    known_GN = np.isfinite(reward_GN)
    count_G1 = known_GN.sum(axis=1, keepdims=True)
    lowest_G1 = np.where(known_GN, reward_GN, np.inf).min(axis=1, keepdims=True)
    highest_G1 = np.where(known_GN, reward_GN, -np.inf).max(axis=1, keepdims=True)
    mean_G1 = np.where(known_GN, reward_GN, 0).sum(axis=1, keepdims=True) / np.maximum(count_G1, 1)
    counts_GN = known_GN & (highest_G1 > lowest_G1)
    gap_GN = np.where(counts_GN, reward_GN - mean_G1, 0)
    if std == "group":
        scale = np.sqrt((gap_GN**2).sum(axis=1, keepdims=True) / np.maximum(count_G1 - 1, 1))
    elif std == "batch" and known_GN.sum() > 1:
        scale = np.std(reward_GN[known_GN], ddof=1)
    else:
        scale = np.ones(())
    return Advantages(gap_GN / np.where(scale > 0, scale, 1), counts_GN)


def best(reward_GN: np.ndarray, threshold: float) -> np.ndarray:
    """True on the first sample of the highest reward of each question, where that is above the threshold: [G, N]."""
    reward_GN = np.where(np.isfinite(reward_GN), reward_GN, -np.inf)
    is_first_GN = np.arange(reward_GN.shape[1])[None] == reward_GN.argmax(axis=1)[:, None]
    return is_first_GN & (reward_GN > threshold)
