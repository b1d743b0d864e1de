"""The RCSD part of configs/quickstart.py with its model, batch and texts, but from random weights."""

import rcsd_jax.config
from configs import quickstart


def get_config():
    parts = rcsd_jax.config.pipeline("", quickstart.common(), quickstart.parts(), baseline="base").parts
    config = quickstart.common()
    config.update(parts.rcsd_ground_truth.set)
    config.name = "rcsd"
    config.model.source = "science"
    config.train.update(steps=6, checkpoint_every=3)
    config.evaluation.every = 3
    return config
