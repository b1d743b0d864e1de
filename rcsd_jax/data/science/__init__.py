"""The built-in science world: questions with a known method, unit, rubric and check, and rationales with known faults.

Templates over physics, chemistry, biology and earth science give questions whose steps are single operations on
small integers; what a student can get wrong is which step to take. ``splits`` deals the questions out to the stages
of the method, ``pretraining_examples`` is what a base model learns first, ``check`` grades a text against the
ground-truth rubric of its problem, and ``build_tokenizer`` makes a tokenizer with one token a word or number.
"""

from rcsd_jax.data.science.criteria import GENERIC
from rcsd_jax.data.science.noise import NoiseConfig
from rcsd_jax.data.science.pretraining import KINDS, PretrainingConfig, PretrainingExample, pretraining_examples
from rcsd_jax.data.science.rationale import CORRUPTIONS, rationales
from rcsd_jax.data.science.template import Instance, Template
from rcsd_jax.data.science.tokenizer import CHAT_TEMPLATE, EOS, PAD, build_tokenizer
from rcsd_jax.data.science.world import (
    TEMPLATES,
    ScienceConfig,
    check,
    corruption,
    held_out_templates,
    instance_of,
    splits,
)

__all__ = [
    "CHAT_TEMPLATE",
    "CORRUPTIONS",
    "EOS",
    "GENERIC",
    "KINDS",
    "PAD",
    "TEMPLATES",
    "Instance",
    "NoiseConfig",
    "PretrainingConfig",
    "PretrainingExample",
    "ScienceConfig",
    "Template",
    "build_tokenizer",
    "check",
    "corruption",
    "held_out_templates",
    "instance_of",
    "pretraining_examples",
    "rationales",
    "splits",
]
