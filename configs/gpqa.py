"""GPQA-Diamond: graduate-level questions of four choices, which no training has seen, for any model.

    python -m rcsd_jax.evaluate --config=configs/gpqa.py --workdir=runs/gpqa/rcsd \
        --config.data.path=gpqa_diamond.csv --config.model.source=runs/rcsd/model

Cost: 198 questions, 4 samples and a greedy answer each of up to 8,192 tokens: 8 M tokens at the most.
Numbers to expect, from the paper (arXiv 2606.19327, Qwen3-8B): base 60.6, SFT 62.0, GRPO 63.5, OPSD 63.6, RCSD 64.5.
"""

import rcsd_jax.config


def get_config():
    """Sampled at temperature 0.7 with room for a long thought."""
    config = rcsd_jax.config.default()
    config.name = "gpqa"
    config.description = "GPQA-Diamond"
    config.model.source = "Qwen/Qwen3-8B"
    config.model.compute.dtype = config.model.compute.param_dtype = "bfloat16"
    config.data.source = "gpqa_diamond"
    config.data.eval_share = 1.0
    config.prompts.student_thinking = "on"
    config.rubrics.source = "none"
    config.teacher.context = ()
    config.evaluation.batch = 8
    config.evaluation.sampling.temperature, config.evaluation.sampling.top_p = 0.7, 0.95
    config.evaluation.sampling.max_new_tokens = 8192
    return config
