"""``python -m rcsd_jax.evaluate --config=configs/rcsd.py --config.model.source=MODEL --workdir=runs/x``.

Samples answers to every question of ``evaluation.splits``, grades them, and writes one record a question to
``evaluation/SPLIT_sampled.jsonl`` and ``SPLIT_greedy.jsonl``, and the summary with intervals to done.json.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from typing import Any

import jax

from rcsd_jax import command, config, ending, evaluation, hosts, metrics, models, questions, sharding
from rcsd_jax.encoding import Encoder
from rcsd_jax.measure import measure
from rcsd_jax.randomness import key_for
from rcsd_jax.rollout import Generator
from rcsd_jax.types import Problem
from rcsd_jax.workdir import Workdir


def evaluate(experiment: config.Experiment, workdir: str) -> dict[str, Any]:
    """Measures ``model.source``; a finished workdir is not measured again.

    Returns:
      The summary: for each split and mode every metric with its mean and interval, and what it cost.
    """
    mesh = sharding.make_mesh(experiment.mesh)
    sharding.check_rows({"config.evaluation.batch": experiment.evaluation.batch}, mesh)
    folder = Workdir(workdir, experiment)
    summary = folder.done()
    if summary is not None:
        return summary
    with folder.held() as pulse, jax.set_mesh(mesh):
        model = models.load(models.without_adapters(experiment.model), experiment.seed, mesh)
        return folder.finish(evaluate_model(experiment, model, folder, mesh, pulse))


def evaluate_model(
    experiment: config.Experiment,
    model: models.LanguageModel,
    folder: Workdir,
    mesh: jax.sharding.Mesh,
    pulse: ending.Pulse,
) -> dict[str, Any]:
    """Measures a loaded model on all splits and modes, and writes the records below ``folder``.

    Raises:
      ending.Ended: it was asked to; what was measured so far is measured again by the next one.
    """
    wanted = experiment.evaluation
    modes = {"sampled": (wanted.sampling, wanted.samples)}
    if wanted.greedy:
        modes["greedy"] = (dataclasses.replace(wanted.sampling, temperature=0.0), 1)
    started, results, tokens = time.monotonic(), {}, 0
    encoder = Encoder(model.tokenizer, experiment.prompts)
    asked = {split: _ask(experiment, encoder, split) for split in wanted.splits}
    total = sum(samples > 0 for _, samples in modes.values()) * sum(len(problems) for problems, _, _ in asked.values())
    with metrics.Progress(experiment.name, total, unit="answered questions") as progress:

        def advance() -> None:
            progress.advance()
            if pulse():
                raise pulse.ended("the measurement begins anew")

        for mode, (sampling, samples) in modes.items():
            if not samples:
                continue
            generator = Generator(model, sampling, samples, _lengths(experiment), mesh)
            for split, (problems, prompts, dropped) in asked.items():
                records = measure(
                    generator,
                    model.variables,
                    problems,
                    prompts,
                    key_for(experiment.seed, f"evaluation/{split}/{mode}"),
                    batch=wanted.batch,
                    check=questions.check_of(experiment.data),
                    tolerance=wanted.tolerance,
                    progress=advance,
                )
                if hosts.is_first():
                    (folder / "evaluation").mkdir(parents=True, exist_ok=True)
                    evaluation.write_records(folder / "evaluation" / f"{split}_{mode}.jsonl", records)
                tokens += sum(sum(record.lengths) for record in records)
                results[f"{split}_{mode}"] = {
                    "questions": len(records),
                    "dropped": dropped,
                    **{name: dataclasses.asdict(interval) for name, interval in evaluation.summarise(records).items()},
                }
    return {"results": results, "tokens": tokens, "seconds": round(time.monotonic() - started, 2)}


def _ask(
    experiment: config.Experiment, encoder: Encoder, split: str
) -> tuple[list[Problem], list[list[int]], dict[str, int]]:
    """The problems of a split that can be asked, their prompts, and how many were dropped, by reason."""
    problems = questions.load(dataclasses.replace(experiment.data, limit=experiment.evaluation.limit), split)
    problems = list({problem.id: problem for problem in problems}.values())  # a record has its id for a name
    context, longest = experiment.evaluation.context, _lengths(experiment)[-1]
    guidance = questions.guidance(experiment, problems) if "rubric" in context else {}
    kept, prompts, dropped = [], [], collections.Counter()
    for problem in problems:
        rubric = guidance.get(problem.id)
        missing = encoder.missing(problem, context, rubric)
        if missing is not None:
            dropped[f"no {missing}"] += 1
            continue
        prompt = encoder.guided_answer_prompt(problem, context, rubric) if context else encoder.answer_prompt(problem)
        if len(prompt) > longest:
            dropped["prompt too long"] += 1
        else:
            kept.append(problem)
            prompts.append(prompt)
    if not kept:
        raise ValueError(f"none of the {len(problems)} questions of split {split!r} can be asked: {dict(dropped)}")
    return kept, prompts, dict(dropped)


def _lengths(experiment: config.Experiment) -> tuple[int, ...]:
    prompts = experiment.prompts
    return prompts.teacher_lengths if experiment.evaluation.context else prompts.student_lengths


if __name__ == "__main__":
    command.run(evaluate)
