"""A training run: killed it goes on as if nothing had happened, diverging it stops, finished it can be loaded."""

import json
import logging
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_pipeline import experiment

from rcsd_jax import (
    checkpoint,
    config,
    data,
    ending,
    evaluate,
    export,
    lm,
    metrics,
    models,
    questions,
    sharding,
    sources,
)
from rcsd_jax.train import Diverged, train
from rcsd_jax.workdir import Workdir

SHORT = {"train__steps": 5, "train__checkpoint_every": 2, "evaluation__splits": ()}
RUNS = {
    "sft": {"objective": "sft", "train__row_length": 128, "train__rows": 8},
    **{kind: {"teacher__weights__kind": kind} for kind in ("base", "live", "ema", "snapshot", "trust_region")},
}
# One of them with rollouts that are sampled a step ahead.
RUNS["ema"] |= {"train__staleness": 1, "divergence__importance": "prefix", "divergence__importance_cap": 2.0}
EPOCH = {"data__limit": 20}  # the third step of eight begins the second one
OF_THE_CLOCK = {"time", "step_seconds"}


class Killed(Exception):
    """Stands for a machine that goes away."""


def meddle(monkeypatch, change):
    """``change(step, batch, look)`` sees, and may replace, every batch of runs from now on."""
    of = sources.of

    def meddled(*arguments):
        source = of(*arguments)
        return source._replace(batch=lambda state, step: change(step, *source.batch(state, step)))

    monkeypatch.setattr(sources, "of", meddled)


def kill_at(monkeypatch, at):
    def change(step, batch, look):
        def killed():
            raise Killed

        return batch, killed if step == at else look

    meddle(monkeypatch, change)


def numbers(folder):
    """The metrics of a run without those that a clock makes."""
    rows = metrics.read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in OF_THE_CLOCK} for row in rows]


def last_state(e, folder):
    """The model of ``e`` and the newest checkpoint of its run."""
    mesh = sharding.make_mesh(e.mesh)
    with jax.set_mesh(mesh), checkpoint.Checkpoints(folder / "checkpoints") as checkpoints:
        model = models.load(e.model, e.seed, mesh)
        meta = sources.of(e, model, mesh).meta
        return model, checkpoints.restore(models.abstract_state(e, model.transformer, mesh), meta)


@pytest.mark.parametrize("kind", RUNS)
def test_a_killed_run_continues_to_the_very_bits_of_one_that_was_not(kind, one_device, tmp_path, monkeypatch):
    e = experiment(**SHORT, **EPOCH, **RUNS[kind])
    summary = train(e, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, 3)
        train(e, tmp_path / "killed")
    assert [row["step"] for row in numbers(tmp_path / "killed")] == [1, 2, 3], "one more than the checkpoint"
    again = train(e, tmp_path / "killed")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    _, (step, state, *_) = last_state(e, tmp_path / "whole")
    _, (_, continued, *_) = last_state(e, tmp_path / "killed")
    assert step == 5
    jax.tree.map(np.testing.assert_array_equal, state, continued)
    for name in ("questions", "dropped", "steps", "sampled_tokens", "teacher_tokens"):
        assert again.get(name) == summary.get(name)
    texts = [sorted((folder / "trajectories").glob("*")) for folder in (tmp_path / "whole", tmp_path / "killed")]
    assert [path.read_text() for path in texts[0]] == [path.read_text() for path in texts[1]]
    assert len(texts[0]) == (0 if kind == "sft" else 3)
    if kind != "sft":
        fresh = [row for row in numbers(tmp_path / "whole") if not row.get("staleness")]
        assert all(row["sampler_gap"] < 1e-4 for row in fresh), "sampler and scorer agree"
    if kind == "ema":
        assert [row["staleness"] for row in numbers(tmp_path / "killed")] == [0, 1, 1, 1, 1]
    if kind == "sft":
        assert state.teacher is None, "SFT keeps no second copy of the weights"


def test_a_run_that_was_killed_while_it_was_measured_is_measured_and_then_left_alone(one_device, tmp_path, monkeypatch):
    e = experiment(objective="sft", train__row_length=128, train__rows=8, train__steps=1, evaluation__splits=("eval",))

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(evaluate, "evaluate_model", killed)
        train(e, tmp_path)
    summary = train(e, tmp_path)
    assert summary["steps"] == 1
    assert set(summary["evaluation"]["results"]) == {"eval_sampled", "eval_greedy"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(models, "load", killed)
    assert train(e, tmp_path) == summary
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(ValueError, match="config.train.steps was 1, is 2"):
        train(experiment(objective="sft", train__row_length=128, train__rows=8, train__steps=2), tmp_path)


def test_a_run_is_measured_on_its_way_once_a_step_and_an_older_checkpoint_can_be_exported(
    one_device, tmp_path, monkeypatch
):
    changes = {"evaluation__every": 2, "evaluation__splits": ("eval",), "evaluation__limit": 4, "train__keep_every": 2}
    e = experiment(**{**SHORT, **RUNS["sft"], "train__steps": 9, **changes})
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, 5)
        train(e, tmp_path)
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert list(curve) == ["0", "2", "4"]
    # As if it had been killed before it had measured step 4.
    (tmp_path / "curve.json").write_text(json.dumps({step: curve[step] for step in "02"}))
    summary = train(e, tmp_path)
    again = json.loads((tmp_path / "curve.json").read_text())
    assert {step: again[step] for step in curve} == curve and list(again) == ["0", "2", "4", "6", "8"]
    assert set(again["8"]) == set(summary["evaluation"]["results"]) == {"eval_sampled", "eval_greedy"}
    assert "seen_in_training" not in summary["evaluation"], "the splits of the science world share no question"
    assert export.export(e, tmp_path, tmp_path / "peak", step=2) == 2
    loaded = lm.load(tmp_path / "peak", e.model.compute)[1]
    last = lm.load(tmp_path / "model", e.model.compute)[1]
    assert any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (loaded, last)), strict=True))
    learned = frozenset(map(data.question_hash, questions.load(e.data, "train")))
    assert questions.trained_on(tmp_path / "peak") == questions.trained_on(tmp_path / "model") == learned
    with pytest.raises(ValueError, match="holds no checkpoint of step 3"):
        export.export(e, tmp_path, tmp_path / "none", step=3)


@pytest.mark.parametrize("kind", ["sft", "ema"])
def test_a_run_that_is_asked_to_end_saves_its_step_and_goes_on_when_started_again(
    kind, one_device, tmp_path, monkeypatch
):
    e = experiment(**{**SHORT, **RUNS[kind], "train__checkpoint_every": 50})
    train(e, tmp_path / "whole")
    run = tmp_path / "run"

    def ask(step, batch, look):
        if step == 1:
            (run / "STOP").touch()
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch, look

    meddle(monkeypatch, ask)
    monkeypatch.setattr(ending, "_LOOK_SECONDS", 0.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ending.listen()
        with pytest.raises(ending.Ended, match="step 2 is saved.*STOP was there: remove it") as stopped:
            train(e, run)
        with pytest.raises(ValueError, match="STOP is there: remove it, and the same command goes on"):
            train(e, run)
        (run / "STOP").unlink()
        with pytest.raises(ending.Ended, match="step 4 is saved; the same command goes on") as preempted:
            train(e, run)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (stopped.value.code, preempted.value.code) == (0, 85)
    train(e, run)
    assert numbers(run) == numbers(tmp_path / "whole")
    states = [last_state(e, folder)[1].state for folder in (run, tmp_path / "whole")]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_steps_that_are_not_finite_are_skipped_and_then_stop_the_run(one_device, tmp_path, monkeypatch):
    e = experiment(**SHORT, train__max_skipped=2)

    def poison(step, batch, look):
        return (batch.replace(teacher_hidden_BCD=batch.teacher_hidden_BCD * jnp.nan) if step else batch), look

    meddle(monkeypatch, poison)
    (tmp_path / "trajectories").write_text("")  # what cannot be written for people to read does not stop a run
    with pytest.raises(Diverged, match="2 steps in a row up to step 3.*config.optimizer.learning_rate"):
        train(e, tmp_path)
    dump = json.loads((tmp_path / "diverged.json").read_text())
    assert dump["step"] == 3 and math.isnan(dump["numbers"]["loss"])
    assert len(dump["questions"]) == e.train.questions
    assert [row["skipped"] for row in numbers(tmp_path)] == [0, 1, 2]
    assert not (tmp_path / "done.json").exists()
    _, (step, state, *_) = last_state(e, tmp_path)
    assert (step, state.skipped) == (2, 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.variables, state.opt_state)))


def test_the_exported_model_is_the_last_state(one_device, tmp_path):
    e = experiment(**SHORT)
    with pytest.raises(ValueError, match="holds no run"):
        export.export(e, tmp_path / "run", tmp_path / "exported")
    assert not (tmp_path / "run").exists()
    with Workdir(tmp_path / "run", e).held():
        pass
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        export.export(e, tmp_path / "run", tmp_path / "exported")
    train(e, tmp_path / "run")
    model, (_, state, *_) = last_state(e, tmp_path / "run")
    transformer, loaded, tokenizer = lm.load(tmp_path / "run" / "model", e.model.compute)
    jax.tree.map(np.testing.assert_array_equal, loaded, dict(state.variables))
    assert tokenizer.eos_ids == model.tokenizer.eos_ids
    tokens_BT = jnp.arange(24).reshape(2, 12)
    row = tokens_BT, jnp.broadcast_to(jnp.arange(12), (2, 12)), jnp.ones((2, 12), jnp.int32)
    hidden_BTD = model.transformer.apply(state.variables, *row)
    np.testing.assert_array_equal(transformer.apply(loaded, *row), hidden_BTD)
    assert export.export(e, tmp_path / "run", tmp_path / "exported") == 5
    for path in (tmp_path / "run" / "model").iterdir():
        assert (tmp_path / "exported" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="exists: choose another folder"):
        export.export(e, tmp_path / "run", tmp_path / "exported")


def test_nothing_is_compiled_after_the_first_step(one_device, tmp_path, monkeypatch, caplog):
    compiled = {}

    def count(step, batch, look):
        compiled[step] = [r.message for r in caplog.records if r.message.startswith("Compiling")]
        return batch, look

    meddle(monkeypatch, count)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        train(experiment(**{**SHORT, "train__checkpoint_every": 5}), tmp_path)
    assert len(compiled[0]) > 0
    assert compiled[4][len(compiled[1]) :] == []
    ledger = json.loads((tmp_path / "compilations.json").read_text())
    assert [line["name"] for line in ledger] == ["sample", "score", "train_step"]
    assert all(line["seconds"] > 0 for line in ledger)


def test_a_late_compilation_is_said(one_device, tmp_path, monkeypatch, caplog):
    def grow(step, batch, look):
        if step == 4:
            batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
        return batch, look

    meddle(monkeypatch, grow)
    with caplog.at_level(logging.WARNING):
        train(experiment(**SHORT), tmp_path)
    [told] = [record.message for record in caplog.records if "compiled late" in record.message]
    assert "train_step" in told


def test_one_device_equals_eight(tmp_path, monkeypatch):
    e = experiment(**{**SHORT, "train__steps": 2, "model__science__kv_heads": 2, "mesh__data": 2, "mesh__tensor": 2})
    train(e, tmp_path / "eight")
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda _: make_mesh(devices=jax.devices()[:1]))
    train(e, tmp_path / "one")
    one, eight = (lm.load(tmp_path / name / "model", e.model.compute)[1] for name in ("one", "eight"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), one, eight)
    losses = [[row["loss"] for row in numbers(tmp_path / name)] for name in ("one", "eight")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ValueError, match="config.train.questions is 12: .* multiples of 8"):
        train(experiment(train__questions=12), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_adapters_learn_on_a_loaded_model_and_are_merged_into_what_is_exported(one_device, tmp_path):
    train(experiment(**{**SHORT, "train__steps": 1}), tmp_path / "base")
    source = str(tmp_path / "base" / "model")
    lora = {"model__source": source, "model__trainable": "lora", "model__lora__rank": 4, "train__steps": 2}
    e = experiment(**{**SHORT, **lora, "optimizer__learning_rate": 0.01, "optimizer__schedule": "constant"})
    train(e, tmp_path / "adapted")
    model, (_, state, *_) = last_state(e, tmp_path / "adapted")
    base = lm.load(source, e.model.compute)[1]
    assert set(state.variables) == {"lora"} and state.teacher is None, "what is frozen is not written again"
    state = models.whole(state, model)
    merged = lm.load(tmp_path / "adapted" / "model", e.model.compute)[1]["params"]
    expected = lm.merge(state.variables, model.transformer)["params"]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), merged, expected)
    change = np.abs(merged["layers"]["q_proj"]["kernel"] - base["params"]["layers"]["q_proj"]["kernel"])
    assert change.max() > 1e-4


def test_the_config_of_a_run_lies_beside_it(tiny_run):
    stored = json.loads((tiny_run / "rcsd_ground_truth" / "config.json").read_text())
    assert config.read(stored).name == "rcsd_ground_truth"
