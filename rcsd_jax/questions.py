"""The problems of a run and the rubrics that its teacher reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from rcsd_jax import config, data, rubrics
from rcsd_jax.types import Problem, Rubric

Check = Callable[[Problem, str], tuple[bool, ...]]
TRAINED_ON = "trained_on.txt"  # in the folder of a model: a hash of every question that it was trained on, a line each

# Control -> (its argument, the key of config.rubrics that sets it).
STRENGTHS = {
    "noisy": ("rate", "noise_rate"),
    "reduced": ("keep", "keep"),
    "dropped": ("probability", "drop_probability"),
}


def load(questions: config.Data, split: str) -> list[Problem]:
    """The problems of one split, in a fixed order.

    Raises:
      ValueError: no such split, a bad file, or a split without a question.
    """
    if questions.source == "science":
        splits = data.science.splits(questions.science)
    else:
        problems = data.read(questions.source, questions.path, max_bad_rows=questions.max_bad_rows)
        shares = {"eval": questions.eval_share, "rubric": questions.rubric_share}
        splits = data.divide(problems, shares, rest="train")
    if split not in splits:
        raise ValueError(f"there is no split {split!r} in {questions.source}: use one of {', '.join(splits)}")
    problems = splits[split]
    if not problems:
        raise ValueError(f"split {split!r} of {questions.path or questions.source} is empty: change its share")
    return problems[: questions.limit or None]


def trained_on(source: str) -> frozenset[str]:
    """Hashes of the questions that the model in the folder ``source`` was trained on; none if it does not say."""
    path = epath.Path(source).expanduser() / TRAINED_ON
    return frozenset(path.read_text().split()) if path.exists() else frozenset()


def history(experiment: config.Experiment) -> str:
    """The file ``TRAINED_ON`` of the model that a run makes: its questions, and those of the model it began with.

    All of its split, also those that are dropped or not reached.
    """
    mine = map(data.question_hash, load(experiment.data, experiment.data.split))
    return "".join(f"{line}\n" for line in sorted({*mine, *trained_on(experiment.model.source)}))


def guidance(experiment: config.Experiment, problems: Sequence[Problem]) -> dict[str, Rubric]:
    """Problem id to the rubric that the teacher reads; questions without one are left out.

    The control is applied last, so that "random" deals out only rubrics that the source really has.
    """
    source = experiment.rubrics.source
    if source == "ground_truth":
        found = {problem.id: problem.rubric for problem in problems if problem.rubric is not None}
    elif source == "cache":
        by_question = rubrics.RubricCache(experiment.rubrics.path).by_question()
        if not by_question:
            raise ValueError(
                f"{experiment.rubrics.path} holds no valid rubric: run rcsd_jax.write_rubrics into it, or see in the "
                "done.json beside it why all were dropped"
            )
        asked = {problem.id: rubrics.prompts.question_text(problem) for problem in problems}
        found = {id: by_question[text] for id, text in asked.items() if text in by_question}
    elif source == "generic":
        found = _perturbed(experiment, "generic", {problem.id: None for problem in problems})
    else:
        return {}
    control = experiment.rubrics.control
    if control == "as_is":
        return found
    return _perturbed(experiment, control, found)


def _perturbed(experiment: config.Experiment, control: str, found: Mapping[str, Rubric | None]) -> dict[str, Rubric]:
    settings: dict[str, Any] = _strength(experiment.rubrics) if control == experiment.rubrics.control else {}
    if control == "generic" and experiment.data.source == "science":
        settings["rubric"] = data.science.GENERIC  # in words that a model of this world can read
    return rubrics.CONTROLS[control].apply(found, experiment.seed, **settings)


def keep_perturbed(
    experiment: config.Experiment, problems: Sequence[Problem], made: Mapping[str, Rubric], path: os.PathLike[str] | str
) -> None:
    """Writes the rubrics that a control has made of those of ``problems``, for ``rubrics.source="cache"`` to read.

    Nothing is written where no control is at work; a file that is there is replaced.
    """
    if experiment.rubrics.control == "as_is" or not made:
        return
    line, seed = describe(experiment), json.dumps({"seed": experiment.seed})
    keys = {p.id: rubrics.RubricKey(rubrics.prompts.question_text(p), line, "", seed) for p in problems}
    epath.Path(path).unlink(missing_ok=True)
    rubrics.RubricCache(path).extend((keys[id], rubrics.Entry(rubric)) for id, rubric in made.items())


def describe(experiment: config.Experiment) -> str:
    """Which rubrics these are, in a line: "ground_truth, noisy: random words in place of ... (rate 0.3, seed 0)"."""
    source, control = experiment.rubrics.source, experiment.rubrics.control
    source = f"{source} {experiment.rubrics.path}" if source == "cache" else source
    if source == "none" or control == "as_is":
        return source
    settings = [f"{name} {value}" for name, value in _strength(experiment.rubrics).items()]
    settings.append(f"seed {experiment.seed}")
    return f"{source}, {control}: {rubrics.CONTROLS[control].description} ({', '.join(settings)})"


def _strength(settings: config.Rubrics) -> dict[str, float]:
    if settings.control not in STRENGTHS:
        return {}
    argument, key = STRENGTHS[settings.control]
    return {argument: getattr(settings, key)}


def check_of(questions: config.Data) -> Check | None:
    """What says whether a text meets the criteria of a problem; only the science world can say it without a judge."""
    return data.science.check if questions.source == "science" else None
