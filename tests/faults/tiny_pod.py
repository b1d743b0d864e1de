"""Runs in sizes that teach nothing, for processes that are started and killed; ``:everything`` is one of ``KINDS``."""

import tiny_pipeline

AHEAD = {"train.staleness": 1, "divergence.importance": "prefix", "divergence.importance_cap": 2.0}
KINDS = {
    "sft": {"objective": "sft", "train.steps": 30, "train.checkpoint_every": 3},
    "everything": {
        **AHEAD,  # the second step learns from a rollout that was sampled ahead
        "objective": "distill_grpo",
        "evaluation.splits": ("eval",),
        "evaluation.limit": 6,
    },
    "ahead": {**AHEAD, "train.steps": 12, "train.checkpoint_every": 3},
    "grpo": {
        "objective": "grpo",
        "rubrics.source": "none",
        "train.steps": 6,
        "train.samples": 4,
        "train.updates_per_rollout": 2,
        "train.sampling_batch": 2,
        "policy.kl_coefficient": 0.001,
        "policy.importance_cap": 2.0,
    },
    "generator": {"task": "rubric", "data.split": "rubric", "teacher.context": ("reference",), "train.steps": 6},
    **{
        kind: {"teacher.weights.kind": kind, "train.steps": 6}
        for kind in ("base", "live", "ema", "snapshot", "trust_region")
    },
    "rubrics": {"task": "rubric", "data.split": "rubric", "data.limit": 6, "rubrics.retries": 0},
}


def get_config(kind="sft"):
    config = tiny_pipeline.common()
    config.name = kind
    config.model.science.update(layers=1, kv_heads=2)
    config.train.update(steps=3, questions=4, checkpoint_every=2, rows=8, row_length=128)
    config.data.limit = 20
    config.sampling.max_new_tokens = 6
    config.evaluation.update(splits=(), batch=4, greedy=False)
    config.evaluation.sampling.max_new_tokens = 6
    config.update_from_flattened_dict(KINDS[kind])
    return config
