"""Stage 1 with Qwen3: learn to write a rubric for a question; the teacher also sees the reference answer.

    python -m rcsd_jax.train --config=configs/rubric_generator.py --workdir=runs/generator \
        --config.data.path=rar_science.jsonl
    python -m rcsd_jax.write_rubrics --config=configs/rubric_generator.py --workdir=runs/rubrics \
        --config.data.path=rar_science.jsonl --config.model.source=runs/generator/model \
        --config.sampling.temperature=0.7

Cost: 100 steps of 32 rubrics of up to 4,096 tokens; writing one rubric for each of 30k questions once.
Numbers to expect, from the paper (rubrics judged 1 to 5): ground truth 4.51, learned 3.94, direct 3.64. The authors'
cache had about 20% invalid rubrics; thinking is off here and an invalid rubric is tried once more.
"""

from configs import rcsd


def get_config(profile="paper"):
    """Student sees x, teacher x and y*; with ``--config=configs/rubric_generator.py:released`` x, y* and x, y*, r."""
    config = rcsd.get_config()
    config.prompts.profile = profile
    config.name = "rubric_generator"
    config.description = "stage 1: a model that writes rubrics"
    config.task = "rubric"
    config.rubrics.source = "none"
    config.prompts.writer_thinking = "off"
    config.divergence.entry_clip = 0.05
    return config
