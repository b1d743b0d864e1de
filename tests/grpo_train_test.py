"""GRPO through the whole loop, with a reward that a random model can earn: the share of digits in what it writes."""

import numpy as np
import pytest
from tiny_pipeline import experiment
from train_test import Killed, kill_at, numbers

from rcsd_jax import lm, rewards
from rcsd_jax.train import train

GRPO = {
    "objective": "grpo",
    "rubrics__source": "none",
    "train__samples": 4,
    "train__steps": 6,
    "train__updates_per_rollout": 2,
    "train__checkpoint_every": 2,
    "optimizer__learning_rate": 0.01,
    "optimizer__schedule": "constant",
    "optimizer__warmup_steps": 0,
    "policy__kl_coefficient": 0.001,
    "policy__importance_cap": 2.0,
    "sampling__temperature": 1.2,
    "evaluation__splits": (),
}


@pytest.fixture
def digits(monkeypatch):
    def reward(problems, texts, variables):
        del problems, variables
        shares = np.array([[sum(map(str.isdigit, text)) / max(1, len(text)) for text in samples] for samples in texts])
        return rewards.Earned(shares, {})

    monkeypatch.setattr(rewards, "Reward", lambda experiment, model, mesh: reward)


def test_what_earned_more_becomes_likelier_and_a_killed_run_continues_bit_for_bit(
    digits, one_device, tmp_path, monkeypatch
):
    e = experiment(**GRPO)
    summary = train(e, tmp_path / "whole")
    rows = numbers(tmp_path / "whole")
    first, last = rows[0], rows[4]
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        assert after["loss"] < before["loss"] - 0.05, "what earned more has become likelier"
    assert summary["sampled_tokens"] == sum(row["sampled_tokens"] for row in rows[::2])
    assert "reward" not in rows[1], "the second update of a rollout samples nothing"

    # The scorer agrees with the sampler; before the first update of a rollout the policy is the one that sampled.
    assert first["ratio"] == pytest.approx(1, abs=1e-4) and first["importance"] == pytest.approx(1, abs=1e-3)
    assert first["kl_to_base"] < 1e-6 < last["kl_to_base"]
    assert first["policy_gap"] < 1e-4 < rows[1]["policy_gap"]

    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, 3)
        train(e, tmp_path / "killed")
    train(e, tmp_path / "killed")
    assert numbers(tmp_path / "killed") == rows
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert models[0] == models[1]
    assert lm.load(tmp_path / "killed" / "model", e.model.compute)


def test_groups_without_spread_are_left_out_and_change_no_weight(one_device, tmp_path):
    # Real rewards: all are 0. A penalty still holds such groups near the base; without one they are out.
    changes = {**GRPO, "train__steps": 2, "train__max_skipped": 1, "policy__importance_cap": None}
    for penalty, counts in ((0.0, False), (0.01, True)):
        folder = tmp_path / str(penalty)
        last = train(experiment(**{**changes, "policy__kl_coefficient": penalty}), folder)["last"]
        assert last["skipped"] == (0 if counts else 2) and (last["loss_count"] > 0) == counts
        assert numbers(folder)[0]["groups_without_spread"] == 1
