"""``python -m rcsd_jax.evaluate --config=configs/rcsd.py --config.model.source=MODEL --workdir=runs/x``.

Samples answers to every question of ``evaluation.splits``, grades them, and writes one record a question to
``evaluation/SPLIT_sampled.jsonl`` and ``SPLIT_greedy.jsonl``, and the summary with intervals to done.json. What a
control made of the rubrics in the prompts is in ``guidance_SPLIT.jsonl``.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import logging

from rcsd_jax import command, config, data, ending, evaluation, hosts, metrics, models, questions, sharding
from rcsd_jax.encoding import Encoder
from rcsd_jax.measure import measure
from rcsd_jax.randomness import key_for
from rcsd_jax.rollout import Generator
from rcsd_jax.types import Problem, Rubric, Tree
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
        examination = Examination(experiment, model, mesh)
        return folder.finish(evaluate_model(examination, model.variables, folder, experiment.name, pulse))


class Asked(NamedTuple):
    """The problems of a split that can be asked, their prompts, how many were dropped by reason, and rubrics by id."""

    problems: list[Problem]
    prompts: list[list[int]]
    dropped: dict[str, int]
    guidance: dict[str, Rubric]


class Examination:
    """All that is asked of a model, and how it is sampled: compiled once, for any number of weights.

    ``seen`` is how many questions of a split are among ``trained_on``, where any are; they are warned of. By default
    those are what the folder of the model says, see ``questions.trained_on``.

    Raises:
      ValueError: no question of a split can be asked.
    """

    def __init__(
        self,
        experiment: config.Experiment,
        model: models.LanguageModel,
        mesh: jax.sharding.Mesh,
        trained_on: Collection[str] | None = None,
    ):
        wanted, self._experiment = experiment.evaluation, experiment
        encoder = Encoder(model.tokenizer, experiment.prompts)
        self._asked = {split: _ask(experiment, encoder, split) for split in wanted.splits}
        known = questions.trained_on(experiment.model.source) if trained_on is None else trained_on
        self.seen = _seen(frozenset(known), {split: asked.problems for split, asked in self._asked.items()})
        modes = {"sampled": (wanted.sampling, wanted.samples)}
        if wanted.greedy:
            modes["greedy"] = (dataclasses.replace(wanted.sampling, temperature=0.0), 1)
        self._generators = {
            mode: Generator(model, sampling, samples, _lengths(experiment), mesh)
            for mode, (sampling, samples) in modes.items()
            if samples
        }

    @property
    def size(self) -> int:
        """How many questions are answered, those of two modes twice."""
        return len(self._generators) * sum(len(asked.problems) for asked in self._asked.values())

    def __call__(
        self, variables: Tree, advance: Callable[[], None]
    ) -> Iterator[tuple[str, dict[str, int], list[evaluation.EvaluationRecord]]]:
        """(name, questions dropped by reason, a graded record of each other one) of every split and mode.

        ``advance`` is called after each question.
        """
        e = self._experiment
        for mode, generator in self._generators.items():
            for split, (problems, prompts, dropped, _) in self._asked.items():
                records = measure(
                    generator,
                    variables,
                    problems,
                    prompts,
                    key_for(e.seed, f"evaluation/{split}/{mode}"),
                    batch=e.evaluation.batch,
                    check=questions.check_of(e.data),
                    tolerance=e.evaluation.tolerance,
                    progress=advance,
                )
                yield f"{split}_{mode}", dropped, records

    def keep_guidance(self, folder: Workdir) -> None:
        """Writes what a control made of the rubrics in the prompts."""
        e = self._experiment
        for split, asked in self._asked.items():
            questions.keep_perturbed(e, asked.problems, asked.guidance, folder / f"guidance_{split}.jsonl")


def evaluate_model(
    examination: Examination, variables: Tree, folder: Workdir, name: str, pulse: ending.Pulse
) -> dict[str, Any]:
    """Measures weights on all splits and modes, and writes the records below ``folder``.

    Raises:
      ending.Ended: it was asked to; what was measured so far is measured again by the next one.
    """
    started, results, tokens = time.monotonic(), {}, 0
    hosts.from_first(lambda: examination.keep_guidance(folder))
    with metrics.Progress(name, examination.size, unit="answered questions") as progress:

        def advance() -> None:
            progress.advance()
            if pulse():
                raise pulse.ended("the measurement begins anew")

        for part, dropped, records in examination(variables, advance):
            if hosts.is_first():
                (folder / "evaluation").mkdir(parents=True, exist_ok=True)
                evaluation.write_records(folder / "evaluation" / f"{part}.jsonl", records)
            tokens += sum(sum(record.lengths) for record in records)
            results[part] = {
                "questions": len(records),
                "dropped": dropped,
                **{key: dataclasses.asdict(interval) for key, interval in evaluation.summarise(records).items()},
            }
    summary = {"results": results, "tokens": tokens, "seconds": round(time.monotonic() - started, 2)}
    return summary | ({"seen_in_training": examination.seen} if examination.seen else {})


def _seen(known: Collection[str], asked: Mapping[str, Sequence[Problem]]) -> dict[str, int]:
    counts = {split: sum(data.question_hash(p) in known for p in problems) for split, problems in asked.items()}
    seen = {split: count for split, count in counts.items() if count}
    for split, count in seen.items():
        logging.warning(
            "%d of the %d questions of split %r are among those that the model was given to train on: what it answers "
            "there says little about others", count, len(asked[split]), split,
        )  # fmt: skip
    return seen


def _ask(experiment: config.Experiment, encoder: Encoder, split: str) -> Asked:
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
    return Asked(kept, prompts, dict(dropped), {problem.id: guidance[problem.id] for problem in kept if guidance})


def _lengths(experiment: config.Experiment) -> tuple[int, ...]:
    prompts = experiment.prompts
    return prompts.teacher_lengths if experiment.evaluation.context else prompts.student_lengths


if __name__ == "__main__":
    command.run(evaluate)
