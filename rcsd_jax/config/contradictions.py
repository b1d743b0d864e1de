"""Values that are out of range, or fine alone and wrong together."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from operator import attrgetter

from rcsd_jax import data, judges, learning, rubrics
from rcsd_jax.config.experiment import Experiment

THINKING = ("on", "off", "default")
ONE_OF = {
    "task": ("answer", "rubric"),
    "objective": tuple(learning.OBJECTIVES),
    "examples": ("solutions", "rubrics", "science_pretraining"),
    "model.trainable": ("params", "lora"),
    "data.source": ("science", *data.READERS),
    "prompts.wording": tuple(rubrics.WORDINGS),
    "prompts.profile": tuple(rubrics.prompts.WRITER_PROFILES),
    "prompts.student_thinking": THINKING,
    "prompts.teacher_thinking": THINKING,
    "prompts.analyst_thinking": THINKING,
    "prompts.writer_thinking": THINKING,
    "prompts.judge_thinking": THINKING,
    "rubrics.source": ("none", "ground_truth", "cache", "generic"),
    "rubrics.control": ("as_is", *rubrics.CONTROLS),
    "teacher.context": rubrics.TEACHER_CONTEXTS,
    "teacher.solutions": ("data", "sibling"),
    "evaluation.context": rubrics.TEACHER_CONTEXTS,
    "reward.kind": ("accuracy", "rubric"),
    "reward.scale": judges.SCALES,
    "reward.weights": judges.WEIGHTS,
    "reward.judge": ("program", "self", "endpoint"),
}
# path -> (least, most); None: no bound.
RANGES = {
    "seed": (0, 2**32 - 1),
    "data.limit": (0, None),
    "data.eval_share": (0, 1),
    "data.max_bad_rows": (0, None),
    "data.rubric_share": (0, 1),
    "rubrics.noise_rate": (0, 1),
    "rubrics.keep": (1, None),
    "rubrics.drop_probability": (0, 1),
    "rubrics.retries": (0, None),
    "teacher.contrast": (0, None),
    "rubrics.min_criteria": (1, None),
    "reward.attempts": (1, None),
    "reward.max_failed": (0, 1),
    "evaluation.limit": (0, None),
    "evaluation.every": (0, None),
    "evaluation.batch": (1, None),
    "evaluation.samples": (0, None),
    "evaluation.tolerance": (0, None),
    "train.steps": (1, None),
    "train.questions": (1, None),
    "train.samples": (1, None),
    "train.updates_per_rollout": (1, None),
    "train.staleness": (0, 1),
    "train.rows": (1, None),
    "train.row_length": (2, None),
    "train.micro_batches": (1, None),
    "train.checkpoint_every": (1, None),
    "train.keep_every": (0, None),
    "train.max_skipped": (1, None),
    "train.trajectories_every": (1, None),
    "train.sampling_batch": (0, None),
}


def contradictions(experiment: Experiment) -> list[str]:
    """One line for each thing that is wrong, with the cure."""
    return [*_names(experiment), *_ranges(experiment), *_together(experiment), *_of_sampled_objectives(experiment)]


def _names(e: Experiment) -> Iterator[str]:
    for path, allowed in ONE_OF.items():
        value = attrgetter(path)(e)
        for name in value if isinstance(value, tuple) else (value,):
            if name not in allowed:
                near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
                hint = f": did you mean {near[0]!r}?" if near else ""
                yield f"config.{path} is {name!r}, not one of {', '.join(allowed)}{hint}"


def _ranges(e: Experiment) -> Iterator[str]:
    for path, (least, most) in RANGES.items():
        value = attrgetter(path)(e)
        if value < least or (most is not None and value > most):
            yield f"config.{path} is {value}: give at least {least}" + (f", at most {most}" if most is not None else "")
    prompts = ("prompts.student_lengths", "prompts.teacher_lengths", "prompts.judge_lengths")
    for path in (*prompts, "train.completion_lengths"):
        lengths = attrgetter(path)(e)
        is_missing = not lengths and path in prompts
        if is_missing or list(lengths) != sorted(set(lengths)) or any(length < 1 for length in lengths):
            yield f"config.{path} is {lengths}: give increasing positive lengths"


def _together(e: Experiment) -> Iterator[str]:
    distills_answers = e.objective in learning.TAUGHT and e.task == "answer"
    for section, reads in (("teacher", distills_answers), ("evaluation", True)):
        if reads and "rubric" in getattr(e, section).context and e.rubrics.source == "none":
            yield (
                f"config.{section}.context has 'rubric' and config.rubrics.source is 'none': "
                "name a source, or take it out"
            )
    if e.teacher.reason_first and not (distills_answers and e.teacher.context):
        yield (
            "config.teacher.reason_first is on: it needs an objective with a teacher, task 'answer' and some "
            "config.teacher.context to reason about"
        )
    if e.teacher.reason_first and e.teacher.context == ("rubric",) and e.rubrics.control == "none":
        yield (
            "config.rubrics.control 'none' leaves config.teacher.reason_first nothing to reason about: turn it off, or "
            "add 'reference' to config.teacher.context"
        )
    if e.optimizer.schedule != "constant" and e.optimizer.total_steps < e.train.steps:
        yield (
            f"config.optimizer.total_steps is {e.optimizer.total_steps}, config.train.steps is {e.train.steps}: "
            "the learning rate would be 0 before the end, make them equal"
        )
    if e.rubrics.source == "cache" and not e.rubrics.path:
        yield "config.rubrics.source is 'cache' and config.rubrics.path is empty: name the file of write_rubrics"
    if e.rubrics.min_criteria > e.rubrics.max_criteria:
        yield (
            f"config.rubrics.min_criteria is {e.rubrics.min_criteria}, max_criteria is {e.rubrics.max_criteria}: "
            "no rubric has so few and so many"
        )
    if e.data.source != "science" and not e.data.path:
        yield f"config.data.source is {e.data.source!r} and config.data.path is empty: name its file"
    if e.data.eval_share + e.data.rubric_share > 1:
        yield "config.data.eval_share and config.data.rubric_share sum to more than 1: lower one of them"
    for path in ("evaluation.every", "train.keep_every"):
        if e.train.checkpoint_every > 0 and attrgetter(path)(e) % e.train.checkpoint_every:
            yield (
                f"config.{path} is {attrgetter(path)(e)}: make it a multiple of config.train.checkpoint_every "
                f"({e.train.checkpoint_every})"
            )
    if e.examples == "science_pretraining" and e.data.source != "science":
        yield "config.examples is 'science_pretraining': that needs config.data.source='science'"
    if e.model.trainable == "lora" and e.model.source == "science":
        yield "config.model.trainable is 'lora': a model from scratch has nothing to adapt, train 'params'"
    # The samples of a question stay together: they share its prompt.
    name = "rows" if e.objective == "sft" else "questions"
    if e.train.micro_batches > 0 and getattr(e.train, name) % e.train.micro_batches:
        yield (
            f"config.train.micro_batches is {e.train.micro_batches}: it must divide the {getattr(e.train, name)} "
            f"{name} of a step"
        )


def _of_sampled_objectives(e: Experiment) -> Iterator[str]:
    updates, is_taught = e.train.updates_per_rollout, e.objective in learning.TAUGHT
    for name in ("steps", "checkpoint_every") if updates > 1 else ():
        if getattr(e.train, name) % updates:
            yield (
                f"config.train.{name} is {getattr(e.train, name)}: make it a multiple of config.train."
                f"updates_per_rollout ({updates}), a run cannot be resumed in the midst of a rollout"
            )
    if updates > 1 and is_taught and e.model.trainable == "params" and e.teacher.weights.kind != "base":
        yield (
            f"config.train.updates_per_rollout is {updates}: a teacher whose LM head moves would be read with another "
            "head than it scored with, use config.teacher.weights.kind 'base' or adapters"
        )
    if e.gates.look_at_entropy and not is_taught:
        yield f"config.gates looks at entropies: objective {e.objective!r} has no teacher, use gates by place"
    reads_odds = e.objective not in ("sft", "distill", "best_of_n") or (is_taught and e.divergence.importance_cap)
    if e.sampling.temperature == 0 and reads_odds:
        yield f"config.sampling.temperature is 0: objective {e.objective!r} needs the odds of a sample, give 1"
    ignored = [name for name in ("importance_cap", "kl_coefficient") if getattr(e.policy, name)]
    if e.objective == "distill_sampled" and ignored:
        yield f"config.policy.{ignored[0]} is set: objective 'distill_sampled' has no reward and does not read it"
    if e.policy.aggregation == "dr_grpo" and e.train.completion_lengths:
        yield (
            "config.policy.aggregation 'dr_grpo' divides by the room of completions: leave out "
            "config.train.completion_lengths, which would change it from step to step"
        )
    if e.objective == "distill_grpo" and (e.policy.aggregation, e.divergence.reduction) != ("dapo", "token"):
        yield (
            "config.objective is 'distill_grpo': divergence and reward share one mean over tokens, use "
            "config.policy.aggregation 'dapo' and config.divergence.reduction 'token'"
        )
    if e.objective == "distill_grpo" and e.divergence.importance_cap and e.divergence.importance == "token":
        yield (
            "config.divergence.importance_cap is set: beside a reward only config.divergence.importance 'prefix' is "
            "read, use that or None"
        )
    if e.objective == "distill_sampled" and e.divergence.importance_cap:
        yield "config.divergence.importance_cap is set: objective 'distill_sampled' has a ratio of its own, use None"
    if e.divergence.importance == "prefix" and not e.divergence.importance_cap:
        yield "config.divergence.importance is 'prefix': it needs a config.divergence.importance_cap, such as 2"
    if e.train.staleness:
        yield from _of_older_weights(e)
    if is_taught:
        yield from _of_teachers(e)
    if e.is_rewarded:
        yield from _of_rewards(e)


def _of_older_weights(e: Experiment) -> Iterator[str]:
    """Rollouts that are sampled one step ahead: their losses must correct for it."""
    if e.objective in ("sft", "best_of_n"):
        yield (
            f"config.train.staleness is 1: objective {e.objective!r} has no correction for samples of older weights, "
            "use 0"
        )
    if 0 < e.train.sampling_batch < e.train.questions:
        yield (
            f"config.train.staleness is 1 and config.train.sampling_batch {e.train.sampling_batch}: the host would "
            "wait for what is sampled ahead, use one of the two"
        )
    divergence = e.divergence
    if e.objective in ("distill", "distill_grpo") and not (
        divergence.importance_cap and divergence.importance == "prefix"
    ):
        yield (
            "config.train.staleness is 1: correct the divergence for samples of older weights, with "
            "config.divergence.importance 'prefix' and a config.divergence.importance_cap such as 2.0"
        )


def _of_teachers(e: Experiment) -> Iterator[str]:
    keeping = ("base", "trust_region", "separate", *(("live",) if e.model.trainable == "lora" else ()))
    if e.has_kl_penalty and e.teacher.weights.kind not in keeping:
        yield (
            f"config.policy.kl_coefficient is {e.policy.kl_coefficient}: with config.teacher.weights.kind "
            f"{e.teacher.weights.kind!r} nobody keeps the weights that training began with: use 'base'"
        )
    if (e.teacher.weights.kind == "separate") != bool(e.teacher.source):
        yield (
            f"config.teacher.weights.kind is {e.teacher.weights.kind!r}, config.teacher.source {e.teacher.source!r}: a "
            "separate teacher has both, kind 'separate' and a source"
        )
    if e.teacher.weights.kind == "separate" and (e.has_kl_penalty or e.judges_itself):
        yield (
            "config.teacher.weights.kind is 'separate': no weights are kept from before training, use "
            "config.policy.kl_coefficient 0 and another judge than 'self'"
        )
    if e.teacher.solutions == "sibling" and (e.teacher.reason_first or "solution" not in e.teacher.context):
        yield (
            "config.teacher.solutions is 'sibling': config.teacher.context must have 'solution', and "
            "config.teacher.reason_first must be off"
        )
    plain = e.teacher.solutions == "data" and not e.teacher.reason_first
    if e.teacher.contrast > 0 and not (plain and "rubric" in e.teacher.context and e.task == "answer"):
        yield (
            f"config.teacher.contrast is {e.teacher.contrast}: it needs task 'answer', 'rubric' in "
            "config.teacher.context, and neither siblings nor config.teacher.reason_first"
        )
    shows = e.teacher.context and not (e.teacher.context == ("rubric",) and e.rubrics.control == "none")
    if e.divergence.purify is not None and not (plain and shows and e.task == "answer" and not e.teacher.contrast):
        yield (
            f"config.divergence.purify is {e.divergence.purify}: it needs task 'answer', a config.teacher.context that "
            "shows something, and neither config.teacher.contrast, siblings nor config.teacher.reason_first"
        )


def _of_rewards(e: Experiment) -> Iterator[str]:
    if e.task != "answer":
        yield f"config.objective is {e.objective!r}: rewards are for answers, make config.task 'answer'"
    if e.train.samples < 2:
        yield (f"config.train.samples is {e.train.samples}: the samples of a question are compared, give at least 2")
    if e.reward.kind != "rubric":
        return
    if e.reward.judge == "program" and (e.data.source != "science" or e.reward.scale != "explicit"):
        yield (
            "config.reward.judge is 'program': only the science world can check a rubric without a judge, and only "
            "with config.reward.scale 'explicit'; elsewhere use 'self' or 'endpoint'"
        )
    if e.reward.judge == "endpoint" and not (e.reward.endpoint.url and e.reward.endpoint.model):
        yield (
            "config.reward.judge is 'endpoint': name it in config.reward.endpoint.url (such as "
            "http://localhost:8000/v1) and config.reward.endpoint.model"
        )
