"""A run in sizes that teach nothing, for processes that are started and killed; ``:sft``, ``:grpo`` change its kind."""

import tiny_pipeline

KINDS = {
    "distill": {},
    "sft": {"objective": "sft"},
    "grpo": {"objective": "grpo", "train.samples": 4},
}


def get_config(kind="distill"):
    config = tiny_pipeline.common()
    config.name = kind
    config.model.science.layers = 1
    config.train.update(steps=5, questions=4, checkpoint_every=2, rows=4, row_length=128)
    config.sampling.max_new_tokens = 6
    config.data.limit = 10  # three steps are more than an epoch
    config.evaluation.splits = ()
    config.update_from_flattened_dict(KINDS[kind])
    return config
