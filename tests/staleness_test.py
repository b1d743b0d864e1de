"""Rollouts that are sampled a step ahead: what is computed, what is corrected, and that judge and devices overlap."""

import dataclasses
import functools
import itertools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from config_test import errors_of
from grpo_train_test import GRPO
from judged_train_test import verdict
from loopback_judge import LoopbackJudge
from tiny_pipeline import experiment
from train_test import Killed, kill_at, last_state, meddle, numbers

from rcsd_jax import config, ending, learning, lm, metrics, models, questions, sharding, train
from rcsd_jax.collector import Collector
from rcsd_jax.types import PromptBatch, Rollout, ScoredBatch, TrainState

LONG = {
    "train__steps": 7,
    "train__checkpoint_every": 3,
    "train__staleness": 1,
    "divergence__importance": "prefix",
    "divergence__importance_cap": 2.0,
    "optimizer__learning_rate": 0.01,
    "optimizer__schedule": "constant",
    "optimizer__warmup_steps": 0,
    "evaluation__splits": (),
    "data__limit": 20,
}
RUNS = {
    "synchronous": {"train__steps": 4, "train__staleness": 0},
    "a step ahead": {},
    "two updates": {
        "objective": "distill_sampled",
        "divergence__importance_cap": None,
        "train__updates_per_rollout": 2,
        "train__checkpoint_every": 4,
        "train__steps": 6,
        "train__completion_lengths": (4, 12),
    },
}
AGES = {"a step ahead": [0, 1, 1, 0, 1, 1, 0], "two updates": [0, 1, 1, 2, 0, 1]}


def run_of(name):
    return experiment(**{**LONG, **RUNS[name]})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nobody disturbed, by name."""
    folder = tmp_path_factory.mktemp("whole")

    def folder_of(name):
        if not (folder / name).exists():
            train.train(run_of(name), folder / name)
        return folder / name

    return folder_of


def one_after_the_other(e):
    """(state, metrics of every step) of a run that copies its weights, and begins nothing before the last is done."""
    mesh = sharding.make_mesh(e.mesh)
    with jax.set_mesh(mesh):
        model = models.of(e, mesh)
        problems = questions.load(e.data, e.data.split)
        collector = Collector(e, model, problems, questions.guidance(e, problems), mesh)
        learn = learning.make_train_step(
            model.transformer,
            learning.OBJECTIVES[e.objective],
            e.loss,
            vocab_limit=model.tokenizer.vocab_limit,
            optimizer=e.optimizer,
            teacher=e.older_weights,
            mesh=mesh,
        )
        state, before, rows = models.initial_state(e, model, mesh), None, []
        for step in range(e.train.steps):
            now = jax.tree.map(jnp.copy, state)
            if step % e.train.updates_per_rollout == 0:
                is_fresh = step % e.train.checkpoint_every == 0 or not e.train.staleness
                begun = collector.begin(now if is_fresh else before, step // e.train.updates_per_rollout)
                batch = jax.block_until_ready(collector.finish(now, jax.block_until_ready(begun)).batch)
            state, found = jax.block_until_ready(learn(state, batch))
            rows.append({name: float(value) for name, value in found.items()})
            before = now
        return state, rows


@pytest.mark.parametrize("name", RUNS)
def test_a_rollout_is_of_the_weights_before_the_last_step_and_behind_a_checkpoint_of_those_of_now(
    name, whole, one_device
):
    e, folder = run_of(name), whole(name)
    state, rows = one_after_the_other(e)
    _, (step, saved, _) = last_state(e, folder)
    assert step == e.train.steps
    jax.tree.map(np.testing.assert_array_equal, saved, models.learned(state))
    ours = numbers(folder)
    assert [{key: row[key] for key in found} for row, found in zip(ours, rows, strict=True)] == rows
    if name == "synchronous":
        assert not any("staleness" in row for row in ours)
        return
    assert [row["staleness"] for row in ours] == AGES[name]
    gap = "policy_gap" if name == "two updates" else "sampler_gap"
    assert all((row[gap] > 1e-3) == (row["staleness"] > 0) for row in ours), "older weights think otherwise"


def test_metrics_say_what_older_samples_count_for_and_nothing_is_compiled_twice(whole, one_device):
    folder = whole("a step ahead")
    for row in numbers(folder):
        assert (abs(row["prefix_importance"] - 1) > 1e-4) == (row["staleness"] > 0) and row["prefix_importance"] <= 2
    ledger = json.loads((folder / "compilations.json").read_text())
    assert [line["name"] for line in ledger] == ["sample", "score", "train_step"]


def test_a_killed_run_continues_to_the_very_bits_of_one_that_was_not(whole, one_device, tmp_path, monkeypatch):
    e = run_of("a step ahead")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, 4)
        train.train(e, tmp_path)
    assert len(numbers(tmp_path)) == 4, "one more than the checkpoint, and the next rollout was under way"
    train.train(e, tmp_path)
    same(tmp_path, whole("a step ahead"))


def same(folder, other):
    assert numbers(folder) == numbers(other)
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (folder, other)]
    assert weights[0] == weights[1]
    texts = [[path.read_text() for path in sorted((path / "trajectories").glob("*"))] for path in (folder, other)]
    assert texts[0] == texts[1] and texts[0]


def test_a_run_that_is_asked_to_end_goes_on_to_its_next_checkpoint(whole, one_device, tmp_path, monkeypatch):
    e = run_of("a step ahead")

    def ask(step, batch, look):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch, look

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ending.listen()
        with monkeypatch.context() as patched, pytest.raises(ending.Ended, match="step 6 is saved"):
            meddle(patched, ask)
            train.train(e, tmp_path)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    train.train(e, tmp_path)
    same(tmp_path, whole("a step ahead"))


def test_a_judge_is_asked_while_the_devices_learn_and_sample(one_device, tmp_path, monkeypatch):
    """No reply comes before the devices are done with the rollout that is sampled ahead and with the step before."""
    events, sampled, learned = [], [], []

    def note(event):
        if events[-1:] != [event]:
            events.append(event)

    begin, make, write = Collector.begin, learning.make_train_step, metrics.MetricsWriter.write

    def spied_begin(self, state, t):
        note(f"sample {t}")
        sampled.append(begin(self, state, t).rollout)
        return begin(self, state, t)

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
        note(f"judge {len(learned)}, devices done with rollout {len(sampled) - 1}")
        return verdict(prompt, n)

    monkeypatch.setattr(Collector, "begin", spied_begin)
    monkeypatch.setattr(learning, "make_train_step", spied_make)
    monkeypatch.setattr(metrics.MetricsWriter, "write", spied_write)
    with LoopbackJudge(answer) as server:
        e = experiment(
            **{**GRPO, "train__updates_per_rollout": 1, "train__steps": 4, "train__checkpoint_every": 4},
            train__staleness=1,
            reward__kind="rubric",
            reward__judge="endpoint",
            reward__max_failed=0.6,
            reward__endpoint__url=server.url,
            reward__endpoint__model="m",
            reward__endpoint__retries=0,
            reward__endpoint__cache=str(tmp_path / "judgements.jsonl"),
        )
        train.train(e, tmp_path / "run")
    assert events == [
        *("sample 0", "sample 1", "judge 0, devices done with rollout 1", "learn 0"),
        *("sample 2", "judge 1, devices done with rollout 2", "learn 1", "read 0"),
        *("sample 3", "judge 2, devices done with rollout 3", "learn 2", "read 1"),
        *("judge 3, devices done with rollout 3", "learn 3", "read 2", "read 3"),
    ]
    rows = numbers(tmp_path / "run")
    assert [row["staleness"] for row in rows] == [0, 1, 1, 1]
    assert abs(rows[0]["importance"] - 1) < 1e-3 < abs(rows[1]["importance"] - 1), "that of the sampler's weights"
    assert all(abs(row["ratio"] - 1) < 1e-4 for row in rows), "the clips are about the weights of now"


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


@pytest.mark.parametrize("objective", ["grpo", "distill_sampled"])
def test_the_ratio_gives_a_token_of_older_weights_the_gradient_of_a_new_one(objective):
    then, now, _ = weights()
    new, older = batch_of(now, 1), batch_of(then, 1)
    if objective == "distill_sampled":
        new, older = (dataclasses.replace(batch, advantage_B=None) for batch in (new, older))
    wide = learning.PolicyConfig(clip_low=1.0, clip_high=1e9, importance_cap=1e9)
    loss = learning.LossConfig(policy=wide)
    wanted = gradient(objective, new, loss)
    assert distance(gradient(objective, older, loss), wanted) < 1e-5
    taken_for_new = dataclasses.replace(older, rollout=new.rollout)
    assert distance(gradient(objective, taken_for_new, loss), wanted) > 0.1
    if objective == "grpo":  # clipped about the weights of now
        decoupled = dataclasses.replace(older, old_logp_BC=logp_of(now, older.rollout))
        assert distance(gradient(objective, decoupled, loss), wanted) < 1e-5


# The door


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "config.divergence.importance 'prefix' and a config.divergence.importance_cap such as 2.0"),
        ({"divergence.importance_cap": 2.0}, "config.divergence.importance 'prefix'"),
        ({"objective": "distill_grpo", "train.samples": 2}, "config.divergence.importance 'prefix'"),
        ({"objective": "sft"}, "objective 'sft' has no correction for samples of older weights, use 0"),
        ({"objective": "best_of_n", "train.samples": 2}, "objective 'best_of_n' has no correction"),
        ({"objective": "grpo", "train.samples": 2, "train.checkpoint_every": 1}, "save less often"),
        ({"objective": "grpo", "train.samples": 2, "train.staleness": 2}, "give at least 0, at most 1"),
    ],
)
def test_what_does_not_go_with_older_weights_is_refused_with_the_cure(changes, says):
    [error] = errors_of({"train.staleness": 1, **changes})
    assert "config.train.staleness is" in error and says in error


def test_a_weight_that_an_objective_does_not_read_is_refused():
    [error] = errors_of({"objective": "distill_grpo", "train.samples": 2, "divergence.importance_cap": 2.0})
    assert "config.divergence.importance 'prefix'" in error


def test_how_often_to_save_is_part_of_a_run_whose_rollouts_are_sampled_ahead():
    def hash_of(**values):
        return config.content_hash(config.read({"objective": "distill_sampled", "train": values}))

    assert hash_of(checkpoint_every=5) == hash_of()
    assert hash_of(staleness=1, checkpoint_every=5) != hash_of(staleness=1)
    assert hash_of(staleness=1, keep_every=50) == hash_of(staleness=1)
