"""The benchmarks: what they count is what XLA counts, and their plumbing holds. Nothing is said about time."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import growth, ours, page, run, work
from benchmarks.case import Case, Model
from benchmarks.rows import SUITES, Row
from rcsd_jax import learning

# Wide enough that the products outweigh the elementwise operations that XLA counts too; attention in one chunk.
WIDE = Model("llama", vocab_size=1024, width=256, layers=2, heads=4, kv_heads=2, head_width=64, mlp_width=1024)
CASE = Case(WIDE, questions=2, samples=2, prompt=32, teacher_prompt=48, completion=32, dtype="float32", remat="none")


def lowered(case: Case):
    """XLA's operations in the score and the train step; unrolled, since it counts the body of a loop once."""
    transformer = ours.transformer_of(case)
    transformer = transformer.clone(compute=dataclasses.replace(transformer.compute, scan_layers=False))
    teacher = learning.TeacherConfig("live")
    score, train = ours.steps_of(case, transformer, teacher)
    state = jax.eval_shape(lambda: ours.state_of(case, transformer, teacher))
    prompts = case.teacher_prompt
    inputs = jax.eval_shape(lambda: ours.score_inputs(ours.rollout_of(case), ours.prompts_of(case, prompts)))
    batch = jax.eval_shape(score, state, *inputs)
    scored = score.lower(state, *inputs).cost_analysis()["flops"]
    return scored, train.lower(state, batch).cost_analysis()["flops"]


def test_counted_operations_are_those_that_xla_counts():
    scored, trained = lowered(CASE)
    assert work.total_flops(work.score(CASE)) == pytest.approx(scored, rel=0.03)
    assert work.total_flops(work.train(CASE)) == pytest.approx(trained, rel=0.05)


def test_decoding_reads_every_weight_and_the_cache_once_a_step():
    steps = work.sample(CASE)
    assert len(steps) == CASE.completion
    weights = 4 * (WIDE.layer_weights + WIDE.head_weights)
    cache = 4 * 2 * WIDE.layers * WIDE.kv_heads * WIDE.head_width
    # The last step reads the prompts once and all but the last two tokens of every row, and writes one more.
    assert steps[-1].bytes == weights + cache * (2 * 32 + 4 * 31)


def test_a_bound_is_the_slower_of_arithmetic_and_memory():
    rates = {"float32": 10.0, "read": 5.0, "disk": 1.0}
    assert work.Work(flops=100, bytes=5, dtype="float32").seconds(rates) == 10
    assert work.Work(flops=100, bytes=100, dtype="float32").seconds(rates) == 20


@pytest.mark.parametrize("suite", SUITES)
def test_every_row_has_a_task_of_ours_and_a_name_of_its_own(suite):
    rows = SUITES[suite]()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert {row.side(name)[0] for name in ("ours", *row.variants)} <= ours.TASKS.keys()
        assert set(row.peers) <= set(run.PEERS)
        assert Case.from_json(row.case.to_json()) == row.case


def test_the_chunked_divergence_is_the_naive_one_at_the_benchmarks_sizes():
    case = dataclasses.replace(CASE, model=dataclasses.replace(WIDE, vocab_size=300))
    values = []
    for task in (ours.divergence, ours.divergence_naive):
        recorded = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ours, "discarding", lambda function, recorded=recorded: lambda: recorded.append(function()))
            task(case)()
        values.append(recorded[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), *values)


def test_sides_take_turns_and_a_peer_that_fails_costs_only_its_own_line(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PEERS", ("absent",))
    row = Row("divergence", "head and JSD", "divergence", CASE.tiny(), ("absent",), ("naive",))
    conditions = run.Conditions("cpu", rounds=2, patience=600, pinned=False, logs=tmp_path)
    mine, naive, absent = run.measure(row, row.peers, conditions)
    assert len(mine["s"]) == len(naive["s"]) == 2 and naive["times"]["ours"] > 0
    assert "No such file" in absent["error"]

    record = {"suite": "cpu", "command": "c", "commit": "d", "started": "s", "machine": "m", "cores": "all"}
    rates = {"float32": 1e9, "bfloat16": 1e9, "read": 1e9, "disk": 1e9}
    rows = [run.entry(row, [mine, naive, absent], rates)]
    record |= {"load": [0.5], "noisy": True, "rates": {"ours": rates}, "versions": {"ours": {"jax": "0"}}, "rows": rows}
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    page.save("noisy", record)
    text = (tmp_path / "speed.md").read_text()
    assert "## noisy" in text and "| naive |" in text and "failed: " in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert json.loads((tmp_path / "speed" / "noisy.json").read_text()) == record


def test_a_whole_step_of_the_gpu_suite_runs_at_tiny_sizes():
    [row] = [row.tiny() for row in SUITES["gpu"]() if row.task == "step"]
    assert set(ours.step(row.case)()) == {"sample", "score", "train"}


def test_growth_reads_memory_from_abstract_shapes():
    case = CASE.tiny()
    memory = growth.train_memory(case, devices=2)
    # Weights and two moments, float32, cut in two; a little (norms, counters) lies on both.
    assert memory["state"] == pytest.approx(3 * 4 * case.model.weights / 2, rel=0.05)
    point = growth.Point("rows", 8, memory, growth.step_flops(CASE))
    assert "| rows | 8 |" in growth.section([point])
    growth.draw([point, point._replace(at=16)])
