"""What a rollout gains where questions wait for places: python -m benchmarks.waiting

SmolLM2-135M's shape with random weights and so many EOS ids that lengths are geometric. A rollout is sampled with all
questions at once, and with fewer at a time (``train.sampling_batch``); these take turns. ``docs/results/speed.md`` gets
the table.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import jax
import numpy as np

from benchmarks import machine, ours, page
from benchmarks.case import SMOL, Case
from rcsd_jax import learning, lm, memory, models, sharding
from rcsd_jax.rollout import Generator

CASE = Case(SMOL, questions=32, samples=1, prompt=64, completion=256)
MEAN, AT_A_TIME, ROUNDS = 64, (32, 16, 8), 5


class Tokenizer:
    """As much of one as a generator reads: every token may be the last one, with a chance of 1 in ``MEAN``."""

    eos_ids, pad_id, vocab_limit = tuple(range(0, SMOL.vocab_size, MEAN)), 1, SMOL.vocab_size


def measured() -> dict[int, list[float]]:
    """Questions at a time -> tokens a second of each round, without the first, which compiles."""
    transformer = ours.transformer_of(CASE)
    variables = ours.state_of(CASE, transformer, learning.TeacherConfig("live")).variables
    tokenizer: Any = Tokenizer()
    model, mesh = models.LanguageModel(transformer, {}, tokenizer), sharding.make_mesh(devices=jax.devices()[:1])
    sampling = lm.SamplingConfig(max_new_tokens=CASE.completion)
    prompts = np.asarray(ours.prompts_of(CASE, CASE.prompt).tokens_GP).tolist()
    names, found = [str(question) for question in range(CASE.questions)], {at: [] for at in AT_A_TIME}
    with jax.set_mesh(mesh):
        generators = {at: Generator(model, sampling, CASE.samples, (CASE.prompt,), mesh, batch=at) for at in AT_A_TIME}
        for turn in range(1 + ROUNDS):
            for at, generator in generators.items():
                start = time.perf_counter()
                rollout = jax.block_until_ready(generator(variables, prompts, names, jax.random.key(turn)))
                seconds = time.perf_counter() - start
                if turn:
                    found[at].append(int(rollout.valid_BC.sum()) / seconds)
    return found


def section(found: dict[int, list[float]]) -> str:
    """The table as Markdown."""
    lines = [
        "## Rollouts of uneven lengths",
        "",
        f"`python -m benchmarks.waiting`, commit {machine.commit()}, jax {jax.__version__}, load"
        f" {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {len(os.sched_getaffinity(0))} used. {CASE.questions}"
        f" questions, SmolLM2-135M's shape in {CASE.dtype}, room for {CASE.completion} tokens, lengths geometric with"
        f" mean {MEAN}. Tokens a second: median (least to most) of {ROUNDS} rounds; sides take turns.",
        "",
        "| `train.sampling_batch` | tokens/s | faster |",
        "|---|---|---|",
    ]
    whole = found[CASE.questions]
    for at, rates in found.items():
        ratio = statistics.median(few / together for few, together in zip(rates, whole, strict=True))
        spread = f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
        lines.append(f"| {'all' if at == CASE.questions else at} | {spread} | {ratio:.2f}x |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures, and writes the page."""
    memory.keep_freed()  # as a run does
    text = section(measured())
    (page.RESULTS / "speed" / "waiting.md").write_text(text)
    page.write()
    print(text)


if __name__ == "__main__":
    main()
