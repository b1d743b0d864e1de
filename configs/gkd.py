"""On-policy distillation (GKD, arXiv 2306.13649) with Qwen3: a larger model looks at every token of the student's.

    python -m rcsd_jax.train --config=configs/gkd.py --workdir=runs/gkd --config.data.path=rar_science.jsonl

Both models lie on the same devices: 1.7B with adapters and 8B frozen are 20 GB in bfloat16, and the cost is that of an
RCSD run of the small one plus one reading by the large one. Prompts of both have the student's chat template. With
``objective="distill_sampled"`` the large one looks at the sampled tokens only.
Numbers to expect: none published for this pair and these benchmarks.
"""

from configs import rcsd


def get_config():
    """JSD 0.5 at temperature 1, all completions the student's own; the teacher reads what the student reads."""
    config = rcsd.get_config()
    config.name = "gkd"
    config.description = "GKD: a larger model as teacher, no guidance"
    config.model.source = "Qwen/Qwen3-1.7B"
    config.teacher.source, config.teacher.weights.kind = "Qwen/Qwen3-8B", "separate"
    config.teacher.context, config.teacher.reason_first = (), False
    config.rubrics.source = "none"
    config.divergence.update(kind="jsd", beta=0.5, entry_clip=None)
    config.sampling.update(temperature=1.0, top_p=1.0, top_k=0)
    return config
