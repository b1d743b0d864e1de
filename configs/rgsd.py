"""Rubric-guided self-distillation (arXiv 2606.12507) with Qwen3: ground-truth rubrics, and only the answer counts.

    python -m rcsd_jax.train --config=configs/rgsd.py --workdir=runs/rgsd --config.data.path=rar_science.jsonl

Cost: that of an RCSD run, without stage 1. Numbers to expect: none published for this base and these benchmarks.
"""

from configs import rcsd


def get_config():
    """The published defaults of RGSD where they differ from RCSD."""
    config = rcsd.get_config()
    config.name = "rgsd"
    config.description = "RGSD: ground-truth rubrics, the thinking is masked"
    config.rubrics.source = "ground_truth"
    config.divergence.kind, config.divergence.beta = "jsd", 0.5
    config.divergence.entry_clip = 0.05
    config.gates.answer_only = True
    return config
