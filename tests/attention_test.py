"""Whoever computes an attention gives the numbers of the plain one, and the chooser asks for nothing impossible."""

import functools
import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcsd_jax import ahead, config, dry_run, lm, sharding
from rcsd_jax.lm import attention, kernels

HAS_TPU_COMPILER = importlib.util.find_spec("libtpu") is not None
SPLASH = functools.partial(kernels.splash, interpret=True)
CUDNN = functools.partial(kernels.cudnn, implementation="xla")
KEPT = functools.partial(jax.checkpoint, policy=attention.attention_kept)  # the rest is computed again


def rows(B, T, heads=4, kv_heads=2, width=16):
    return tuple(
        jax.random.normal(jax.random.key(i), (B, T, n, width)) for i, n in enumerate((heads, kv_heads, kv_heads))
    )


def lengths(B, T):
    return jax.random.randint(jax.random.key(9), (B, 1), 1, T + 1)


def value_and_gradients(function, q, k, v, segments, prefix=None):
    """What real queries get, and the gradients of it by queries, keys and values, those of the prefix too."""
    real = (segments != 0)[:, :, None, None]
    weight = jax.random.normal(jax.random.key(99), q.shape)

    def total(arrays):
        q, k, v, *shared = arrays
        out = jnp.where(real, function(q, k, v, segments, prefix=(*shared, prefix[2]) if prefix else None), 0)
        return jnp.sum(out * weight), out

    arrays = (q, k, v, *(prefix[:2] if prefix else ()))
    (_, out), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(arrays)
    return [out, *gradients]


def assert_plain_numbers(functions, *arguments):
    expected = value_and_gradients(lm.attend, *arguments)
    for function in functions:
        for x, y in zip(value_and_gradients(function, *arguments), expected, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


def test_kernels_over_a_shared_prefix_give_the_plain_numbers_and_gradients_on_a_mesh():
    G, B, P, T = 4, 8, 128, 128
    _, k_GPKH, v_GPKH = rows(G, P)
    valid_GP = jnp.arange(P)[None, :] >= lengths(G, P) - 1  # left-padded
    valid_BT = jnp.arange(T)[None, :] < lengths(B, T)
    with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))):
        assert_plain_numbers(
            [SPLASH, KEPT(SPLASH), KEPT(lm.attend), CUDNN], *rows(B, T), valid_BT, (k_GPKH, v_GPKH, valid_GP)
        )


def test_attention_over_packed_rows_gives_the_plain_numbers_and_gradients():
    T = 384  # three blocks: two of them no query of the first sees
    segments_BT = jnp.stack([jnp.arange(T) // 60 + 1, jnp.where(jnp.arange(T) < 200, 1, 0)])
    assert_plain_numbers([SPLASH, KEPT(SPLASH), KEPT(lm.attend)], *rows(2, T, heads=2, kv_heads=1), segments_BT)


def test_cudnn_is_given_rows_without_left_padding_whatever_rows_there_are():
    T = 128
    valid_BT = (jnp.arange(T)[None, :] >= jnp.array([[0], [37], [60], [127]])) & (
        jnp.arange(T)[None, :] < jnp.array([[128], [128], [99], [128]])
    )
    assert_plain_numbers([CUDNN], *rows(4, T), valid_BT)
    q, k, v = rows(4, T)
    nothing = CUDNN(q, k, v, jnp.zeros((4, T), bool))
    assert not np.any(nothing), "rows without a valid token are 0"


def total_of_cudnn(q, k, v):
    return jnp.sum(kernels.cudnn(q, k, v, jnp.ones((2, 128), bool), (k, v, jnp.ones((2, 128), bool))))


@pytest.mark.parametrize("policy, forwards", [(None, 2), (attention.attention_kept, 1)])
def test_a_policy_that_keeps_attention_keeps_what_cudnn_computed(policy, forwards, monkeypatch):
    version = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(version, lambda: 91000)  # tracing needs no more of a GPU
    arrays = [x.astype("bfloat16") for x in rows(2, 128)]
    text = str(jax.make_jaxpr(jax.grad(jax.checkpoint(total_of_cudnn, policy=policy)))(*arrays))
    assert text.count(f"{kernels.CUDNN_FORWARD}[") == forwards


def test_cudnn_lowers_for_a_gpu_that_is_not_here():
    arrays = [x.astype("bfloat16") for x in rows(2, 128)]
    try:
        text = jax.jit(jax.grad(total_of_cudnn)).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    except RuntimeError as error:
        pytest.skip(f"{error}: it comes with jax[cuda]")
    assert "__cudnn$fmhaSoftmaxBackward" in text and "PADDING_CAUSAL" in text


FITS = kernels.Sizes(8, 4, 512, 1024, 16, 8, 128, "bfloat16", False)
PACKED = FITS._replace(questions=8, prefix=0, is_packed=True)
TABLE = [  # wanted, platform, sizes, capability of the GPU, chosen
    ("auto", "cpu", FITS, 0.0, "plain"),
    ("auto", "tpu", FITS, 0.0, "splash"),
    ("auto", "tpu", PACKED, 0.0, "splash"),
    ("auto", "tpu", FITS._replace(dtype="float32", head_width=64), 0.0, "splash"),
    ("auto", "tpu", FITS._replace(length=1000), 0.0, "plain"),
    ("auto", "tpu", FITS._replace(prefix=64), 0.0, "plain"),
    ("auto", "gpu", FITS, 9.0, "cudnn"),
    ("auto", "gpu", FITS, 7.5, "plain"),
    ("auto", "gpu", FITS._replace(head_width=256), 9.0, "cudnn"),
    ("auto", "gpu", FITS._replace(head_width=256), 8.0, "plain"),
    ("auto", "gpu", FITS._replace(head_width=36), 9.0, "plain"),
    ("auto", "gpu", FITS._replace(dtype="float32"), 9.0, "plain"),
    ("auto", "gpu", FITS._replace(length=1000), 9.0, "plain"),
    ("auto", "gpu", FITS._replace(prefix=4096, length=256), 9.0, "plain"),  # the prefix would cost more than it gains
    ("auto", "gpu", PACKED, 9.0, "plain"),
    ("cudnn", "gpu", FITS._replace(prefix=4096, length=256), 9.0, "cudnn"),
    ("splash", "tpu", FITS, 0.0, "splash"),
    ("plain", "tpu", FITS, 0.0, "plain"),
    ("plain", "gpu", FITS, 9.0, "plain"),
]


@pytest.mark.parametrize(("wanted", "platform", "sizes", "capability", "chosen"), TABLE)
def test_the_chooser_takes_the_kernel_of_the_platform_where_it_can_do_it(wanted, platform, sizes, capability, chosen):
    assert attention.choose(wanted, platform, sizes, capability) == chosen


@pytest.mark.parametrize(
    ("wanted", "platform", "sizes", "says"),
    [
        ("splash", "cpu", FITS, "splash runs on TPUs, and this is compiled for cpu; give 'auto'"),
        ("splash", "tpu", FITS._replace(length=1000), "multiples of 128, here 1000 after a prefix of 512"),
        ("cudnn", "tpu", FITS, "NVIDIA GPUs from Ampere on"),
        ("cudnn", "gpu", FITS._replace(dtype="float32"), "config.model.compute.dtype 'bfloat16'"),
        ("cudnn", "gpu", PACKED, "several examples in a row"),
    ],
)
def test_a_kernel_that_is_named_and_cannot_is_refused_with_a_cure(wanted, platform, sizes, says):
    with pytest.raises(ValueError, match=rf"config.model.compute.attention is '{wanted}'.*{says}"):
        attention.choose(wanted, platform, sizes, 9.0)


def test_a_kernel_is_not_used_for_rows_or_heads_that_a_mesh_does_not_divide():
    with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2, tensor=4))):
        assert attention.choose("auto", "tpu", FITS) == "splash"
        assert attention.choose("auto", "tpu", FITS._replace(rows=9, questions=3)) == "plain"
        assert attention.choose("auto", "gpu", FITS._replace(kv_heads=2), 9.0) == "plain"


def test_a_model_with_a_named_kernel_is_initialised_and_refused_where_it_cannot_run():
    with pytest.raises(config.ConfigError, match="compute.attention is 'flash': use one of"):
        raw = config.default()
        raw.model.compute.attention = "flash"
        config.read(raw)
    architecture = lm.Architecture("qwen3", 32, 16, 1, 2, 1, 8, 16)
    transformer = lm.Transformer(architecture, lm.Compute(attention="splash"))
    variables = jax.eval_shape(functools.partial(lm.init, transformer), jax.random.key(0))
    with pytest.raises(ValueError, match="splash runs on TPUs, and this is compiled for cpu"):
        jax.eval_shape(transformer.apply, variables, *[jnp.zeros((1, 128), jnp.int32)] * 3)


CALL = """
HloModule m, entry_computation_layout={()->f32[]}

ENTRY %main (q: bf16[2,8,16]) -> bf16[2,8,16] {
  %q = bf16[2,8,16]{2,1,0} parameter(0)
  ROOT %mha_dq_x.1 = bf16[2,8,16] custom-call(%q), custom_call_target="tpu_custom_call", attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q_dkv\\": 512}"
}}, metadata={op_name="jit(f)/SCOPE/mha_dq_x/pallas_call"}
}
"""


def test_the_work_inside_of_a_kernel_is_read_from_its_scope_and_told_to_be_missing_where_there_is_none():
    cost = ahead.Program(CALL.replace("SCOPE", kernels.scope(1000.0))).cost()
    assert (cost.flops, cost.bytes, cost.unread) == (3000.0, 2 * 2 * 8 * 16 * 2, set())
    cost = ahead.Program(CALL).cost()
    assert (cost.flops, cost.unread) == (0.0, {"mha_dq_x.1"})


def step_on(topology, remat):
    """A train step with lengths that splash takes, on eight devices of a TPU slice that is not here."""
    raw = config.default()
    raw.model.science.update(width=64, layers=3, heads=4, kv_heads=2, head_width=64, mlp_width=128)
    raw.model.compute.update(remat=remat, attention="splash", dtype="bfloat16")
    raw.prompts.update(student_lengths=(128,), teacher_lengths=(128,))
    raw.sampling.update(max_new_tokens=256)
    raw.train.update(questions=8, samples=2)
    raw.mesh.update(data=2, fsdp=2, tensor=2)
    subject = dry_run.prepared(config.read(raw), dry_run.devices_of(topology))
    return subject, next(x for x in ahead.functions(subject) if x.name == "train_step")


@pytest.mark.skipif(not HAS_TPU_COMPILER, reason="no TPU compiler here: pip install -r requirements-tpu.txt")
@pytest.mark.parametrize("remat, forwards", [("full", 2), ("attention", 1), ("dots", 1)])
def test_the_train_step_with_splash_compiles_for_a_tpu_and_the_work_of_its_kernels_is_counted(remat, forwards):
    subject, step = step_on("v5e:2x4", remat)
    with jax.set_mesh(subject.mesh):
        text = step.jitted.lower(*step.arguments).compile().as_text()
    assert all(f"splash_mha_{name}_segmented" in text for name in ("fwd", "dq", "dkv"))
    cost, without = (ahead.Program(x).cost() for x in (text, text.replace("product_of_", "")))
    a, G, B, P, T, block = subject.transformer.architecture, 8, 16, 128, 256, 128
    pairs = G * P * (P + block) / 2 + B * (T * P + T * (T + block) / 2)
    products = 2 * forwards + 3 + 4  # forward, perhaps once more; gradients of queries, and of keys and values
    expected = a.layers * products * 2 * a.heads * a.head_width * pairs / 8
    assert math.isclose(cost.flops - without.flops, expected) and not cost.unread
    assert without.unread, "a kernel that does not say what it does is told"
