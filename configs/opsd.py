"""On-policy self-distillation (arXiv 2601.18734) with Qwen3: the teacher reads the reference instead of a rubric.

    python -m rcsd_jax.train --config=configs/opsd.py --workdir=runs/opsd --config.data.path=rar_science.jsonl

``--config=configs/opsd.py:purified`` takes out of the teacher what the reference says by itself (arXiv 2607.02234).
Cost: 100 steps of 32 questions with up to 1,024 new tokens, a quarter of an RCSD run; purified, three
readings by the teacher instead of one.
Numbers to expect: the RCSD paper has 69.7 for it (base 65.9, Qwen3-8B, average of six benchmarks).
"""

from configs import rcsd


def get_config(target="teacher"):
    """The published defaults of OPSD where they differ from RCSD; ``target`` is the "teacher" or "purified"."""
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
    if target == "purified":
        config.name = "opsd_purified"
        config.description = "Purified OPSD: less what the reference says without the question"
        config.divergence.update(purify=2.0, entry_clip=None)
    return config
