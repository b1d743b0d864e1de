"""The step: the same numbers however the batch is cut or laid out, and what it must leave alone."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from rcsd_jax import lm, sharding
from rcsd_jax.learning import (
    OBJECTIVES,
    DivergenceConfig,
    Given,
    LossConfig,
    OptimizerConfig,
    TeacherConfig,
    init_state,
    make_score_step,
    make_train_step,
    state_shardings,
)
from rcsd_jax.sharding import MeshConfig
from rcsd_jax.types import FINISHED, PromptBatch, Rollout, ScoredBatch, TokenBatch

QUESTIONS, SAMPLES, PROMPT, TEACHER_PROMPT, COMPLETION = 8, 2, 5, 9, 6
VOCABULARY, LIMIT = 64, 60
MODEL = lm.Transformer(
    lm.Architecture(
        family="llama", vocab_size=VOCABULARY, width=16, layers=2, heads=4, kv_heads=2, head_width=8, mlp_width=32
    )
)
ADAPTED = dataclasses.replace(MODEL, lora=lm.LoraConfig(rank=8, alpha=16, targets=("q", "v", "down")))
OPTIMIZER = OptimizerConfig(learning_rate=2e-3, schedule="linear", total_steps=100)
# Steps take seconds to compile: these two, with the teachers that they have here, serve most tests.
TEACHER_OF = {"distill": "base", "sft": "ema", "grpo": "live"}


def prompts(rng, length):
    sizes = rng.integers(2, length + 1, QUESTIONS)
    return PromptBatch(
        rng.integers(0, LIMIT, (QUESTIONS, length)).astype(np.int32),
        np.arange(length)[None] >= length - sizes[:, None],
    )


def rollout_and_prompts(seed=0):
    """A rollout of ragged completions, teacher prompts, and uneven weights."""
    rng = np.random.default_rng(seed)
    B = QUESTIONS * SAMPLES
    valid = np.arange(COMPLETION)[None] < rng.integers(1, COMPLETION + 1, B)[:, None]
    rollout = Rollout(
        prompts=prompts(rng, PROMPT),
        completion_BC=np.where(valid, rng.integers(0, LIMIT, valid.shape), 0).astype(np.int32),
        valid_BC=valid,
        logp_BC=np.zeros(valid.shape, np.float32),
        tempered_logp_BC=np.zeros(valid.shape, np.float32),
        sampling_logp_BC=np.zeros(valid.shape, np.float32),
        finish_B=np.full(B, FINISHED, np.int32),
        question_G=np.arange(QUESTIONS, dtype=np.int32),
        sample_B=np.tile(np.arange(SAMPLES, dtype=np.int32), QUESTIONS),
    )
    return rollout, prompts(rng, TEACHER_PROMPT), rng.uniform(0.5, 1.5, valid.shape).astype(np.float32)


def scored(seed=0):
    """A batch with a made-up teacher, whose hidden states are noise."""
    rollout, _, weight = rollout_and_prompts(seed)
    hidden = np.random.default_rng(seed + 1).normal(size=(*weight.shape, MODEL.architecture.width))
    return ScoredBatch(rollout, np.where(rollout.valid_BC, weight, 0), hidden.astype(np.float32))


def text(seed=0, rows=8, length=12):
    """Rows of two segments and some padding."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(2, length, (rows, 2)), axis=1)
    column = np.arange(length)[None]
    segments = np.where(column < ends[:, :1], 1, np.where(column < ends[:, 1:], 2, 0)).astype(np.int32)
    positions = np.where(segments == 2, column - ends[:, :1], column).astype(np.int32)
    weight = ((segments > 0) & (positions > 0)).astype(np.float32)
    return TokenBatch(rng.integers(0, LIMIT, (rows, length)).astype(np.int32), positions, segments, weight)


def rewarded(seed=0):
    """A batch with made-up advantages, by a sampler whose probabilities were about the student's."""
    rollout, _, weight = rollout_and_prompts(seed)
    rng = np.random.default_rng(seed + 1)
    tempered = (rng.normal(size=weight.shape) * 0.2 - math.log(LIMIT)).astype(np.float32)
    advantage = rng.normal(size=len(weight)).astype(np.float32)
    rollout = rollout.replace(tempered_logp_BC=tempered)
    return ScoredBatch(rollout, np.where(rollout.valid_BC, weight, 0), advantage_B=advantage)


BATCH_OF = {"distill": scored, "sft": text, "grpo": rewarded}


@functools.cache
def weights(model):
    return jax.device_get(jax.jit(functools.partial(lm.init, model))(jax.random.key(0)))


def start(teacher, *, model=MODEL, trainable="params", mesh=None):
    teacher = TeacherConfig(teacher, ema_decay=0.9)
    return init_state(model, weights(model), trainable=trainable, optimizer=OPTIMIZER, teacher=teacher, mesh=mesh)


@functools.cache
def train_step(objective, teacher=None, *, model=MODEL, micro_batches=1, mesh=None, **config):
    return make_train_step(
        model,
        OBJECTIVES[objective],
        LossConfig(DivergenceConfig(**config)),
        optimizer=OPTIMIZER,
        teacher=TeacherConfig(teacher or TEACHER_OF[objective], ema_decay=0.9),
        vocab_limit=LIMIT,
        micro_batches=micro_batches,
        mesh=mesh,
    )


def after(steps, state, step, batch):
    for _ in range(steps):
        state, metrics = step(state, batch)
    return jax.device_get(state), {name: float(value) for name, value in metrics.items()}


@functools.cache
def expected(objective):
    """Three steps on one device, in one part."""
    return after(3, start(TEACHER_OF[objective]), train_step(objective), BATCH_OF[objective]())


def assert_as_expected(objective, state, metrics):
    reference, reference_metrics = expected(objective)
    got, wanted = (x.replace(opt_state=None) for x in (state, reference))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), got, wanted)
    assert metrics == pytest.approx(reference_metrics, rel=1e-4)


@pytest.mark.parametrize(("objective", "parts"), [("distill", 4), ("sft", 2), ("grpo", 4)])
def test_any_split_into_micro_batches_gives_the_same_numbers(objective, parts):
    step = train_step(objective, micro_batches=parts)
    assert_as_expected(objective, *after(3, start(TEACHER_OF[objective]), step, BATCH_OF[objective]()))


@pytest.mark.parametrize(
    ("objective", "mesh", "parts"),
    [
        ("distill", MeshConfig(fsdp=8), 1),
        ("distill", MeshConfig(data=2, fsdp=2, tensor=2), 2),
        ("sft", MeshConfig(data=8, fsdp=1), 1),
        ("sft", MeshConfig(data=4, fsdp=1, tensor=2), 1),
    ],
)
def test_eight_devices_give_the_numbers_of_one_and_keep_their_layout(objective, mesh, parts):
    mesh = sharding.make_mesh(mesh)
    state, step = start(TEACHER_OF[objective], mesh=mesh), train_step(objective, mesh=mesh, micro_batches=parts)
    layout = jax.tree.map(lambda x: x.sharding, state)
    batch = jax.device_put(BATCH_OF[objective](), sharding.batch_sharding(mesh))
    state, _ = step(state, batch)
    jax.tree.map(assert_equivalent, state, layout)
    assert_as_expected(objective, *after(2, state, step, batch))


@pytest.mark.parametrize(("model", "trainable"), [(MODEL, "params"), (ADAPTED, "lora")])
def test_moments_and_teacher_lie_where_their_weights_lie(model, trainable):
    mesh = sharding.make_mesh(MeshConfig(fsdp=4, tensor=2))
    state = start("ema", model=model, trainable=trainable, mesh=mesh)
    layout = state_shardings(model, mesh, trainable=trainable, optimizer=OPTIMIZER, teacher=TeacherConfig("ema"))
    jax.tree.map(lambda x, wanted: assert_equivalent(x, wanted), state, layout)
    moments = [tree for tree in jax.tree.leaves(state.opt_state, is_leaf=is_layers) if is_layers(tree)]
    assert len(moments) == 2
    for tree in (*moments, state.teacher):
        jax.tree.map(lambda x, w: assert_equivalent(x, w.sharding), tree, state.variables[trainable])
    kernel = state.variables["params"]["layers"]["q_proj"]["kernel"]
    assert math.prod(kernel.addressable_shards[0].data.shape) == kernel.size // 8


def is_layers(x):
    return isinstance(x, dict) and "layers" in x


def assert_equivalent(x, wanted):
    assert x.sharding.is_equivalent_to(wanted, x.ndim), f"{x.sharding=} {wanted=}"


def test_a_live_teacher_of_equal_context_teaches_exactly_nothing_and_of_another_context_something():
    score, step = make_score_step(MODEL, TeacherConfig("live")), train_step("distill", "live", kind="jsd")
    rollout, teacher_prompts, weight = rollout_and_prompts()
    state = start("live")
    unscored = ScoredBatch(rollout, weight)
    equal, other = score(state, unscored, rollout.prompts), score(state, unscored, teacher_prompts)
    parts = make_score_step(MODEL, TeacherConfig("live"), micro_batches=2)(state, unscored, teacher_prompts)
    np.testing.assert_allclose(parts.teacher_hidden_BCD, other.teacher_hidden_BCD, atol=1e-5)
    np.testing.assert_array_equal(equal.weight_BC, np.where(rollout.valid_BC, weight, 0))
    state, metrics = after(1, state, step, equal)
    assert metrics["divergence"] < 1e-9 and metrics["grad_norm"] < 1e-6
    assert metrics["top1_agreement"] == pytest.approx(1)
    _, metrics = after(1, start("live"), step, other)
    assert metrics["divergence"] > 1e-5


def test_the_base_teacher_of_adapters_is_the_model_without_them():
    state = start("base", model=ADAPTED, trainable="lora")
    lora = jax.tree.map(lambda x: x + 0.1, state.variables["lora"])
    state = state.replace(variables={**state.variables, "lora": lora})
    rollout, teacher_prompts, weight = rollout_and_prompts()
    batch = make_score_step(ADAPTED, TeacherConfig("base"))(state, ScoredBatch(rollout, weight), teacher_prompts)
    plain = lm.hidden_of_completion(
        MODEL,
        {"params": state.variables["params"]},
        teacher_prompts,
        rollout.completion_BC,
        rollout.valid_BC,
        shared=True,
    )
    np.testing.assert_allclose(batch.teacher_hidden_BCD, plain, atol=1e-5)


def test_adapters_learn_and_the_weights_below_them_stay_bitwise():
    state = start("base", model=ADAPTED, trainable="lora")
    before = jax.device_get(state.variables)
    state, metrics = after(2, state, train_step("distill", model=ADAPTED), scored())
    jax.tree.map(np.testing.assert_array_equal, state.variables["params"], before["params"])
    moved = jax.tree.map(lambda new, old: (new != old).any(), state.variables["lora"], before["lora"])
    assert all(jax.tree.leaves(moved)) and metrics["grad_norm"] > 0


def test_the_base_teacher_stays_bitwise_while_all_weights_learn():
    state, _ = expected("distill")
    before = weights(MODEL)["params"]
    jax.tree.map(np.testing.assert_array_equal, state.teacher, before)
    assert all(jax.tree.leaves(jax.tree.map(lambda new, old: (new != old).any(), state.variables["params"], before)))


def test_the_ema_teacher_follows_the_student():
    state = start("ema")
    mean = weights(MODEL)["params"]
    for _ in range(3):
        state, _ = train_step("sft")(state, text())
        mean = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, mean, jax.device_get(state.variables["params"]))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), jax.device_get(state.teacher), mean
    )


def bad(what):
    """An objective and a batch that no step can be taken on."""
    if what == "teacher is nan":
        batch = scored()
        batch.teacher_hidden_BCD[3, 0] = np.nan
        return "distill", batch
    weight = text().weight_BT
    return "sft", text().replace(weight_BT=weight * 0 if what == "nothing counts" else weight * np.float32(1e38))


@pytest.mark.parametrize(
    ("what", "loss"), [("teacher is nan", np.nan), ("sum overflows", np.nan), ("nothing counts", 0.0)]
)
def test_a_step_that_is_not_finite_or_counts_nothing_changes_only_its_counters(what, loss):
    objective, batch = bad(what)
    step, good = train_step(objective), BATCH_OF[objective]()
    state, _ = after(1, start(TEACHER_OF[objective]), step, good)
    kept = state.variables, state.opt_state, state.teacher
    state, metrics = after(2, state, step, batch)
    jax.tree.map(np.testing.assert_array_equal, (state.variables, state.opt_state, state.teacher), kept)
    assert (state.step, state.skipped) == (3, 2)
    assert state.skipped_in_a_row == (0 if what == "nothing counts" else 2), "that is no sign of divergence"
    assert metrics["skipped"] == 2
    np.testing.assert_equal(metrics["loss"], loss)
    state, metrics = after(1, state, step, good)
    assert (state.step, state.skipped, state.skipped_in_a_row) == (4, 2, 0)
    # The skipped steps have not used up the schedule: this is its second update.
    assert metrics["learning_rate"] == pytest.approx(OPTIMIZER.learning_rate * 0.99)


def test_a_spike_is_skipped_where_a_limit_is_set():
    norm = float(after(1, start("base"), train_step("distill"), scored())[1]["grad_norm"])
    for limit, skipped in ((norm * 1.01, 0), (norm * 0.99, 1)):
        optimizer = dataclasses.replace(OPTIMIZER, skip_grad_norm=limit, max_grad_norm=None)
        step = make_train_step(
            MODEL,
            OBJECTIVES["distill"],
            LossConfig(DivergenceConfig()),
            optimizer=optimizer,
            teacher=TeacherConfig("base"),
            vocab_limit=LIMIT,
        )
        state, metrics = after(1, start("base"), step, scored())
        assert (state.step, state.skipped, state.skipped_in_a_row, metrics["skipped"]) == (1, skipped, skipped, skipped)
        pairs = zip(jax.tree.leaves(weights(MODEL)), jax.tree.leaves(state.variables), strict=True)
        assert any(np.any(old != new) for old, new in pairs) == (not skipped)


def test_the_first_state_holds_the_weights_that_it_was_given_and_no_copy():
    mesh = sharding.make_mesh(MeshConfig(fsdp=4, tensor=2))
    how = {"trainable": "params", "optimizer": OPTIMIZER, "teacher": TeacherConfig("base"), "mesh": mesh}
    given = jax.device_put(weights(MODEL), state_shardings(MODEL, **how).variables)
    state = init_state(MODEL, given, **how)

    def places(tree):
        return [shard.data.unsafe_buffer_pointer() for x in jax.tree.leaves(tree) for shard in x.addressable_shards]

    assert places(state.variables) == places(given)
    assert not {*places(state.teacher)} & {*places(given)}, "the base outlives the first step"


def test_a_nan_in_a_token_that_does_not_count_changes_nothing():
    batch = scored()
    hidden = np.where((batch.weight_BC > 0)[..., None], batch.teacher_hidden_BCD, np.nan)
    result = after(3, start("base"), train_step("distill"), batch.replace(teacher_hidden_BCD=hidden))
    assert result[1]["skipped"] == 0
    jax.tree.map(np.testing.assert_array_equal, result, expected("distill"))


@pytest.mark.parametrize("objective", ["sft", "distill"])
def test_thirty_steps_on_one_batch_lower_the_loss(objective):
    state, losses = start(TEACHER_OF[objective]), []
    for _ in range(30):
        state, metrics = train_step(objective)(state, BATCH_OF[objective]())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.85 * losses[0], losses


def test_sft_is_the_mean_negative_log_likelihood_of_the_counted_tokens():
    batch, variables = text(), weights(MODEL)
    hidden = jax.jit(MODEL.apply)(variables, batch.tokens_BT, batch.positions_BT, batch.segments_BT)
    logits = hidden @ lm.head_VD(variables, MODEL.architecture)[:LIMIT].T
    logp = np.asarray(jax.nn.log_softmax(logits))
    total = -sum(logp[b, t - 1, batch.tokens_BT[b, t]] for b, t in zip(*np.nonzero(batch.weight_BT), strict=True))
    _, metrics = after(1, start("ema"), train_step("sft"), batch)
    assert metrics["loss"] == pytest.approx(total / batch.weight_BT.sum(), rel=1e-5)
    assert metrics["loss_count"] == batch.weight_BT.sum()


def test_sequence_reduction_divides_the_same_sum_by_completions():
    batch = scored()
    batch.weight_BC[5] = 0  # a completion that does not count
    sums = {}
    for reduction in ("token", "sequence"):
        head_VD = weights(MODEL)["params"]["embed"]["embedding"]
        config = LossConfig(DivergenceConfig(reduction=reduction))
        given = Given(MODEL, config, LIMIT, teacher_head_VD=head_VD)
        sums[reduction] = OBJECTIVES["distill"](weights(MODEL), batch, given)
    assert sums["token"][0] == sums["sequence"][0]
    assert sums["token"][1] == pytest.approx(float(batch.weight_BC.sum()))
    assert sums["sequence"][1] == QUESTIONS * SAMPLES - 1
    assert sums["sequence"][2]["divergence"][1] == sums["token"][1]  # metrics are by token either way


def test_the_old_state_is_donated():
    state = start("base")
    train_step("distill")(state, scored())
    assert all(x.is_deleted() for x in jax.tree.leaves(state))


def test_a_split_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="micro_batches is 3, the batch has 8 questions"):
        train_step("distill", micro_batches=3)(start("base"), scored())


def test_an_unknown_collection_is_refused():
    with pytest.raises(ValueError, match="trainable is 'lora'"):
        start("base", trainable="lora")
