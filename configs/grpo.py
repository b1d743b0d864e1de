"""GRPO with Qwen3: no teacher; each answer earns a reward and is compared with the others of its question.

    python -m rcsd_jax.train --config=configs/grpo.py --workdir=runs/grpo --config.data.path=medmcqa.parquet

The data must have answers that rules can grade: letters, numbers, short words, not the
sentences of RaR-Science.
Cost: 500 steps of 32 questions with 4 answers of up to 4,096 new tokens, twenty times the tokens of an RCSD run.
Keys and values of 8B are 147 kB a token, 77 GB for the 128 answers at their longest: share them out over at least two
devices of 80 GB, or lower train.questions.
Numbers to expect: the RCSD paper has 69.2 for its GRPO (base 65.9, Qwen3-8B, average of six benchmarks; other data).
"""

from configs import rcsd


def get_config():
    """Reward 1 for the right final answer; group-relative advantages, clip 0.2 / 0.28, no KL penalty."""
    config = rcsd.get_config()
    config.name = "grpo"
    config.description = "GRPO on the reference answers"
    config.objective = "grpo"
    config.data.source = "medmcqa"
    config.rubrics.source = "none"
    config.reward.kind = "accuracy"
    config.policy.update(clip_low=0.2, clip_high=0.28, kl_coefficient=0.0, advantage_std="group", aggregation="dapo")
    # Filters bias the gradient (learning/policy.py), and 1.2 without them wanders off: sample what the model says.
    config.sampling.update(temperature=1.0, top_p=1.0, top_k=0)
    config.train.steps = config.optimizer.total_steps = 500
    config.train.samples = 4
    config.train.micro_batches = 8
    return config
