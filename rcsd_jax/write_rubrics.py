"""``python -m rcsd_jax.write_rubrics --config=configs/rubric_generator.py --config.model.source=M --workdir=runs/x``.

Writes one rubric for every question of ``data.split``, once, into rubrics.jsonl: what is there already is not written
again. An invalid rubric is sampled again with fresh noise, ``rubrics.retries`` times, then dropped and counted.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import jax

from rcsd_jax import command, config, ending, hosts, metrics, models, questions, rubrics, sharding
from rcsd_jax.encoding import Encoder
from rcsd_jax.measure import completions
from rcsd_jax.randomness import key_for
from rcsd_jax.rollout import Generator
from rcsd_jax.types import Problem
from rcsd_jax.workdir import Workdir, write_json


def write_rubrics(experiment: config.Experiment, workdir: str) -> dict[str, Any]:
    """Fills the cache of a workdir; a finished one is not opened again.

    Returns:
      The summary that done.json holds: valid, retried and dropped with reasons, mean quality, tokens, seconds.
    """
    mesh = sharding.make_mesh(experiment.mesh)
    sharding.check_rows({"config.evaluation.batch": experiment.evaluation.batch}, mesh)
    folder = Workdir(workdir, experiment)
    summary = folder.done()
    if summary is not None:
        return summary
    with folder.held() as pulse, jax.set_mesh(mesh):
        model = models.load(models.without_adapters(experiment.model), experiment.seed, mesh)
        return folder.finish(_write(experiment, model, folder, mesh, pulse))


def _write(
    e: config.Experiment,
    model: models.LanguageModel,
    folder: Workdir,
    mesh: jax.sharding.Mesh,
    pulse: ending.Pulse,
) -> dict[str, Any]:
    started = time.monotonic()
    problems = questions.load(e.data, e.data.split)
    encoder = Encoder(model.tokenizer, e.prompts, "rubric")
    rules = rubrics.RubricRules(e.rubrics.min_criteria, e.rubrics.max_criteria)
    cache = rubrics.RubricCache(folder / "rubrics.jsonl", writes=hosts.is_first())
    prompts = {problem.id: encoder.student(problem) for problem in problems}
    asked = [problem for problem in problems if len(prompts[problem.id]) <= e.prompts.student_lengths[-1]]
    too_long = len(problems) - len(asked)
    generator_name = f"{e.model.source}@{models.weights_hash(model.variables)}"
    keys = {problem.id: _key(e, generator_name, problem, prompts[problem.id]) for problem in asked}
    # A question that stands in the data several times is asked once.
    missing = hosts.from_first(lambda: [place for place, p in enumerate(asked) if keys[p.id] not in cache])
    left = list({keys[asked[place].id]: asked[place] for place in missing}.values())
    generator = Generator(model, e.sampling, 1, e.prompts.student_lengths, mesh)
    tokens = 0
    for attempt in range(1, e.rubrics.retries + 2):
        failed, last = [], attempt > e.rubrics.retries
        key = key_for(e.seed, "rubrics", attempt)
        written = completions(
            generator, model.variables, [prompts[p.id] for p in left], [p.id for p in left], key,
            batch=e.evaluation.batch,
        )  # fmt: skip
        with metrics.Progress(f"{e.name}, attempt {attempt}", len(left), unit="rubrics") as progress:
            for problem, (texts, lengths, _) in zip(left, written, strict=True):
                tokens += lengths[0]
                entry = _read(texts[0], problem, rules, e.name, attempt)
                if entry.rubric is None and not last:
                    failed.append(problem)
                else:
                    cache.append(keys[problem.id], entry)
                progress.advance()
                if pulse():
                    raise pulse.ended(f"{len(cache)} rubrics are written")
        left = failed
    return _summary(asked, keys, cache, rules, folder) | {
        "dropped_before": {"prompt too long": too_long} if too_long else {},
        "sampled_tokens": tokens,
        "seconds": round(time.monotonic() - started, 2),
    }


def _key(e: config.Experiment, generator: str, problem: Problem, prompt: Sequence[int]) -> rubrics.RubricKey:
    sampling = json.dumps({**dataclasses.asdict(e.sampling), "seed": e.seed, "retries": e.rubrics.retries})
    return rubrics.RubricKey(rubrics.prompts.question_text(problem), generator, json.dumps(list(prompt)), sampling)


def _read(text: str, problem: Problem, rules: rubrics.RubricRules, origin: str, attempt: int) -> rubrics.Entry:
    try:
        rubric, _ = rubrics.accept(text, problem, rules, origin=origin)
    except rubrics.RubricError as error:
        return rubrics.Entry(None, error.reason, attempt, text)
    return rubrics.Entry(rubric, attempts=attempt)


def _summary(
    problems: Sequence[Problem],
    keys: dict[str, rubrics.RubricKey],
    cache: rubrics.RubricCache,
    rules: rubrics.RubricRules,
    folder: Workdir,
) -> dict[str, Any]:
    entries = [cache.get(keys[problem.id]) for problem in problems]
    found = [entry.rubric if entry else None for entry in entries]
    rows = {p.id: rubrics.quality(rubric, p, rules) for p, rubric in zip(problems, found, strict=True)}
    write_json(folder / "quality.json", rows)
    return {
        "questions": len(problems),
        "valid": sum(rubric is not None for rubric in found),
        "retried": sum(entry is not None and entry.attempts > 1 for entry in entries),
        "dropped": dict(collections.Counter(entry.reason for entry in entries if entry and entry.reason)),
        "quality": rubrics.mean_quality(found, problems, rules),
        "content_hash": cache.content_hash(keys.values()),
    }


if __name__ == "__main__":
    command.run(write_rubrics)
