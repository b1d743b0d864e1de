"""What the peers in torch have in common: a transformers model with random weights, and one distillation step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from benchmarks.case import Case
from benchmarks.side import Once

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# (student hidden, its head, teacher hidden, its head, tokens) -> mean divergence; hidden [B, C, D], head [V, D].
HeadLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def model_of(case: Case, dtype: str) -> LlamaForCausalLM | Qwen3ForCausalLM:
    """The decoder of a case."""
    m = case.model
    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
    config, build = kinds[m.family]
    sizes = config(
        vocab_size=m.vocab_size,
        hidden_size=m.width,
        num_hidden_layers=m.layers,
        num_attention_heads=m.heads,
        num_key_value_heads=m.kv_heads,
        head_dim=m.head_width,
        intermediate_size=m.mlp_width,
        tie_word_embeddings=m.tied,
        max_position_embeddings=case.teacher_prompt + case.completion + 8,
    )
    return build(sizes).to(DEVICE, getattr(torch, dtype)).eval()


def tokens_of(case: Case, length: int) -> torch.Tensor:
    """Random tokens [B, length]."""
    return torch.randint(10, case.model.vocab_size, (case.rows, length), device=DEVICE)


def mixed(case: Case) -> contextlib.AbstractContextManager:
    """Float32 weights, products in the dtype of the case: what trainers call bf16=True."""
    return torch.autocast(DEVICE, torch.bfloat16) if case.dtype == "bfloat16" else contextlib.nullcontext()


def learn(case: Case, head_loss: HeadLoss) -> Once:
    """A frozen teacher's pass, the student's forward and backward pass, AdamW; only completions reach the head."""
    student, teacher = model_of(case, "float32").train(), model_of(case, "float32").requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6)
    completion = tokens_of(case, case.completion)
    student_input = torch.cat([tokens_of(case, case.prompt), completion], 1)
    teacher_input = torch.cat([tokens_of(case, case.teacher_prompt), completion], 1)

    def hidden(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        states = model.model(input_ids=tokens, use_cache=False).last_hidden_state
        return states[:, -case.completion - 1 : -1].contiguous()

    def once() -> dict[str, float]:
        start = time.perf_counter()
        with mixed(case), torch.no_grad():
            teacher_states = hidden(teacher, teacher_input)
        wait()
        scored = time.perf_counter()
        with mixed(case):
            states = hidden(student, student_input)
            loss = head_loss(states, student.lm_head.weight, teacher_states, teacher.lm_head.weight, completion)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()
        return {"score": scored - start, "train": time.perf_counter() - scored}

    return once


def divergence(case: Case, head_loss: HeadLoss) -> Once:
    """The head with its divergence on given hidden states."""
    shape, m = (case.rows, case.completion, case.model.width), case.model
    student_states, teacher_states = torch.randn(shape, device=DEVICE), torch.randn(shape, device=DEVICE)
    heads = [torch.randn(m.vocab_size, m.width, device=DEVICE) * m.width**-0.5 for _ in range(2)]
    heads[0].requires_grad_(not case.lora)
    student_states.requires_grad_(True)
    tokens = tokens_of(case, case.completion)

    def once() -> None:
        with mixed(case):
            loss = head_loss(student_states, heads[0], teacher_states, heads[1], tokens)
        loss.backward()
        student_states.grad = heads[0].grad = None
        wait()

    return once


def wait() -> None:
    """Until the device is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def device_peak() -> int | None:
    """Bytes of device memory used at most; None on a CPU."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None
