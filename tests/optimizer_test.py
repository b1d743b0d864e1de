"""AdamW: its formula, its schedule, what is decayed, and float32 moments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rcsd_jax.learning.optimizer import OptimizerConfig, learning_rate, make_optimizer


def weights():
    return {
        "layers": {
            "q_proj": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))},
            "input_norm": {"scale": jnp.ones((2, 3))},
        },
        "embed": {"embedding": jnp.ones((4, 3))},
    }


def updates(config, params, gradients):
    optimizer = make_optimizer(config)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def test_weight_decay_reaches_kernels_and_embeddings_but_not_norms_and_biases():
    config = OptimizerConfig(learning_rate=0.5, schedule="constant", weight_decay=0.1)
    change = updates(config, weights(), jax.tree.map(jnp.zeros_like, weights()))
    assert (change["layers"]["q_proj"]["kernel"] == np.float32(-0.05)).all()
    assert (change["embed"]["embedding"] == np.float32(-0.05)).all()
    assert not change["layers"]["q_proj"]["bias"].any() and not change["layers"]["input_norm"]["scale"].any()


def test_three_updates_follow_the_formula_of_adamw():
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.01, max_grad_norm=None
    )
    optimizer, params = make_optimizer(config), {"kernel": jnp.array([1.0, -2.0])}
    state, w, m, v = optimizer.init(params), np.array([1.0, -2.0]), 0.0, 0.0
    for t, g in enumerate(np.array([[0.3, -0.2], [0.1, 0.5], [-0.4, 0.0]]), start=1):
        change, state = optimizer.update({"kernel": jnp.asarray(g, jnp.float32)}, state, params)
        params = optax.apply_updates(params, change)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        w = w - 0.1 * (m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3) + 0.01 * w)
    np.testing.assert_allclose(params["kernel"], w, rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    # With eps far above the gradients Adam's update is proportional to them.
    config = OptimizerConfig(learning_rate=1e6, schedule="constant", eps=1e6, b1=0.0, max_grad_norm=1.0)
    params = {"a": {"kernel": jnp.zeros(1)}, "b": {"kernel": jnp.zeros(1)}}
    change = updates(config, params, {"a": {"kernel": jnp.array([3.0])}, "b": {"kernel": jnp.array([4.0])}})
    np.testing.assert_allclose([change["a"]["kernel"][0], change["b"]["kernel"][0]], [-0.6, -0.8], rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0.25, 0.5, 0.75, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]),
    ],
)
def test_the_learning_rate_rises_through_the_warmup_then_follows_its_schedule(schedule, expected):
    rate = learning_rate(OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=3, total_steps=7))
    np.testing.assert_allclose([rate(step) for step in range(8)], expected, atol=1e-6)


def test_moments_and_updates_of_bfloat16_weights_are_float32():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), weights())
    optimizer = make_optimizer(OptimizerConfig())
    change, state = optimizer.update(params, optimizer.init(params), params)
    floats = [x for x in jax.tree.leaves((change, state)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    assert optax.apply_updates(params, change)["embed"]["embedding"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"schedule": "step"}, "cosine"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"learning_rate": -1.0}, "at least 0"),
        ({"b2": 1.0}, "below 1"),
        ({"eps": 0.0}, "1e-8"),
        ({"max_grad_norm": 0.0}, "None"),
        ({"skip_grad_norm": -1.0}, "no skipping"),
        ({"skip_grad_norm": 1.0, "max_grad_norm": 1.0}, "give a larger one"),
        ({"total_steps": 5, "warmup_steps": 5}, "after the warmup"),
    ],
)
def test_a_wrong_config_is_refused_with_the_cure(options, cure):
    with pytest.raises(ValueError, match=cure):
        OptimizerConfig(**options)
