"""GRPO-Rubrics (Rubrics as Rewards, arXiv 2507.17746) with Qwen3: GRPO whose reward is what a judge finds of a rubric.

    pip install openai
    vllm serve Qwen/Qwen3-30B-A3B-Instruct-2507        # on another machine; any OpenAI-compatible server will do
    python -m rcsd_jax.train --config=configs/grpo_rubrics.py --workdir=runs/grpo_rubrics \
        --config.data.path=rar_science.jsonl --config.reward.endpoint.url=http://judge:8000/v1

``--config=configs/grpo_rubrics.py:self`` needs no server, the model judges itself. In the science world a program does,
on the base model of the quickstart: ``--config=configs/grpo_rubrics.py:science``.

Cost: that of configs/grpo.py and 70 thousand judgements (128 answers and eleven without content a step), each of which
reads a question, its rubric and an answer; in the science world two minutes on 2 CPU cores.
Numbers to expect: the RCSD paper has 69.6 for it (GRPO 69.2, RCSD 70.6, base 65.9; Qwen3-8B, average of six
benchmarks). Look at ``master_keys_passed`` first: it should stay near 0.
"""

from configs import grpo, quickstart


def get_config(judge="endpoint"):
    """The published defaults: n = 4, explicit verdicts, Essential 1, Important 0.7, Optional 0.3, Pitfall 0.9."""
    if judge == "science":
        return _science()
    config = grpo.get_config()
    config.name = "grpo_rubrics"
    config.description = f"GRPO on judged rubrics, judge: {judge}"
    config.data.source = "rar_science"
    config.reward.update(kind="rubric", judge=judge, scale="explicit", weights="categories")
    config.reward.endpoint.url = "http://localhost:8000/v1"
    config.reward.endpoint.model = "Qwen/Qwen3-30B-A3B-Instruct-2507"
    config.prompts.judge_lengths = (2048, 4096, 7168)
    return config


def _science():
    config = quickstart.common()
    config.name = "grpo_rubrics"
    config.description = "GRPO on the criteria that a program checks"
    config.model.source = "runs/quickstart/base/model"
    config.objective = "grpo"
    config.rubrics.source = "none"
    config.reward.update(kind="rubric", judge="program", weights="integers")
    config.train.update(steps=50, questions=16, samples=4)
    config.optimizer.update(learning_rate=3e-4, total_steps=50)
    return config
