"""Does a teacher read its rubric? A divergence between two prompts, by hand, and as a command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_pipeline import experiment

from rcsd_jax import compare, lm, models, sharding
from rcsd_jax.rubric_effect import make_effect_step, rubric_effect
from rcsd_jax.types import PromptBatch, Rollout


def prompts_of(rows):
    width = max(map(len, rows))
    tokens = [[0] * (width - len(row)) + row for row in rows]
    valid = [[False] * (width - len(row)) + [True] * len(row) for row in rows]
    return PromptBatch(jnp.array(tokens), jnp.array(valid))


def test_the_effect_is_the_mean_divergence_between_both_prompts_over_the_tokens_of_a_completion():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    model = models.load(experiment().model, 0, mesh)
    rng = np.random.default_rng(0)
    completion_BC = jnp.array(rng.integers(1, 50, (2, 4)))
    valid_BC = jnp.array([[True] * 4, [True, True, False, False]])
    guided, bare = prompts_of([[5, 6, 7], [8, 9, 10]]), prompts_of([[5, 6], [8, 9, 10]])
    rollout = Rollout(bare, completion_BC, valid_BC, *[None] * 6)
    with jax.set_mesh(mesh):
        effect_B = make_effect_step(model, 0.7)(model.variables, rollout, guided, bare)

        @jax.jit
        def logp_of(prompts):
            hidden = lm.hidden_of_completion(
                model.transformer, model.variables, prompts, completion_BC, valid_BC, shared=False
            )
            logits = hidden @ lm.head_VD(model.variables, model.transformer.architecture).T
            return jax.nn.log_softmax(logits[..., : model.tokenizer.vocab_limit] / 0.7)

        logp = {name: np.asarray(logp_of(p), np.float64) for name, p in (("guided", guided), ("bare", bare))}
    by_token = (np.exp(logp["guided"]) * (logp["guided"] - logp["bare"])).sum(axis=-1)
    np.testing.assert_allclose(effect_B[0], by_token[0].mean(), rtol=1e-3)
    assert effect_B[0] > 1e-4 and effect_B[1] == 0, "the second question has the same prompt twice"


def test_a_rubric_has_an_effect_and_none_has_none_and_compare_shows_both(one_device, tiny_run, tmp_path):
    summaries = {}
    for control in ("as_is", "none"):
        e = experiment(
            name=control,
            model__source=str(tiny_run / "base" / "model"),
            rubrics__control=control,
            data__limit=10,  # a whole batch and a part of one
        )
        summaries[control] = rubric_effect(e, str(tmp_path / control))
        assert rubric_effect(e, str(tmp_path / control)) == summaries[control], "what is done is not done again"
    mean = {control: summary["rubric_effect_nats"]["mean"] for control, summary in summaries.items()}
    assert mean["as_is"] > 1e-4 and abs(mean["none"]) < 1e-6
    quality = json.loads((tmp_path / "as_is" / "quality.json").read_text())
    assert len(quality) == summaries["as_is"]["rubric_effect_nats"]["n"] == 10
    runs = [tiny_run / "base", tmp_path / "as_is", tmp_path / "none"]
    compare.compare_runs(runs, tmp_path, baseline="base", title="")
    assert "rubric effect nats" in (tmp_path / "report.md").read_text()
    with pytest.raises(ValueError, match="wants 'rubric' in the one"):
        rubric_effect(experiment(teacher__context=("reference",)), str(tmp_path / "no"))
