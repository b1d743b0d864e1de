"""Floating point operations and bytes, counted from the sizes: what no implementation of the same method can avoid.

Counted are matrix products (2 operations for a multiplication with addition); elementwise work is not. Attention counts
the pairs of tokens that see each other, not the masked ones. Bytes are weights read once a pass, caches and moments;
activations are not counted. So ``seconds`` is a floor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from benchmarks.case import Case

WIDTH = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Work:
    """What one phase needs; ``dtype`` is that of the products, ``disk`` counts bytes that are written to disk."""

    flops: float = 0.0
    bytes: float = 0.0
    disk: float = 0.0
    dtype: str = "bfloat16"

    def seconds(self, rates: Mapping[str, float]) -> float:
        """At least so long; ``rates`` are those of ``ours.MACHINE``, by second."""
        return max(self.flops / rates[self.dtype], self.bytes / rates["read"], self.disk / rates["disk"])


def sample(case: Case) -> list[Work]:
    """Prefill, then a decode step for every token but the first, which the prefill predicts."""
    m, wide = case.model, WIDTH[case.dtype]
    heads = 2.0 * m.head_weights * case.rows
    weights = wide * (m.layer_weights + m.head_weights)
    prefill = _pass(case, case.questions * case.prompt, case.questions * _causal(case.prompt)) + heads
    steps = [Work(prefill, weights, dtype=case.dtype)]
    per_token = 2 * wide * m.layers * m.kv_heads * m.head_width  # keys and values
    for drawn in range(1, case.completion):
        flops = _pass(case, case.rows, case.rows * (case.prompt + drawn)) + heads
        cache = per_token * (case.questions * case.prompt + case.rows * drawn)
        steps.append(Work(flops, weights + cache, dtype=case.dtype))
    return steps


def score(case: Case) -> list[Work]:
    """The teacher's pass over prompts and completions, without the LM head."""
    return [_scored(case, case.teacher_prompt, 1)]


def divergence(case: Case) -> list[Work]:
    """The head with its divergence, forward and backward: two logits, two gradients (one with adapters)."""
    products = 3 if case.lora else 4
    heads = 2 * WIDTH[case.dtype] * case.model.head_weights
    gradient = 0 if case.lora else 4 * case.model.head_weights
    flops = 2.0 * products * case.tokens * case.model.head_weights
    return [Work(flops, heads + gradient, dtype=case.dtype)]


def train(case: Case) -> list[Work]:
    """Forward, backward, divergence, AdamW; the backward pass is twice the forward, once where weights are fixed."""
    m, optimizer = case.model, []
    if not case.lora:
        # Read: weights, gradients, two moments. Written: weights, two moments.
        optimizer = [Work(0, 7 * 4 * m.weights)]
    return [_scored(case, case.prompt, 2 if case.lora else 3), *divergence(case), *optimizer]


def learn(case: Case) -> list[Work]:
    """Teacher and student."""
    return score(case) + train(case)


def step(case: Case) -> list[Work]:
    """A whole RCSD step."""
    return sample(case) + learn(case)


def save(case: Case) -> list[Work]:
    """Weights and two moments, float32."""
    return [Work(disk=3 * 4 * case.model.weights)]


def unbounded(case: Case) -> list[Work]:
    """For what has no floor, such as compiling."""
    return []


def total_flops(works: list[Work]) -> float:
    """Of all phases."""
    return sum(work.flops for work in works)


def _scored(case: Case, prompt: int, times: int) -> Work:
    """Prompts once, completions of every row."""
    tokens = case.questions * prompt + case.tokens
    pairs = case.questions * _causal(prompt) + case.rows * (case.completion * prompt + _causal(case.completion))
    weights = WIDTH[case.dtype] * case.model.layer_weights
    return Work(times * _pass(case, tokens, pairs), times * weights, dtype=case.dtype)


def _pass(case: Case, tokens: int, pairs: int) -> float:
    """Operations of all layers on ``tokens`` tokens of which ``pairs`` pairs see each other."""
    m = case.model
    return 2.0 * m.layer_weights * tokens + 4.0 * m.layers * m.heads * m.head_width * pairs


def _causal(length: int) -> int:
    return length * (length + 1) // 2
