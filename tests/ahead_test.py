"""A run is compiled before it is run, for devices that need not be here, and what is told of it is so."""

import dataclasses
import functools
import importlib
import importlib.util
import json
import math
import os
import tempfile

import jax
import jax.numpy as jnp
import pytest
import tiny_pipeline

from rcsd_jax import ahead, compilations, config, dry_run, learning, lm, pipeline, sharding
from rcsd_jax.ahead import findings

TINY = {"width": 64, "layers": 3, "heads": 8, "kv_heads": 4, "head_width": 16, "mlp_width": 128}
HAS_TPU_COMPILER = importlib.util.find_spec("libtpu") is not None
V5E = ahead.CHIPS["TPU v5 lite"]


def tiny(**changes):
    """A run of the method with a small model on eight devices."""
    raw = config.default()
    raw.model.science.update(TINY)
    raw.model.compute.remat = "full"
    raw.prompts.update(student_lengths=(16,), teacher_lengths=(32,))
    raw.sampling.update(max_new_tokens=24, top_k=5)
    raw.train.update(questions=8, samples=2)
    raw.evaluation.update(batch=8, samples=2, greedy=False)
    raw.evaluation.sampling.max_new_tokens = 24
    raw.mesh.update(data=2, fsdp=2, tensor=2)
    raw.update_from_flattened_dict(changes)
    return config.read(raw)


@pytest.fixture(scope="module")
def told():
    """(findings by name, lines, subject, what the compiler warned of): for a TPU where there is a compiler for one."""
    devices, lines, e = dry_run.devices_of("v5e:2x4") if HAS_TPU_COMPILER else jax.devices(), [], tiny()
    with tempfile.TemporaryFile() as warnings:
        stderr = os.dup(2)
        os.dup2(warnings.fileno(), 2)  # XLA's warnings do not come through Python
        try:
            found = dry_run.dry_run(dry_run.prepared(e, devices), lines.append)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        warnings.seek(0)
        text = warnings.read().decode(errors="replace")
    subject = ahead.subject(e, sharding.make_mesh(e.mesh, devices))
    return {x.name: x for x in found}, "\n".join(lines), subject, text


def test_every_function_of_a_run_is_compiled_and_told(told):
    found, text, subject, _ = told
    of_step, of_evaluation = ["sample", "score", "train_step", "checkpoint"], ["evaluation fill", "evaluation decode"]
    assert list(found) == ["state", *of_step, *of_evaluation]
    assert [x.during for x in found.values()] == ["start", *["step"] * 4, *["evaluation"] * 2]
    assert "mesh data 2 fsdp 2 tensor 2" in text and "parameters" in text
    assert "cache of sample" in text and "cache of evaluation" in text
    assert text.count("compiled in") == 7 and text.count("sends ") == 7


def test_the_ledger_of_a_finished_run_has_no_function_that_is_not_told(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run.parent)
    runs = pipeline.read_parts(tiny_pipeline.get_config(), "tiny")
    assert {part.run for part in runs} >= set(ahead.RUNS)
    for part in runs:
        if part.run in ahead.RUNS:
            mesh = sharding.make_mesh(part.experiment.mesh, jax.devices()[:1])
            told = ahead.functions(ahead.subject(part.experiment, mesh, part.run))
            told = {(x.jitted.__name__, compilations.shapes_of(x.arguments)) for x in told}
            ledger = json.loads((tiny_run / part.experiment.name / "compilations.json").read_text())
            assert {(x["name"], x["shapes"]) for x in ledger} <= told, part.experiment.name


def test_weights_lie_as_the_sampler_of_evaluations_has_them():
    s = on_eight(tiny())
    sampler = lm.ContinuousSampler(
        s.transformer, s.experiment.sampling, questions=8, samples=1, mesh=s.mesh, **s.vocabulary._asdict()
    )
    variables = ahead.abstract_state(s).variables
    with jax.set_mesh(s.mesh):
        made = sampler.view.lower(variables, 16).compile().output_shardings
    wanted = ahead.view(sampler, variables, 16)
    same = jax.tree.map(lambda x, where: x.sharding.is_equivalent_to(where, x.ndim), wanted, made)
    assert all(jax.tree.leaves(same))


def test_a_model_that_judges_itself_samples_verdicts_in_every_step():
    judged = {"reward.kind": "rubric", "reward.scale": "implicit", "prompts.judge_lengths": (64,)}
    s = on_eight(tiny(**judged, **{"objective": "grpo", "reward.judge": "self"}))
    told = {x.name: x for x in ahead.functions(s)}
    fill, decode = told["judge fill"], told["judge decode"]
    assert fill.during == decode.during == "step"
    assert decode.times == (8 * 2 + 11) / 8  # answers, and those without content, as many at a time as questions
    assert decode.turns == (s.experiment.reward.sampling.max_new_tokens,)
    with jax.set_mesh(s.mesh):
        for function in (fill, decode):
            new = function.jitted.lower(*function.arguments).out_info
            new = new[1] if function is fill else new
            assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, function.arguments[2])


@pytest.mark.parametrize(
    ("name", "run", "told"),
    [
        ("gpqa", "evaluate", ["evaluation fill", "evaluation decode", "greedy fill", "greedy decode"]),
        ("rubric_generator", "write_rubrics", ["fingerprint", "rubrics fill", "rubrics decode"]),
        ("rcsd", "evaluate", []),
        ("sft", "train", ["fingerprint", "state", "train_step", "checkpoint"]),
    ],
)
def test_a_config_has_the_functions_of_the_command_that_it_is_for(name, run, told):
    subject = ahead.subject(published(name), sharding.make_mesh(sharding.MeshConfig(fsdp=4, tensor=2)), run)
    assert [x.name for x in ahead.functions(subject)] == told
    held = ahead.parts_of(ahead.abstract_state(subject))
    assert bool(held["optimiser"]) == (run == "train") == (subject.transformer.lora is not None)


def test_an_evaluation_is_told_beside_a_step_and_not_in_it():
    subject, cost = on_eight(tiny(**{"evaluation.every": 50})), ahead.Cost([(V5E.flops, 1.0)])
    found = [
        ahead.Finding("state", 1, 1.0, cost=cost, during="start"),
        ahead.Finding("sample", 0.5, 1.0, cost=cost),
        ahead.Finding("evaluation decode", 2, 1.0, cost=cost, during="evaluation"),
    ]
    assert ahead.ending(subject, found, V5E) == (
        "everything fits; a step takes at least 0.5 s (sample 0.5); an evaluation takes for each 8 questions, every 50 "
        "steps and at the end, at least 2 s (evaluation decode 2)"
    )


def test_operations_are_those_of_the_matrix_products(told):
    found, _, subject, _ = told
    a, e = subject.transformer.architecture, subject.experiment
    tokens, completion = 8 * 16 + 16 * 24, 16 * 24
    weights = a.layers * (a.width * a.head_width * 2 * (a.heads + a.kv_heads) + 3 * a.width * a.mlp_width)
    head = 2.0 * completion * a.vocab_size * a.width
    # Attention is of a tenth of the work here; what is masked within a chunk is computed, too.
    assert e.train.samples == 2 and e.model.trainable == "params"
    least = (4 * 2 * tokens * weights + 4 * head) / 8  # forward, again in the backward pass, and two gradients
    assert least < found["train_step"].cost.flops < 1.5 * least
    least = 2 * (8 * 32 + completion) * weights / 8
    assert least < found["score"].cost.flops < 1.5 * least


def test_decoding_counts_every_token_of_the_longest_completion(told):
    found, _, subject, _ = told
    sums = [x.times for x in found["sample"].cost.collectives if "while/body" in x.of]
    assert 24 in sums, "a step of decoding sends something at each of 24 tokens"


def test_no_device_makes_a_whole_parameter_or_the_logits_of_all_tokens(told):
    found, _, subject, warnings = told
    assert "nvoluntary full remat" not in warnings
    a, tensor = subject.transformer.architecture, 2
    completion = 16 * 24
    allowed = max(a.vocab_size * a.width / tensor, completion * a.vocab_size / 8)  # the table, or everyone's logits
    for name, finding in found.items():
        assert finding.largest <= allowed, f"{name} makes an array of {finding.largest} elements"
        of_layers = [x for x in finding.cost.collectives if x.kind == "all-gather" and x.times == a.layers]
        for x in of_layers:
            assert x.bytes <= 4 * a.width * a.mlp_width / tensor, f"more than the weight of one layer: {x}"


@pytest.mark.skipif(not HAS_TPU_COMPILER, reason="no TPU compiler here: pip install -r requirements-tpu.txt")
def test_for_a_tpu_memory_and_time_are_held_against_the_chip(told):
    found, text, _, _ = told
    assert "15.75 GiB each" in text and "everything fits; a step takes at least" in text
    assert "bound by network" in text  # so small a model has nothing to compute
    assert all(0 < x.memory < V5E.memory for x in found.values())


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 20.51G of 15.75G hbm. Exceeded hbm capacity by 4.76G.",
        "the total memory required for HLO temporaries (20.51G) exceeds available HBM (15.75G).",
    ],
)
def test_what_is_too_large_is_understood_in_every_wording_of_the_compiler(message):
    assert findings.TOO_LARGE.search(message).groups() == ("20.51", "G")


def compiled_text(function, *arguments):
    return ahead.Program(jax.jit(function).lower(*arguments).compile().as_text())


@pytest.mark.skipif(not HAS_TPU_COMPILER, reason="no TPU compiler here: pip install -r requirements-tpu.txt")
@pytest.mark.parametrize("topology", ["v5e:4x4", "v6e:4x4", "TPU7x:2x2x2"])
def test_an_axis_of_the_mesh_may_be_a_part_of_one_of_the_torus(topology):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4, tensor=2), dry_run.devices_of(topology))
    assert mesh.devices.shape == (2, 4, 2) and len({device.id for device in mesh.devices.flat}) == 16


def test_what_is_in_a_loop_counts_as_often_as_the_loop_turns():
    x, stacked = jnp.ones((32, 64)), jnp.ones((5, 64, 64))
    cost = compiled_text(lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0], x, stacked).cost()
    assert cost.flops == 5 * 2 * 32 * 64 * 64
    # Of the stack a turn reads one matrix, not all.
    assert 4 * 5 * 64 * 64 <= cost.bytes < 6 * 4 * 5 * 64 * 64


def test_a_loop_whose_end_depends_on_data_turns_as_often_as_one_says():
    def until_large(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1e6, lambda x: x @ x, x)

    program = compiled_text(until_large, jnp.ones((16, 16)))
    assert program.cost([7]).flops == 7 * 2 * 16**3
    assert program.cost().flops == 2 * 16**3


def test_collectives_are_told_by_kind_and_by_what_a_device_sends():
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=4, tensor=2))
    x = jax.ShapeDtypeStruct((8, 64), "float32", sharding=sharding.batch_sharding(mesh))
    gathered = jax.jit(lambda x: x + 1, out_shardings=sharding.replicated(mesh))
    found = ahead.Program(gathered.lower(x).compile().as_text()).cost().collectives
    assert [(x.kind, x.bytes, x.devices, x.times) for x in found] == [("all-gather", 8 * 64 * 4, 4, 1)]
    assert found[0].sent == 8 * 64 * 4 * 3 / 4
    assert ahead.Collective("all-reduce", 100.0, 4, 2.0).sent == 150.0


SCATTERED = """
HloModule m, entry_computation_layout={()->f32[]}

%all-reduce-scatter.5 (p0: bf16[64,32]) -> bf16[8,32] {
  %p0 = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.1 = bf16[64,32]{1,0} all-reduce(%p0), channel_id=7, replica_groups=[2,8]<=[16], to_apply=%add
  %zero = u32[] constant(0)
  ROOT %part = bf16[8,32]{1,0} dynamic-slice(%all-reduce.1, %zero, %zero), dynamic_slice_sizes={8,32}
}

ENTRY %main (x: bf16[64,32]) -> bf16[8,32] {
  %x = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %f = bf16[8,32]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.5
}
"""


def test_a_sum_that_a_tpu_fuses_with_its_scatter_is_sent_once():
    [found] = ahead.Program(SCATTERED).cost().collectives
    assert (found.kind, found.devices, found.sent) == ("reduce-scatter", 8, 64 * 32 * 2 * 7 / 8)


OFFLOADED = """
HloModule m, entry_computation_layout={()->f32[]}

%called_computation.6 (p0: f32[1,16,4], p1: token[]) -> f32[1,16,32] {
  %p1 = token[] parameter(1)
  %p0 = f32[1,16,4]{1,0,2:T(1,128)} parameter(0)
  ROOT %gathered = f32[1,16,32]{1,0,2:T(1,128)} all-gather(%p0), replica_groups=mesh['a'=1,'b'=8] {'b'}, dimensions={2}
}, execution_thread="sparsecore"

ENTRY %main (x: f32[1,16,4], ready: token[]) -> f32[1,16,32] {
  %x = f32[1,16,4]{1,0,2:T(1,128)} parameter(0)
  %ready = token[] parameter(1)
  %start = ((f32[1,16,4], token[]), f32[1,16,32]) call-start(%x, %ready), to_apply=%called_computation.6
  ROOT %done = f32[1,16,32]{1,0,2:T(1,128)} call-done(%start)
}
"""


def test_a_program_that_this_jaxlib_cannot_read_is_told_with_the_cure():
    class Unreadable:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nat length")

    with pytest.raises(ValueError, match=r"(?s)sample was compiled.*RET_CHECK.*jax\[tpu\]"):
        findings._text("sample", Unreadable())


def test_what_a_tpu7x_leaves_to_its_sparse_cores_is_sent_all_the_same():
    [found] = ahead.Program(OFFLOADED).cost().collectives
    assert (found.kind, found.devices, found.sent) == ("all-gather", 8, 16 * 32 * 4 * 7 / 8)


def test_gradients_by_one_input_of_several_kernels_are_summed_over_devices_once():
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=4))
    architecture = lm.Architecture(
        family="qwen3", vocab_size=256, width=64, layers=3, heads=8, kv_heads=4, head_width=16, mlp_width=128,
        max_positions=128, qk_norm=True,
    )  # fmt: skip
    transformer, B, T = lm.Transformer(architecture), 8, 32
    variables = jax.eval_shape(functools.partial(lm.init, transformer), jax.random.key(0))
    variables = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        variables,
        sharding.shardings(lm.axes(transformer), mesh),
    )
    x_BT = jax.ShapeDtypeStruct((B, T), "int32", sharding=sharding.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(lambda v, x: jnp.sum(jnp.sin(transformer.apply(v, x, x, x)))))
        program = ahead.Program(gradient.lower(variables, x_BT).compile().as_text())
    found = [x for x in program.cost().collectives if "while/body" in x.of]
    over_tensor = sum(x.times * x.bytes for x in found if x.kind == "all-reduce" and x.devices == 4)
    stream = B // 2 * T * 64 * 4  # what goes from layer to layer, on one device
    assert over_tensor == pytest.approx(3 * 4 * stream, rel=0.02), "two sums forward and two backward, in each layer"
    scattered = sum(x.times for x in found if x.kind == "reduce-scatter")
    assert scattered == 3 * 5, "gradients of q, k, v, gate and up"


CONVOLUTION = """
HloModule m, entry_computation_layout={()->f32[]}

%fused (p0: bf16[8,16], p1: bf16[3,32,16]) -> bf16[8,32] {
  %p0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[3,32,16]{2,1,0:T(8,128)(2,1)} parameter(1)
  %s = bf16[1,32,16]{2,1,0} dynamic-slice(%p1), dynamic_slice_sizes={1,32,16}
  %b = bf16[32,16]{1,0} bitcast(%s)
  ROOT %c = bf16[8,32]{1,0:T(8,128)(2,1)S(1)} convolution(%p0, %b), dim_labels=bf_oi->bf
}

ENTRY %main (a: bf16[8,16], w: bf16[3,32,16]) -> bf16[8,32] {
  %a = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[3,32,16]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %f = bf16[8,32]{1,0:T(8,128)(2,1)S(1)} fusion(%a, %w), kind=kOutput, calls=%fused, metadata={op_name="x"}
}
"""


def test_a_tpu_product_is_a_convolution_and_scratch_memory_is_free():
    cost = ahead.Program(CONVOLUTION).cost()
    assert cost.flops == 2 * 8 * 32 * 16
    assert cost.bytes == 2 * (8 * 16 + 32 * 16)  # the operand, one slice of the stack, and no result


METHODS = (
    *("rcsd", "rcsd:released", "opsd", "opsd:purified", "rgsd", "gkd", "sdpo", "sft", "rubric_generator"),
    *("grpo", "grpo_rubrics", "ruft"),
)


def published(name):
    module, _, profile = name.partition(":")
    raw = importlib.import_module(f"configs.{module}").get_config(*[profile] if profile else [])
    raw.data.path = raw.data.path or "unread"
    raw.rubrics.path = raw.rubrics.path or "unread"
    return config.read(raw)


def on_eight(e):
    return dry_run.prepared(e, jax.devices(), lambda text: None)


@pytest.mark.parametrize("name", (*METHODS, "grpo_rubrics:self", "ruft:self", "gpqa"))
def test_every_config_at_qwen3_scale_is_cut_over_eight_devices(name):
    subject = on_eight(published(name))
    state, a = ahead.abstract_state(subject), subject.transformer.architecture
    large = state.variables["params"]
    if name == "gkd":
        large, a = state.teacher, subject.teacher.architecture
    assert a.layers == 36 and "Qwen/Qwen3-8B" in (subject.experiment.model.source, subject.experiment.teacher.source)
    weights = sum(math.prod(x.shape) for x in jax.tree.leaves(large))
    assert 8.1e9 < weights < 8.3e9
    assert ahead.device_bytes(large) < 1.001 * 2 * weights / 8, "a weight lies whole on a device"
    if state.trainable == "lora":
        adapters = state.variables["lora"]
        assert {x.dtype for x in jax.tree.leaves(adapters)} == {jnp.dtype("float32")}
        assert ahead.parts_of(state)["optimiser"] == 2 * ahead.device_bytes(adapters), "moments lie where weights lie"


@pytest.mark.parametrize("name", METHODS)
def test_a_train_step_of_every_method_is_lowered(name):
    e = published(name)
    # Lengths change no shape of the state, and a short step is traced in a moment.
    e = dataclasses.replace(
        e,
        prompts=dataclasses.replace(e.prompts, student_lengths=(64,), teacher_lengths=(64,)),
        sampling=dataclasses.replace(e.sampling, max_new_tokens=64),
        train=dataclasses.replace(e.train, row_length=64),
    )
    subject = on_eight(e)
    step = next(x for x in ahead.functions(subject) if x.name == "train_step")
    with jax.set_mesh(subject.mesh):
        lowered = step.jitted.lower(*step.arguments)
    new_state, metrics = lowered.out_info
    assert jax.tree.map(lambda x: x.shape, new_state.variables) == jax.tree.map(
        lambda x: x.shape, step.arguments[0].variables
    )
    assert {"loss", "grad_norm"} <= metrics.keys()
    assert (e.objective in learning.TAUGHT) == ("teacher_entropy" in metrics)


def test_a_mesh_that_does_not_work_is_replaced_by_the_nearest_that_does():
    subject = on_eight(published("rcsd"))  # 8 micro-batches of 4 questions
    assert subject.mesh.shape == {"data": 1, "fsdp": 4, "tensor": 2}
    subject = on_eight(tiny(**{"evaluation.batch": 6}))  # an evaluation that 4 devices cannot share out
    assert subject.mesh.shape == {"data": 1, "fsdp": 2, "tensor": 4}
    with pytest.raises(ValueError, match="7 micro_batches is 1: rows are dealt out to 4 devices"):
        on_eight(tiny(**{"train.questions": 7, "train.micro_batches": 7, "model.science.heads": 4}))


def test_a_rollout_whose_questions_wait_for_places_is_drawn_by_the_continuous_sampler():
    whole, few = published("rcsd"), published("rcsd")
    few = dataclasses.replace(few, train=dataclasses.replace(few.train, sampling_batch=few.train.questions // 4))
    of_whole, of_few = (ahead.drawings(on_eight(e))["sample"] for e in (whole, few))
    assert (of_whole.is_continuous, of_few.is_continuous) == (False, True)
    assert of_few.questions * of_few.times == of_whole.questions * of_whole.times == whole.train.questions
    names = [x.name for x in ahead.functions(on_eight(few))]
    assert {"sample fill", "sample decode"} < set(names) and "sample" not in names


def test_what_does_not_fit_comes_with_a_cure():
    subject = on_eight(published("rcsd"))
    parts = {"parameters": 12e9, "optimiser": 0.0, "teacher": 0.0}
    told = ahead.cures(subject, ahead.Finding("train_step", 1, 1.0, needs=40e9), V5E, parts)
    assert any("are parameters, optimiser and teacher" in x for x in told)
    assert any("tensor" in x for x in told)  # 4 rows over 4 devices can not be cut into more micro-batches
    told = ahead.cures(subject, ahead.Finding("sample", 1, 1.0, needs=40e9), V5E, {"parameters": 1e9})
    fewer = "fewer config.train.questions or config.train.samples"
    assert told == ["config.train.sampling_batch below 32, so that questions wait for places", fewer]
    e = dataclasses.replace(published("rcsd"), train=dataclasses.replace(published("rcsd").train, staleness=1))
    told = ahead.cures(on_eight(e), ahead.Finding("sample", 1, 1.0, needs=40e9), V5E, {"parameters": 1e9})
    assert told == [fewer], "nobody waits for what is sampled ahead"
    subject = ahead.subject(published("gpqa"), subject.mesh, "evaluate")
    told = ahead.cures(subject, ahead.Finding("evaluation decode", 1, 1.0, needs=40e9), V5E, {"parameters": 1e9})
    assert told == ["fewer config.evaluation.batch or config.evaluation.samples"]


def test_time_is_that_of_the_tightest_bound():
    cost = ahead.Cost([(V5E.flops, 1.0), (1.0, 2 * V5E.bandwidth)], [ahead.Collective("all-gather", 1.0, 16, 1000.0)])
    finding = ahead.Finding("train_step", 1, 1.0, cost=cost)
    assert finding.seconds(V5E) == {"compute": 1.0, "memory": 2.0, "network": pytest.approx(8e-3)}
    assert finding.total_seconds(V5E) == 3.0


PREFETCH = """
HloModule m, entry_computation_layout={()->f32[]}

ENTRY %main (a: f32[8,16], b: f32[4]) -> f32[2,16] {
  %a = f32[8,16]{1,0:T(8,128)} parameter(0)
  %b = f32[4]{0:T(128)} parameter(1)
  %s = ((f32[8,16]{1,0:T(8,128)}), f32[2,16]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:16]}
  %c = (f32[4]{0:T(128)S(1)}, f32[4]{0:T(128)}, u32[]{:S(2)}) copy-start(%b)
  %d = f32[4]{0:T(128)S(1)} copy-done(%c)
  ROOT %e = f32[2,16]{1,0:T(8,128)S(1)} slice-done(%s)
}
"""


def test_what_is_fetched_ahead_into_scratch_memory_is_read_once():
    assert ahead.Program(PREFETCH).cost().bytes == 4 * (2 * 16 + 4)


def test_without_a_compiler_or_with_an_unknown_name_a_topology_is_refused():
    with pytest.raises(ValueError, match="topology 'v99:1x1' cannot be compiled for.*requirements-tpu.txt"):
        dry_run.devices_of("v99:1x1")
