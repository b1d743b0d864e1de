"""Whose weights the teacher has, over several updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcsd_jax import lm
from rcsd_jax.learning.teacher import (
    TeacherConfig,
    initial_teacher,
    teacher_head,
    teacher_hidden,
    teacher_variables,
    update_teacher,
)
from rcsd_jax.types import TrainState


def variables(dtype=jnp.float32):
    return {"params": {"kernel": jnp.ones(3, dtype)}, "lora": {"a": jnp.full(2, 5.0)}}


def state_of(config, trainable, start=None):
    start = start or variables()
    teacher = initial_teacher(config, start, trainable)
    return TrainState(0, start, None, teacher, 0, 0, trainable=trainable)


def run(config, student_of_update, updates, trainable="params", dtype=jnp.float32):
    """The state after so many updates in which the student's weights became ``student_of_update(number)``."""
    state = state_of(config, trainable, variables(dtype))
    for number in range(1, updates + 1):
        student = jax.tree.map(lambda x, n=number: jnp.full_like(x, student_of_update(n)), state.variables[trainable])
        teacher = update_teacher(config, state.teacher, student, jnp.int32(number))
        state = state.replace(variables={**state.variables, trainable: student}, teacher=teacher)
    return state


def test_base_of_full_training_is_a_frozen_copy_of_the_start():
    config = TeacherConfig("base")
    state = run(config, lambda n: 10.0 * n, 3)
    assert (teacher_variables(config, state)["params"]["kernel"] == 1).all()
    assert (state.variables["params"]["kernel"] == 30).all()


def test_base_of_adapters_is_the_adapter_off_and_keeps_nothing():
    config = TeacherConfig("base")
    state = state_of(config, "lora")
    assert state.teacher is None and set(teacher_variables(config, state)) == {"params"}


@pytest.mark.parametrize("trainable", ["params", "lora"])
def test_live_is_the_student_itself(trainable):
    config = TeacherConfig("live")
    state = run(config, lambda n: 10.0 * n, 2, trainable)
    assert state.teacher is None and teacher_variables(config, state) is state.variables


@pytest.mark.parametrize(("trainable", "leaf", "start"), [("params", "kernel", 1.0), ("lora", "a", 5.0)])
def test_ema_follows_its_formula(trainable, leaf, start):
    config = TeacherConfig("ema", ema_decay=0.9)
    expected = start
    for number in range(1, 4):
        expected = 0.9 * expected + 0.1 * 10 * number
    state = run(config, lambda n: 10.0 * n, 3, trainable)
    np.testing.assert_allclose(teacher_variables(config, state)[trainable][leaf], expected, rtol=1e-6)
    other = "lora" if trainable == "params" else "params"
    assert teacher_variables(config, state)[other] is state.variables[other]


def test_ema_of_bfloat16_weights_moves_although_a_step_is_below_their_rounding():
    config = TeacherConfig("ema", ema_decay=0.999)
    state = run(config, lambda _: 2.0, 20, dtype=jnp.bfloat16)
    np.testing.assert_allclose(state.teacher["kernel"], 2 - 0.999**20, rtol=1e-5)
    assert teacher_variables(config, state)["params"]["kernel"].dtype == jnp.bfloat16


def test_snapshot_is_the_student_of_the_last_multiple_of_its_period():
    config = TeacherConfig("snapshot", snapshot_every=3)
    seen = [run(config, float, n).teacher["kernel"][0] for n in range(8)]
    assert seen == [1, 1, 1, 3, 3, 3, 6, 6]


def test_the_first_teacher_shares_no_buffer_with_the_student():
    start = variables()
    for name in ("base", "ema", "snapshot"):
        copy = initial_teacher(TeacherConfig(name), start, "params")["kernel"]
        assert copy.unsafe_buffer_pointer() != start["params"]["kernel"].unsafe_buffer_pointer()


@pytest.mark.parametrize("trainable", ["params", "lora"])
def test_a_trust_region_predicts_the_normalised_geometric_mean_of_base_and_student(trainable):
    config = TeacherConfig("trust_region", live_share=0.25)
    architecture = lm.Architecture("llama", 6, width=4, layers=1, heads=1, kv_heads=1, head_width=4, mlp_width=4)
    rng = np.random.default_rng(0)
    hidden_of = {"base": rng.normal(size=(3, 4)), "live": rng.normal(size=(3, 4))}
    heads = {"base": rng.normal(size=(6, 4)), "live": rng.normal(size=(6, 4))}
    base, live = ({"params": {"embed": {"embedding": jnp.asarray(heads[name])}}} for name in ("base", "live"))
    if trainable == "lora":
        heads["live"], live = heads["base"], base | {"lora": {"a": jnp.ones(2)}}
        teacher, start = None, base | {"lora": {"a": jnp.zeros(2)}}
    else:
        teacher, start = base["params"], base
    assert (initial_teacher(config, start, trainable) is None) == (teacher is None)
    state = TrainState(0, live, None, teacher, 0, 0, trainable=trainable)
    hidden = teacher_hidden(
        config, state, lambda variables: jnp.asarray(hidden_of["live" if variables is state.variables else "base"])
    )
    logits = hidden @ teacher_head(config, state, architecture, 6).T
    logp = {name: jax.nn.log_softmax(hidden_of[name] @ heads[name].T) for name in ("base", "live")}
    mean = np.exp(0.75 * logp["base"] + 0.25 * logp["live"])
    np.testing.assert_allclose(jax.nn.softmax(logits), mean / mean.sum(-1, keepdims=True), rtol=1e-4)
    assert update_teacher(config, teacher, live[trainable], jnp.int32(1)) is teacher, "the base stays"


@pytest.mark.parametrize("rows", [4, 6, 9])
def test_a_separate_teacher_keeps_its_weights_and_gets_as_many_rows_as_the_student_has(rows):
    config = TeacherConfig("separate")
    assert initial_teacher(config, variables(), "params") is None
    head_VD = jnp.arange(12.0).reshape(6, 2)
    state = state_of(config, "params").replace(teacher={"lm_head": {"kernel": head_VD}})
    architecture = lm.Architecture("llama", 6, width=2, layers=1, heads=1, kv_heads=1, head_width=2, mlp_width=2)
    architecture = dataclasses.replace(architecture, tied=False)
    found_VD = teacher_head(config, state, architecture, rows)
    assert found_VD.shape == (rows, 2) and (found_VD[:4] == head_VD[:4]).all()
    assert teacher_variables(config, state)["params"] is state.teacher
    assert update_teacher(config, state.teacher, variables()["params"], jnp.int32(1)) is state.teacher


@pytest.mark.parametrize(
    "options", [{"kind": "old"}, {"ema_decay": 1.0}, {"ema_decay": -0.1}, {"snapshot_every": 0}, {"live_share": 1.0}]
)
def test_a_wrong_config_is_refused_with_the_cure(options):
    with pytest.raises(ValueError, match="use"):
        TeacherConfig(**options)
