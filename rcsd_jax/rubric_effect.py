"""``python -m rcsd_jax.rubric_effect --config=configs/rcsd.py --config.data.limit=200 --workdir=runs/x``: is it read?

How much a teacher changes its mind because of a rubric: ``model.source`` answers the questions of ``data.split`` with
no guidance, as ``sampling`` says, and reads its answers twice, with the rubric (``rubrics``, ``teacher.context``) and
with everything but the rubric. The effect is the mean over tokens of KL(p_with || p_without) in nats, at the
temperature of ``sampling``. Near 0 the rubric is ignored, and to distill from that teacher is to distill without one.
``quality.json`` has the effect of each question, and ``compare`` shows it beside other numbers of rubrics.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rcsd_jax import (
    command,
    compilations,
    config,
    ending,
    evaluation,
    learning,
    lm,
    metrics,
    models,
    questions,
    sharding,
)
from rcsd_jax.encoding import Encoder
from rcsd_jax.randomness import key_for
from rcsd_jax.rollout import Generator, place_prompts
from rcsd_jax.types import Array, Problem, PromptBatch, Rollout, Rubric, Tree
from rcsd_jax.workdir import Workdir, write_json

NOTHING = Rubric((), origin="none")  # prompts leave it out


def rubric_effect(experiment: config.Experiment, workdir: str) -> dict[str, Any]:
    """Measures the effect; a finished workdir is not measured again.

    Returns:
      The summary that done.json holds: the mean with its interval over questions, questions that were dropped and why.

    Raises:
      ValueError: the teacher reads no rubric, or no question can be asked.
    """
    if "rubric" not in experiment.teacher.context or experiment.task != "answer":
        raise ValueError(
            f"config.teacher.context is {experiment.teacher.context}, config.task {experiment.task!r}: the effect of a "
            "rubric wants 'rubric' in the one and 'answer' for the other"
        )
    mesh = sharding.make_mesh(experiment.mesh)
    sharding.check_rows({"config.evaluation.batch": experiment.evaluation.batch}, mesh)
    folder = Workdir(workdir, experiment)
    summary = folder.done()
    if summary is not None:
        return summary
    with folder.held() as pulse, jax.set_mesh(mesh):
        model = models.load(models.without_adapters(experiment.model), experiment.seed, mesh)
        return folder.finish(_measure(experiment, model, folder, mesh, pulse))


def _measure(
    e: config.Experiment, model: models.LanguageModel, folder: Workdir, mesh: Mesh, pulse: ending.Pulse
) -> dict[str, Any]:
    started = time.monotonic()
    encoder = Encoder(model.tokenizer, e.prompts)
    problems = questions.load(e.data, e.data.split)
    guidance = questions.guidance(e, problems)
    asked, dropped = _fitting(e, encoder, problems, guidance)
    generator = Generator(model, e.sampling, 1, e.prompts.student_lengths, mesh)
    effect = make_effect_step(model, e.sampling.temperature or 1.0)
    key, batch, effects = key_for(e.seed, "rubric effect"), e.evaluation.batch, {}

    def placed(chosen: Sequence[Problem], shown: Callable[[Problem], Rubric]) -> PromptBatch:
        prompts = [encoder.teacher(problem, e.teacher.context, shown(problem)) for problem in chosen]
        return place_prompts(prompts, e.prompts.teacher_lengths, model.tokenizer.pad_id, mesh)

    with metrics.Progress(e.name, len(asked), unit="questions") as progress:
        for start in range(0, len(asked), batch):
            new = asked[start : start + batch]
            chosen = [new[at % len(new)] for at in range(batch)]  # the last batch is filled up: one shape for all
            prompts = [encoder.student(problem) for problem in chosen]
            rollout = generator(model.variables, prompts, [problem.id for problem in chosen], key)
            guided, bare = placed(chosen, lambda problem: guidance[problem.id]), placed(chosen, lambda _: NOTHING)
            found_B = sharding.everywhere(effect(model.variables, rollout, guided, bare), mesh)
            effects |= dict(zip([problem.id for problem in new], np.asarray(found_B).tolist(), strict=False))
            progress.advance(len(new))
            if pulse():
                raise pulse.ended("nothing is saved")
    write_json(folder / "quality.json", {id: {"rubric_effect_nats": value} for id, value in effects.items()})
    interval = evaluation.mean_interval(np.array(list(effects.values())), seed=0)
    return {
        "rubrics": questions.describe(e),
        "rubric_effect_nats": {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n},
        "dropped": dropped,
        "seconds": round(time.monotonic() - started, 2),
    }


def make_effect_step(
    model: models.LanguageModel, temperature: float
) -> Callable[[Tree, Rollout, PromptBatch, PromptBatch], Array]:
    """The jitted ``(variables, rollout, guided, bare) -> effect_B``: the mean over the tokens of each completion of
    KL(p(. | guided) || p(. | bare)) in nats, whole vocabulary, at the temperature; the prompts are one a question.
    """
    transformer, forward = model.transformer, learning.DivergenceConfig("kl_teacher_student", temperature=temperature)

    def step(variables: Tree, rollout: Rollout, guided: PromptBatch, bare: PromptBatch) -> Array:
        head_VD = lm.head_VD(variables, transformer.architecture)
        guided_BCD, bare_BCD = (
            lm.hidden_of_completion(
                transformer, variables, prompts, rollout.completion_BC, rollout.valid_BC, shared=True
            )
            for prompts in (guided, bare)
        )

        def of_completion(row: tuple[Array, Array, Array]) -> Array:
            guided_CD, bare_CD, valid_C = row
            weight_C = valid_C.astype(jnp.float32)
            total, _ = learning.divergence_sum(
                learning.States(bare_CD, head_VD), learning.States(guided_CD, head_VD), weight_C, forward,
                vocab_limit=model.tokenizer.vocab_limit, head_trainable=False,
            )  # fmt: skip
            return total / jnp.sum(weight_C)

        return jax.lax.map(of_completion, (guided_BCD, bare_BCD, rollout.valid_BC))

    return compilations.jit("rubric_effect", step)


def _fitting(
    e: config.Experiment, encoder: Encoder, problems: Sequence[Problem], guidance: dict[str, Rubric]
) -> tuple[list[Problem], dict[str, int]]:
    """The problems whose prompts can be made and fit, and how many were dropped, by reason."""
    asked, dropped = {}, collections.Counter()
    for problem in problems:
        missing = encoder.missing(problem, e.teacher.context, guidance.get(problem.id))
        if missing is not None:
            dropped[f"no {missing}"] += 1
        elif len(encoder.student(problem)) > e.prompts.student_lengths[-1] or (
            len(encoder.teacher(problem, e.teacher.context, guidance[problem.id])) > e.prompts.teacher_lengths[-1]
        ):
            dropped["prompt too long"] += 1
        else:
            asked[problem.id] = problem
    if not asked:
        raise ValueError(
            f"none of the {len(problems)} questions of split {e.data.split!r} can be asked: {dict(dropped)}"
        )
    return list(asked.values()), dict(dropped)


if __name__ == "__main__":
    command.run(rubric_effect)
