"""Rollouts that are sampled a step ahead: what is computed, what is corrected, and that judge and devices overlap."""

import dataclasses
import functools
import itertools
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from config_test import errors_of
from grpo_train_test import GRPO
from judged_train_test import verdict
from loopback_judge import LoopbackJudge
from policy_test import loss_and_gradient, rows_of
from tiny_pipeline import experiment
from train_test import meddle, numbers

from rcsd_jax import compilations, ending, learning, lm, metrics, models, questions, sharding, sources, train
from rcsd_jax.collector import Collector
from rcsd_jax.types import PromptBatch, Rollout, ScoredBatch, TrainState

AHEAD = {
    "train__staleness": 1,
    "divergence__importance": "prefix",
    "divergence__importance_cap": 2.0,
}
E = experiment(
    **AHEAD,
    train__steps=7,
    train__checkpoint_every=3,
    train__completion_lengths=(4, 12),
    optimizer__learning_rate=0.01,
    optimizer__schedule="constant",
    optimizer__warmup_steps=0,
    evaluation__splits=(),
    data__limit=20,
)
# Changes of the loop, and how old the samples of each step are.
LOOPS = {
    "synchronous": ({"staleness": 0}, [0] * 7),
    "a step ahead": ({}, [0, 1, 1, 1, 1, 1, 1]),
    "several updates": ({"updates_per_rollout": 2, "steps": 8}, [0, 1, 1, 2, 1, 2, 1, 2]),
}


class Parts(NamedTuple):
    """What a run is made of, compiled once for all loops."""

    collector: Collector
    learn: Callable
    first: Callable
    mesh: Any


@pytest.fixture(scope="module")
def parts():
    mesh = sharding.make_mesh(E.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        model = models.of(E, mesh)
        problems = questions.load(E.data, E.data.split)
        collector = Collector(E, model, problems, questions.guidance(E, problems), mesh)
        learn = learning.make_train_step(
            model.transformer,
            learning.OBJECTIVES[E.objective],
            E.loss,
            vocab_limit=model.tokenizer.vocab_limit,
            optimizer=E.optimizer,
            teacher=E.older_weights,
            mesh=mesh,
        )
        first = models.initial_state(E, model, mesh)
        return Parts(collector, learn, lambda: jax.tree.map(jnp.copy, first), mesh)


def one_after_the_other(parts, loop):
    """The state before every step and its metrics: weights are copied, and nothing begins before the last is done."""
    state, states, rows = parts.first(), [], []
    with jax.set_mesh(parts.mesh):
        for step in range(loop.steps):
            states.append(jax.tree.map(jnp.copy, state))
            if step % loop.updates_per_rollout == 0:
                is_fresh = step == 0 or not loop.staleness
                begun = parts.collector.begin(states[-1 if is_fresh else -2], step // loop.updates_per_rollout)
                batch = jax.block_until_ready(parts.collector.finish(states[-1], jax.block_until_ready(begun)).batch)
            state, found = jax.block_until_ready(parts.learn(state, batch))
            rows.append({name: float(value) for name, value in found.items()})
        return [*states, state], rows


def in_turns(parts, loop, state, start=0, ahead=None):
    """(state, metrics, ages, what lies ahead of every step) of a run from a state on, which nobody waits for."""
    rows, ages, aheads, turns = [], [], [], sources.Turns(parts.collector, loop)
    with jax.set_mesh(parts.mesh):
        turns.resume(start, ahead or {})
        for step in range(start, loop.steps):
            aheads.append(turns.ahead())
            batch, _, age = turns(state, step)
            state, found = parts.learn(state, batch)
            rows, ages = [*rows, found], [*ages, age]
    return state, [{name: float(value) for name, value in row.items()} for row in rows], ages, aheads


@pytest.mark.parametrize("name", LOOPS)
def test_a_rollout_is_of_the_weights_before_the_last_step_also_where_a_run_goes_on(name, parts):
    changes, expected = LOOPS[name]
    loop = dataclasses.replace(E.train, **changes)
    states, rows = one_after_the_other(parts, loop)
    state, ours, ages, aheads = in_turns(parts, loop, parts.first())
    assert ours == rows and ages == expected
    jax.tree.map(np.testing.assert_array_equal, state, states[-1])
    for row, age in zip(rows, ages, strict=True):
        assert (row["sampler_gap"] > 1e-3) == (abs(row["prefix_importance"] - 1) > 1e-4) == (age > 0)
    compiled = len(compilations.ledger())
    for start in range(0, loop.steps, loop.updates_per_rollout):  # killed, and begun again with what is saved there
        state = jax.tree.map(jnp.copy, states[start])
        state, ours, again, _ = in_turns(parts, loop, state, start, aheads[start])
        assert (ours, again) == (rows[start:], ages[start:])
        jax.tree.map(np.testing.assert_array_equal, state, states[-1])
    assert len(compilations.ledger()) == compiled


def test_a_judge_is_asked_while_the_devices_learn_and_sample_and_a_run_ends_where_it_is_asked(
    one_device, tmp_path, monkeypatch
):
    """No verdict comes before the devices are done with the rollout that is sampled ahead and with the step before."""
    events, sampled, learned, compiled = [], [], [], len(compilations.ledger())
    begin, make, write = Collector.begin, learning.make_train_step, metrics.MetricsWriter.write

    def note(event):
        if events[-1:] != [event]:
            events.append(event)

    def spied_begin(self, state, t):
        note(f"sample {t}")
        begun = begin(self, state, t)
        sampled.append(begun.rollout)
        return begun

    def spied_make(*arguments, **options):
        step = make(*arguments, **options)

        def spied(state, batch):
            note(f"learn {len(learned)}")
            state, found = step(state, batch)
            learned.append(found)
            return state, found

        return spied

    def spied_write(self, step, row):
        note(f"read {step - 1}")
        return write(self, step, row)

    def answer(prompt, n):
        jax.block_until_ready((sampled, learned))
        note(f"judge {len(learned)}, rollout {len(sampled) - 1} is sampled")
        return verdict(prompt, n)

    def ask_to_end(step, batch, look):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch, look

    monkeypatch.setattr(Collector, "begin", spied_begin)
    monkeypatch.setattr(learning, "make_train_step", spied_make)
    monkeypatch.setattr(metrics.MetricsWriter, "write", spied_write)
    meddle(monkeypatch, ask_to_end)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with LoopbackJudge(answer) as server, pytest.raises(ending.Ended, match="step 3 is saved"):
        e = experiment(
            **{**GRPO, "train__updates_per_rollout": 1, "train__steps": 8, "train__checkpoint_every": 4},
            train__staleness=1,
            reward__kind="rubric",
            reward__judge="endpoint",
            reward__max_failed=0.6,
            reward__endpoint__url=server.url,
            reward__endpoint__model="m",
            reward__endpoint__retries=0,
            reward__endpoint__cache=str(tmp_path / "judgements.jsonl"),
        )
        try:
            ending.listen()
            train.train(e, tmp_path / "run")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    assert events == [
        *("sample 0", "sample 1", "judge 0, rollout 1 is sampled", "learn 0"),
        *("sample 2", "judge 1, rollout 2 is sampled", "learn 1", "read 0"),
        *("sample 3", "judge 2, rollout 3 is sampled", "learn 2", "read 1", "read 2"),
    ]
    rows = numbers(tmp_path / "run")
    assert [row["staleness"] for row in rows] == [0, 1, 1]
    assert abs(rows[0]["importance"] - 1) < 1e-3 < abs(rows[1]["importance"] - 1), "of the weights that have sampled"
    assert all(abs(row["ratio"] - 1) < 1e-4 for row in rows), "the clips are about the weights of now"
    names = [line.name for line in compilations.ledger()[compiled:]]
    assert names == ["sample", "logp", "logp", "train_step"], "nothing is compiled twice"


# The correction, on all completions of three tokens


V, C = 3, 3
TINY = lm.Transformer(
    lm.Architecture(
        family="llama", vocab_size=V, width=8, layers=1, heads=1, kv_heads=1, head_width=4, mlp_width=8, tied=False
    ),
    lm.Compute(),
)
LOGP = learning.make_logp_step(TINY, learning.TeacherConfig("live"), temperature=1.0, vocab_limit=V)


@functools.cache
def weights():
    """Those that have sampled, those of now, and the teacher's."""
    init = jax.jit(lm.init, static_argnums=0)
    return [init(TINY, jax.random.key(seed)) for seed in range(3)]


def logp_of(variables, rollout):
    return LOGP(TrainState(0, variables, None, None, 0, 0), rollout)


@functools.partial(jax.jit, static_argnums=1)
def batch_of(variables, tokens):
    """All completions of so many tokens, each counted as often as ``variables`` sample it."""
    completion_BC = jnp.array(list(itertools.product(range(V), repeat=tokens)), jnp.int32)
    B = len(completion_BC)
    here_BC, zeros_B = jnp.ones((B, tokens), bool), jnp.zeros(B, jnp.int32)
    prompts = PromptBatch(jnp.array([[0, 2]]), jnp.ones((1, 2), bool))
    nothing_BC = jnp.zeros((B, tokens))
    rollout = Rollout(
        prompts, completion_BC, here_BC, nothing_BC, nothing_BC, nothing_BC, zeros_B, zeros_B[:1], jnp.arange(B)
    )
    logp_BC = logp_of(variables, rollout)
    rollout = dataclasses.replace(rollout, logp_BC=logp_BC, tempered_logp_BC=logp_BC, sampling_logp_BC=logp_BC)
    weight_BC = jnp.broadcast_to(jnp.exp(jnp.sum(logp_BC, axis=1, keepdims=True)), logp_BC.shape)
    hidden = lm.hidden_of_completion(TINY, weights()[2], prompts, completion_BC, here_BC, shared=True)
    return ScoredBatch(rollout, weight_BC, hidden, jnp.asarray(np.random.default_rng(0).normal(size=B), jnp.float32))


@functools.partial(jax.jit, static_argnums=(0, 2))
def gradient(objective, batch, loss):
    """By the LM head, which every token reads."""
    _, now, teacher = weights()
    given = learning.Given(TINY, loss, V, teacher_head_VD=lm.head_VD(teacher, TINY.architecture))

    def total(head):
        return learning.OBJECTIVES[objective]({"params": {**now["params"], "lm_head": head}}, batch, given)[0]

    return jax.grad(total)(now["params"]["lm_head"])["kernel"]


def distance(left, right):
    """Of two gradients, next to the size of the second."""
    return float(jnp.linalg.norm(left - right) / jnp.linalg.norm(right))


def test_weighted_with_their_prefixes_older_samples_give_the_gradient_of_new_ones():
    def loss(cap=None, importance="token"):
        divergence = learning.DivergenceConfig(importance_cap=cap, importance=importance)
        return learning.LossConfig(divergence, learning.PolicyConfig(reward_coefficient=0.0))

    then, now, _ = weights()
    wanted, older = gradient("distill", batch_of(now, C), loss()), batch_of(then, C)
    plain = gradient("distill", older, loss())
    assert distance(plain, wanted) > 0.1
    by_token = gradient("distill", older, loss(1e9))
    assert distance(by_token, plain) < 1e-5, "the odds of the token itself have the mean 1 and correct nothing"
    for objective in ("distill", "distill_grpo"):
        assert distance(gradient(objective, older, loss(1e9, "prefix")), wanted) < 1e-5


def test_the_ratio_gives_a_token_of_older_weights_the_gradient_of_a_new_one():
    p_then, p_now = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    advantage, tokens, logits = np.array([1.0, -2.0, 0.5]), np.arange(3), np.log([p_now] * 3)
    wanted = (p_now * advantage) @ (p_now - np.eye(3))  # the mean of -A grad log p over samples of now
    wide = learning.PolicyConfig(clip_low=1.0, clip_high=1e9)
    sampled = jnp.asarray(p_then, jnp.float32)  # each token as often as the older weights sample it
    for then, correction in ((p_then, None), (p_now, p_now / p_then)):  # the ratio, or clipped about the weights of now
        rows = rows_of(tokens, advantage, np.log(then), correction=correction)
        gradient_UV = loss_and_gradient(logits, rows, wide, weight_U=sampled)[1]
        np.testing.assert_allclose(gradient_UV.sum(axis=0), wanted, atol=1e-6)
    taken_for_new = loss_and_gradient(logits, rows_of(tokens, advantage, np.log(p_now)), wide, weight_U=sampled)[1]
    assert np.abs(taken_for_new.sum(axis=0) - wanted).max() > 0.1


# The door


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "config.divergence.importance 'prefix' and a config.divergence.importance_cap such as 2.0"),
        ({"divergence.importance_cap": 2.0}, "config.divergence.importance 'prefix'"),
        ({"objective": "distill_grpo", "train.samples": 2}, "config.divergence.importance 'prefix'"),
        ({"objective": "sft"}, "objective 'sft' has no correction for samples of older weights, use 0"),
        ({"objective": "best_of_n", "train.samples": 2}, "objective 'best_of_n' has no correction"),
        ({"objective": "grpo", "train.samples": 2, "train.staleness": 2}, "give at least 0, at most 1"),
    ],
)
def test_what_does_not_go_with_older_weights_is_refused_with_the_cure(changes, says):
    [error] = errors_of({"train.staleness": 1, **changes})
    assert "config.train.staleness is" in error and says in error


def test_a_weight_that_an_objective_does_not_read_is_refused():
    [error] = errors_of({"objective": "distill_grpo", "train.samples": 2, "divergence.importance_cap": 2.0})
    assert "config.divergence.importance 'prefix'" in error
