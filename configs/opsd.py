"""On-policy self-distillation (arXiv 2601.18734) with Qwen3: the teacher reads the reference instead of a rubric.

    python -m rcsd_jax.train --config=configs/opsd.py --workdir=runs/opsd --config.data.path=rar_science.jsonl

Cost: 100 steps of 32 questions with up to 1,024 new tokens, a quarter of an RCSD run.
Numbers to expect: the RCSD paper has 69.7 for it (base 65.9, Qwen3-8B, average of six benchmarks).
"""

from configs import rcsd


def get_config():
    """The published defaults of OPSD where they differ from RCSD."""
    config = rcsd.get_config()
    config.name = "opsd"
    config.description = "OPSD: the teacher reads the reference answer"
    config.rubrics.source = "none"
    config.teacher.context = ("reference",)
    config.prompts.student_thinking = "off"
    config.sampling.temperature = 1.1
    config.sampling.max_new_tokens = 1024
    config.train.completion_lengths = (512,)
    config.divergence.entry_clip = 0.05
    config.optimizer.max_grad_norm = 0.1
    return config
