"""The rows of the suites: which case, which task, who else does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from benchmarks import work
from benchmarks.case import NARROW, QWEN_06B, QWEN_8B, QWEN_17B, SMOL, Case, Model

# What a task or a part of one has to do; a task that is not here has no bound.
WORK: dict[str, Callable[[Case], list[work.Work]]] = {
    "divergence": work.divergence,
    "learn": work.learn,
    "sample": work.sample,
    "save": work.save,
    "score": work.score,
    "step": work.step,
    "train": work.train,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
      name: for ``--only``.
      says: what is compared, for the reader of the table.
      task: of ``ours``, and of the peers.
      case: the sizes.
      peers: modules of ``peers/`` that do the same.
      variants: other ways of our own: "naive", the first version, is the task ``<task>_naive``; "unshared" has a
        prompt for each completion, as the peers compute it.
    """

    name: str
    says: str
    task: str
    case: Case
    peers: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()

    def side(self, name: str) -> tuple[str, Case]:
        """Task and case of ours, a variant or a peer."""
        task = f"{self.task}_naive" if name == "naive" else self.task
        return task, self.case.unshared() if name == "unshared" else self.case

    def tiny(self) -> Row:
        """The same at sizes that only show that everything runs."""
        return dataclasses.replace(self, case=self.case.tiny())


def cpu() -> list[Row]:
    """SmolLM2-135M's shape; bfloat16 products, float32 weights where they learn."""
    one, four, wide = Case(SMOL), Case(SMOL, questions=4), dataclasses.replace(SMOL, vocab_size=151936)
    samplers, learners, losses = ("transformers", "tunix"), ("trl", "liger", "tunix"), ("trl", "liger")
    unshared, naive = ("unshared",), ("naive",)
    rows = [
        Row("sample_8", "sample 8 completions of one prompt", "sample", one, samplers, unshared),
        Row("sample_32", "sample 8 completions of 4 prompts", "sample", four, samplers, unshared),
        Row("score", "teacher's pass, 8 completions of one prompt", "score", one, ("transformers",), unshared),
        Row(
            "divergence",
            "head and JSD, 1024 tokens, float32",
            "divergence",
            Case(SMOL, dtype="float32"),
            losses,
            naive,
        ),
        Row(
            "divergence_wide",
            "head and JSD, 1024 tokens, bfloat16, 151,936 words",
            "divergence",
            Case(wide),
            losses,
            naive,
        ),
        Row("learn", "teacher and train step, 8 completions of one prompt", "learn", one, learners, unshared),
        Row("step", "whole RCSD step, 8 completions of one prompt", "step", one, ("trl",), unshared),
        Row("save", "checkpoint of weights and moments", "save", one),
    ]
    return rows + compiles(one, NARROW)


def gpu() -> list[Row]:
    """Qwen3's shapes in bfloat16; the largest learns adapters only."""
    rows = []
    for size, model in (("0.6B", QWEN_06B), ("1.7B", QWEN_17B), ("8B", QWEN_8B)):
        still = Case(model, prompt=512, completion=256, param_dtype="bfloat16", remat="dots")
        for questions, samples in ((1, 1), (4, 8), (32, 8)):
            case = dataclasses.replace(still, questions=questions, samples=samples)
            name = f"sample_{size}_{case.rows}"
            rows.append(Row(name, f"{size}, sample {case.rows} rows", "sample", case, ("transformers",)))
        case = dataclasses.replace(still, questions=4, teacher_prompt=1024, completion=1024, micro_batches=4)
        rows.append(Row(f"score_{size}", f"{size}, teacher's pass over 32 rows", "score", case, ("transformers",)))
        says = f"{size}, teacher and train step, 32 rows"
        if model is QWEN_8B:  # the peers' loop has no adapters
            rows.append(Row(f"learn_{size}", f"{says}, adapters", "learn", dataclasses.replace(case, lora=64)))
        else:
            case = dataclasses.replace(case, param_dtype="float32")
            rows.append(Row(f"learn_{size}", says, "learn", case, ("liger",)))
        if model is QWEN_17B:
            rows.append(Row("step", f"{size}, whole RCSD step, 32 rows, 1024 new tokens", "step", case))
            rows.append(Row("save", f"{size}, checkpoint of weights and moments", "save", case))
            rows += compiles(case, dataclasses.replace(QWEN_06B, vocab_size=8192))
    long = Case(QWEN_17B, samples=1, completion=4096)
    says = "1.7B, head and JSD, 4096 tokens, 151,936 words"
    return [*rows, Row("divergence", says, "divergence", long, ("liger",), ("naive",))]


def compiles(case: Case, narrow: Model) -> list[Row]:
    """Compiling the three programs of a step: cold, with a warm cache, and at three depths."""
    rows = [
        Row("compile_cold", "compile sampler, teacher and train step", "compile_cold", case),
        Row("compile_warm", "the same with jax's persistent cache", "compile_warm", case),
    ]
    for layers in (4, 16, 36):
        model = dataclasses.replace(narrow, layers=layers)
        deep = dataclasses.replace(case, model=model, prompt=64, teacher_prompt=64, completion=64)
        rows.append(Row(f"compile_{layers}", f"compile the same, {layers} narrow layers", "compile_cold", deep))
    return rows


SUITES: dict[str, Callable[[], list[Row]]] = {"cpu": cpu, "gpu": gpu}
