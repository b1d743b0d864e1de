"""Rejection-sampling fine-tuning by rubric (RuFT, arXiv 2601.08430) with Qwen3: SFT on a question's best answer.

    python -m rcsd_jax.train --config=configs/ruft.py --workdir=runs/ruft \
        --config.data.path=rar_science.jsonl --config.reward.endpoint.url=http://judge:8000/v1

The judge is that of configs/grpo_rubrics.py, ``--config=configs/ruft.py:self`` is the model itself.
Cost: 192 answers and as many judgements a step, one and a half times configs/grpo_rubrics.py.
Numbers to expect: none published for this base and these benchmarks.
"""

from configs import grpo_rubrics


def get_config(judge="endpoint"):
    """The published defaults: n = 6, the best answer counts if it earns more than 0.6."""
    config = grpo_rubrics.get_config(judge)
    config.name = "ruft"
    config.description = f"SFT on the best of 6 answers by a judged rubric, judge: {judge}"
    config.objective = "best_of_n"
    config.reward.threshold = 0.6
    config.train.samples = 6
    return config
