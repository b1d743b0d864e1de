"""The door for settings: behind it nobody sees a dict.

A config file starts from ``default()``, so that every key exists, may be overridden from the command line, and has one
type. ``read`` makes a frozen ``Experiment`` of it, or one ``ConfigError`` that tells everything that is wrong.
"""

from rcsd_jax.config.door import (
    FREE,
    ConfigError,
    as_stored,
    completed,
    content_hash,
    default,
    pipeline,
    read,
    to_json,
    without_free,
)
from rcsd_jax.config.experiment import (
    Data,
    Evaluation,
    Experiment,
    Model,
    Prompts,
    Reward,
    Rubrics,
    ScienceModel,
    Teacher,
    Train,
    Writers,
)

__all__ = [
    "FREE",
    "ConfigError",
    "Data",
    "Evaluation",
    "Experiment",
    "Model",
    "Prompts",
    "Reward",
    "Rubrics",
    "ScienceModel",
    "Teacher",
    "Train",
    "Writers",
    "as_stored",
    "completed",
    "content_hash",
    "default",
    "pipeline",
    "read",
    "to_json",
    "without_free",
]
