"""Hugging Face transformers: ``generate`` with a static cache, its fastest on a CPU, and a plain forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.case import Case
from benchmarks.peers.torch_model import DEVICE, device_peak, model_of, tokens_of, wait
from benchmarks.side import Once, serve


def sample(case: Case) -> Once:
    """Sampling from the whole vocabulary at temperature 1; nothing ends early. The weights themselves are bfloat16."""
    model, prompts = model_of(case, case.dtype), tokens_of(case, case.prompt)
    model.generation_config.eos_token_id = None
    options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "pad_token_id": 0}
    cache = {"cache_implementation": "static", "disable_compile": DEVICE == "cpu"}
    length = case.prompt + case.completion

    def once() -> None:
        tokens = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=case.completion,
            **options,
            **cache,
        )
        assert tokens.shape == (case.rows, length), f"{tokens.shape=}"
        wait()

    return torch.no_grad()(once)


def score(case: Case) -> Once:
    """Hidden states of prompt and completion."""
    model, tokens = model_of(case, case.dtype), tokens_of(case, case.teacher_prompt + case.completion)

    def once() -> None:
        _ = model.model(input_ids=tokens, use_cache=False).last_hidden_state
        wait()

    return torch.no_grad()(once)


def rates(case: Case) -> Once:
    """Products and reading by torch, which may know other units of the same machine than XLA does."""
    size, floats = (8192, 2**30) if DEVICE == "cuda" else (2048, 2**26)
    numbers = torch.ones(floats, device=DEVICE)

    def fastest(function: Callable[[], torch.Tensor]) -> float:
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            function()
            wait()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    def once() -> dict[str, float]:
        found = {"read": 4 * floats / fastest(numbers.sum)}
        for dtype in ("float32", "bfloat16"):
            square = torch.ones(size, size, dtype=getattr(torch, dtype), device=DEVICE)
            found[dtype] = 2 * size**3 / fastest(lambda square=square: square @ square.T)
        return found

    return once


if __name__ == "__main__":
    serve({"rates": rates, "sample": sample, "score": score}, device_peak)
