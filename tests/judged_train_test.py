"""Judges in the loop: a tiny model learns from a judge over HTTP, and a model judges through our own sampler."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_tokenizers
import tokenizers
from grpo_train_test import GRPO
from loopback_judge import LoopbackJudge, answer_in
from tiny_pipeline import experiment
from tokenizers import decoders, models, pre_tokenizers, trainers
from train_test import numbers

from rcsd_jax import collector, evaluation, learning, lm, rewards, sharding
from rcsd_jax.judges import Case, Scale
from rcsd_jax.models import LanguageModel, initial_state
from rcsd_jax.train import train
from rcsd_jax.types import Criterion, Problem, Rubric

JUDGED = {**GRPO, "train__steps": 2, "reward__kind": "rubric"}


def verdict(prompt, _n=0):
    """Out of the bytes of the answer, so that answers differ; for every eighth of them the server is out of order."""
    number = sum(answer_in(prompt).encode())
    return (500, b"") if number % 8 == 0 else json.dumps({str(n): number % (n + 1) == 0 for n in range(1, 6)})


def test_a_tiny_model_learns_a_step_from_a_judge_over_http(one_device, tmp_path, monkeypatch):
    seen, collect = [], collector.Collector.finish

    def spy(self, state, begun):
        found = collect(self, state, begun)
        weight_BC, advantage_B = np.asarray(found.batch.weight_BC), np.asarray(found.batch.advantage_B)
        seen.append((found.problems, found.texts(), weight_BC, advantage_B))
        return found

    monkeypatch.setattr(collector.Collector, "finish", spy)
    with LoopbackJudge(verdict) as server:
        e = experiment(
            **JUDGED,
            reward__judge="endpoint",
            reward__max_failed=0.6,
            reward__endpoint__url=server.url,
            reward__endpoint__model="m",
            reward__endpoint__retries=0,
            reward__endpoint__cache=str(tmp_path / "judgements.jsonl"),
        )
        summary = train(e, tmp_path / "run")
    first, last = numbers(tmp_path / "run")
    assert last["loss"] < first["loss"] and summary["last"]["skipped"] == 0, "what the judge liked has become likelier"
    assert 0 <= first["master_keys_passed"] <= 1

    [(problems, texts, weight_BC, advantage_B)] = seen
    share_failed, compared = 0.0, 0
    for g, problem in enumerate(problems):
        rows = slice(g * len(texts[g]), (g + 1) * len(texts[g]))
        cases = [Case(problem, evaluation.strip_thinking(text).strip()) for text in texts[g]]
        replies = [verdict(case.messages()[0].content) if case.answer else "" for case in cases]
        known = np.array([isinstance(reply, str) for reply in replies])
        assert not weight_BC[rows][~known].any() and not advantage_B[rows][~known].any()
        share_failed += np.mean(~known) / len(problems)
        # The others are compared as if the failed ones had not been drawn.
        earned = [[c.read(r) if r else 0.0 for c, r in zip(cases, replies, strict=True) if isinstance(r, str)]]
        wanted, counts = learning.advantages(np.array(earned))
        np.testing.assert_allclose(advantage_B[rows][known], wanted[0], rtol=1e-5)
        assert weight_BC[rows][known][counts[0]].any(axis=1).all()
        compared += counts.sum()
    assert first["unjudged"] == pytest.approx(share_failed) and share_failed > 0 and compared > 0


# The model itself

VERDICT = '{"score": 7}'
RUBRIC = Rubric((Criterion("Formula", "uses F = m a", 9), Criterion("Pitfall", "divides by m", -1)))
PROBLEM = Problem("q", "Which force?", "12 N", rubric=RUBRIC)
SELF = experiment(
    **{**GRPO, "policy__kl_coefficient": 0.0, "prompts__judge_lengths": (384, 448)},
    reward__kind="rubric",
    reward__scale="implicit",
    reward__judge="self",
    reward__sampling__max_new_tokens=12,
)


@functools.cache
def parrot(verdict):
    """A model made by hand, whose next token depends on its last one only: whatever one asks, it says the verdict."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.Split(tokenizers.Regex(tiny_tokenizers.QWEN_WORDS), behavior="isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Sequence([words, bytes_of]), decoders.ByteLevel()
    [asked] = Case(PROBLEM, "12 N", Scale("implicit")).messages()
    texts = [VERDICT, asked.content] * 9  # so that a request is a few hundred tokens
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<pad>"])
    chat = lm.ChatTokenizer.from_tokenizer(tokenizer, tiny_tokenizers.CHATML, eos="<|im_end|>", pad="<pad>")
    said = [*chat.encode("\n"), *chat.encode(verdict), chat.eos_ids[0]]  # the prompt ends in a line break
    assert len(set(said)) == len(said) <= 16, said
    architecture = lm.Architecture(
        family="llama", vocab_size=512, width=16, layers=1, heads=1, kv_heads=1, head_width=2, mlp_width=2, tied=False
    )
    transformer = lm.Transformer(architecture, lm.Compute())
    params = lm.init(transformer, jax.random.key(0))["params"]
    params["layers"] = jax.tree.map(jnp.zeros_like, params["layers"])
    places = np.arange(len(said) - 1)
    params["embed"] = {"embedding": jnp.zeros((512, 16)).at[np.array(said[:-1]), places].set(1.0)}
    params["lm_head"] = {"kernel": jnp.zeros((512, 16)).at[np.array(said[1:]), places].set(1.0)}
    return LanguageModel(transformer, {"params": params}, chat)


def judged(model, texts, e=SELF):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        return rewards.Reward(e, model, mesh)([PROBLEM], [texts], model.variables)


def test_a_model_judges_itself_through_our_sampler_and_is_tried_with_master_keys():
    reward_GN, found = judged(parrot(VERDICT), ["12 N", "F = 3 N", "", "<think>hm"])
    np.testing.assert_allclose(reward_GN, [[6 / 9, 6 / 9, 0, 0]])
    assert found == {"judgements": 2 + 11, "master_keys_passed": 1}, "a parrot is no judge, and its number says so"


def test_a_model_that_gives_no_verdicts_stops_the_run_and_so_do_prompts_that_do_not_fit():
    with pytest.raises(rewards.JudgeFailed, match=r"2 of 2 judgements failed \(2 not JSON\)"):
        judged(parrot("score"), ["12 N", "3 N"])
    short = experiment(prompts__judge_lengths=(64,), train__samples=2, reward__kind="rubric", reward__judge="self")
    with pytest.raises(rewards.JudgeFailed, match="2 prompt too long"):
        judged(parrot(VERDICT), ["12 N", "3 N"], short)


def test_the_judge_has_the_weights_that_training_began_with(one_device):
    """Also where the student's have become useless: it writes nothing of sense, and is told so with a sound verdict."""
    mesh, model = sharding.make_mesh(SELF.mesh), parrot(VERDICT)
    with jax.set_mesh(mesh):
        own = collector.Collector(SELF, model, [PROBLEM] * SELF.train.questions, {}, mesh)
        state = initial_state(SELF, model, mesh)
        state = dataclasses.replace(state, variables=jax.tree.map(jnp.zeros_like, state.variables))
        found = own.finish(state, own.begin(state, 0))
    assert "score" not in found.texts()[0][0]
    assert found.numbers["reward"] == pytest.approx(6 / 9) and found.numbers["unjudged"] == 0
