"""The language model: one decoder for Qwen3, Qwen2.5, Llama 3 and SmolLM2, and what is done with it.

A model is three frozen records (``Architecture``, ``Compute``, ``LoraConfig``) and a tree of arrays. ``Transformer``
turns tokens into hidden states, never into logits: whoever needs logits takes ``head_VD`` and forms them chunk by
chunk. ``variables`` maps the collections "params" and, with adapters, "lora" to weights; leave "lora" out and the
adapters are off.
"""

from rcsd_jax.lm.architecture import Architecture, Compute, Llama3Rope, LoraConfig
from rcsd_jax.lm.attention import rotation_of
from rcsd_jax.lm.config_json import read_architecture
from rcsd_jax.lm.continuous import ContinuousSampler
from rcsd_jax.lm.hub import altered
from rcsd_jax.lm.huggingface import check_weights, declared, export, fetch, load
from rcsd_jax.lm.lora import merge
from rcsd_jax.lm.plain_attention import attend
from rcsd_jax.lm.sampler import Sampler, cache_lengths, sample
from rcsd_jax.lm.sampling import SamplingConfig
from rcsd_jax.lm.scoring import NEVER, hidden_of_completion, logit_at, logits_of, rows_in_cache
from rcsd_jax.lm.tokenizer import ChatTokenizer
from rcsd_jax.lm.transformer import Block, Transformer, axes, head_VD, init, layer_variables

__all__ = [
    "NEVER",
    "Architecture",
    "Block",
    "ChatTokenizer",
    "Compute",
    "ContinuousSampler",
    "Llama3Rope",
    "LoraConfig",
    "Sampler",
    "SamplingConfig",
    "Transformer",
    "altered",
    "attend",
    "axes",
    "cache_lengths",
    "check_weights",
    "declared",
    "export",
    "fetch",
    "head_VD",
    "hidden_of_completion",
    "init",
    "layer_variables",
    "load",
    "logit_at",
    "logits_of",
    "merge",
    "read_architecture",
    "rotation_of",
    "rows_in_cache",
    "sample",
]
