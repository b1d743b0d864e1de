"""Claims about continuous batching: the tokens of one batch, whatever is beside a question, in fewer steps."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sampler_test import HOT, LIMIT, PAD, model, prompts_of, sampler_of

from rcsd_jax import lm, sharding
from rcsd_jax.lm import decoding

EOS = tuple(range(0, LIMIT, 5))
LENGTHS = [5, 9, 2, 7, 3, 6, 8, 4, 9, 1, 5]
IDS = np.arange(100, 111, dtype=np.int32)


def continuous(transformer, variables, questions, mesh, samples=2):
    """All completions, in the order of the questions."""
    sampler = lm.ContinuousSampler(
        transformer, HOT, questions=questions, mesh=mesh, samples=samples, eos_ids=EOS, pad_id=PAD, vocab_limit=LIMIT
    )
    found = {}
    for places, rollout in sampler(variables, prompts_of(LENGTHS, 9), jax.random.key(0), IDS):
        for row, place in enumerate(places):
            assert place not in found and rollout.question_G[row] == IDS[place]
            rows = slice(row * samples, (row + 1) * samples)
            found[place] = jax.tree.map(lambda x, rows=rows: x[rows], rollout.replace(prompts=None))
    assert sorted(found) == list(range(len(IDS)))
    return jax.tree.map(lambda *x: np.concatenate(x), *(found[place] for place in range(len(IDS))))


def in_one_batch(transformer, variables):
    return sampler_of(transformer, HOT, samples=2, eos_ids=EOS)(
        variables, prompts_of(LENGTHS, 9), jax.random.key(0), IDS
    )


def assert_same(rollout, expected):
    for name in ("completion_BC", "valid_BC", "finish_B", "sample_B"):
        np.testing.assert_array_equal(getattr(rollout, name), getattr(expected, name), err_msg=name)
    for name in ("logp_BC", "tempered_logp_BC", "sampling_logp_BC"):
        np.testing.assert_allclose(getattr(rollout, name), getattr(expected, name), atol=1e-4, err_msg=name)


def test_a_question_gets_the_tokens_of_one_batch_in_fewer_steps_than_batch_after_batch(monkeypatch):
    transformer, variables = model("llama", adapters=True)
    expected = in_one_batch(transformer, variables)
    length_B = np.asarray(expected.valid_BC).sum(1)
    assert len(set(length_B)) > 4 and length_B.max() == HOT.max_new_tokens, "rows of many ages, one fills the ring"
    draw, drawn = decoding.draw, []

    def counted(logits_BV, uniform_B, sampling):
        jax.debug.callback(lambda rows=len(uniform_B): drawn.append(rows))
        return draw(logits_BV, uniform_B, sampling)

    monkeypatch.setattr(decoding, "draw", counted)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    assert_same(continuous(transformer, variables, 3, mesh), expected)
    jax.effects_barrier()
    in_turn = sum(length_B[start : start + 6].max() for start in range(0, 22, 6))
    assert drawn.count(2) == len(IDS), "every prompt is read once"
    assert drawn.count(6) < in_turn - 4, "the first tokens come with the prompts"


def test_one_device_equals_eight():
    transformer, variables = model("llama", adapters=True)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    placed = jax.device_put(variables, sharding.shardings(lm.axes(transformer), mesh))
    with jax.set_mesh(mesh):
        rollout = continuous(transformer, placed, 8, mesh)
    assert_same(rollout, in_one_batch(transformer, variables))


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    with pytest.raises(ValueError, match="3 questions at a time do not divide over 4 devices"):
        continuous(*model("llama"), 3, sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2)))
