"""A sweep of three cells in sizes that teach nothing."""

import tiny_pipeline


def get_config():
    config = tiny_pipeline.get_config()
    config.order, config.seeds = ("base", "opsd", "rcsd_random"), (0,)
    return config
