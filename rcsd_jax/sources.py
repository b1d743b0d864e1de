"""Where the batches of a training run come from: rows of given text, or rollouts that the student makes itself."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rcsd_jax import checkpoint, config, data, evaluation, learning, models, questions, rubrics, sharding
from rcsd_jax.collector import Begun, Collected, Collector
from rcsd_jax.encoding import Encoder
from rcsd_jax.examples import supervised_examples
from rcsd_jax.models import LanguageModel
from rcsd_jax.types import FINISHED, Problem, PromptBatch, Rollout, ScoredBatch, TrainState, Tree


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One rollout as text, for people to read."""

    id: str
    question: str
    reference: str
    rubric: str
    text: str
    finished: bool
    good: bool


class Numbers(NamedTuple):
    """What the host finds out about a batch once it is sampled: scalars for the metrics, and some texts."""

    metrics: dict[str, float]
    trajectories: list[Trajectory]


class Source(NamedTuple):
    """``batch(state, step)`` gives a batch, and a function that waits for it and says what the host makes of it.

    ``facts`` go to the summary of the run; ``meta`` is what a run that resumes must find unchanged. ``ahead()`` is what
    the next batch needs beside the state, as ``Checkpoints.save`` takes it, and ``resume(step, ahead)`` gives it back.
    """

    batch: Callable[[TrainState, int], tuple[Tree, Callable[[], Numbers]]]
    facts: dict[str, Any]
    meta: checkpoint.Meta
    ahead: Callable[[], dict[str, Any]] = dict
    resume: Callable[[int, Mapping[str, Any]], None] = lambda step, ahead: None


def of(experiment: config.Experiment, model: LanguageModel, mesh: Mesh) -> Source:
    """The source that the objective learns from."""
    return (rows if experiment.objective == "sft" else rollouts)(experiment, model, mesh)


def rows(experiment: config.Experiment, model: LanguageModel, mesh: Mesh) -> Source:
    """Packed rows of supervised examples; batch t is a function of the seed and t."""
    problems = questions.load(experiment.data, experiment.data.split)
    encoder = Encoder(model.tokenizer, experiment.prompts, experiment.task)
    examples = supervised_examples(experiment, problems, encoder)
    packed, too_long = data.pack(examples, experiment.train.row_length)
    count = packed.tokens_BT.shape[0]
    order = data.batches(range(count), batch_size=experiment.train.rows, seed=experiment.seed)

    def batch(state: TrainState, step: int) -> tuple[Tree, Callable[[], Numbers]]:
        del state
        chosen = np.array(order[step])
        taken = jax.tree.map(lambda x: x[chosen], packed)
        return sharding.place_batch(taken, mesh), lambda: Numbers({}, [])

    facts = {
        "examples": len(examples),
        "dropped": {"example too long": too_long} if too_long else {},
        "rows": count,
        "padding_share": round(float(np.mean(packed.segments_BT == 0)), 4),
    }
    return Source(batch, facts, _meta(experiment, model, problems, ""))


def rollouts(experiment: config.Experiment, model: LanguageModel, mesh: Mesh) -> Source:
    """Scored rollouts of the student's own; see ``collector.Collector``."""
    problems = questions.load(experiment.data, experiment.data.split)
    guidance = questions.guidance(experiment, problems) if experiment.objective in learning.TAUGHT else {}
    collector = Collector(experiment, model, problems, guidance, mesh)
    rules = rubrics.RubricRules(experiment.rubrics.min_criteria, experiment.rubrics.max_criteria)

    def is_good(problem: Problem, text: str) -> bool:
        if experiment.task == "answer":
            return evaluation.grade(problem, text, tolerance=experiment.evaluation.tolerance).correct
        try:
            rubrics.accept(text, problem, rules)
        except rubrics.RubricError:
            return False
        return True

    turns = Turns(collector, experiment.train)

    def batch(state: TrainState, step: int) -> tuple[Tree, Callable[[], Numbers]]:
        given, collected, age = turns(state, step)
        of_age = {"staleness": float(age)} if experiment.train.staleness else {}
        if collected is None:
            return given, lambda: Numbers(of_age, [])
        # What the host looks at a step later must not keep the teacher's hidden states on the device.
        _, rollout, problems, texts, numbers, reads = collected
        return given, lambda: look(rollout, problems, texts(), numbers | of_age, reads)

    def look(
        rollout: Rollout,
        asked: Sequence[Problem],
        texts: Sequence[Sequence[str]],
        numbers: Mapping[str, float],
        reads: int,
    ) -> Numbers:
        good = [[is_good(problem, text) for text in samples] for problem, samples in zip(asked, texts, strict=True)]
        finished_B = np.asarray(rollout.finish_B) == FINISHED
        valid_BC = np.asarray(rollout.valid_BC)
        numbers = {
            **numbers,
            "rollout_accuracy" if experiment.task == "answer" else "rollout_valid": float(np.mean(good)),
            "rollout_length": float(valid_BC.sum(axis=1).mean()),
            "rollout_finished": float(finished_B.mean()),
            "padding_share": float(1 - valid_BC.mean()),
            "sampled_tokens": float(valid_BC.sum()),
        }
        numbers["teacher_tokens"] += reads * float(valid_BC.sum())
        first = [
            Trajectory(p.id, p.question, p.answer, _shown(guidance.get(p.id)), t[0], bool(finished_B[i * len(t)]), g[0])
            for i, (p, t, g) in enumerate(zip(asked, texts, good, strict=True))
        ]
        return Numbers(numbers, first)

    facts: dict[str, Any] = {
        "questions": len(collector.fitting.problems),
        "dropped": {reason: len(ids) for reason, ids in collector.fitting.dropped.items()},
    }
    if guidance and "rubric" in experiment.teacher.context:
        facts["rubrics"] = questions.describe(experiment)
    used = "\n".join(_shown(guidance.get(problem.id)) for problem in collector.fitting.problems)
    meta = _meta(experiment, model, problems, hashlib.sha256(used.encode()).hexdigest())
    return Source(batch, facts, meta, turns.ahead, turns.resume)


class Turns:
    """When rollouts are sampled and scored, and which of them a step learns from; see ``config.Train``.

    A rollout that is sampled ahead is given to the devices before the step that donates its weights, and before the
    host waits for the judge of the rollout before it. Devices keep that order, so nothing is copied; and as no thread
    hands out work, it is the same order on all hosts.
    """

    def __init__(self, collector: Collector, settings: config.Train):
        self._collector, self._settings = collector, settings
        self._ahead: tuple[int, Begun] | None = None  # by the weights that this step began with
        self._held: ScoredBatch | None = None
        self._born = 0  # the step that began with the weights of the rollout that is learned from

    def __call__(self, state: TrainState, step: int) -> tuple[ScoredBatch, Collected | None, int]:
        """The batch of a step, its rollout if that is new, and how many steps ago it was sampled."""
        updates = self._settings.updates_per_rollout
        mine, self._ahead = self._ahead, None
        if mine is None and step % updates == 0:
            mine = step, self._collector.begin(state, step // updates)
        if self._settings.staleness and (step + 1) % updates == 0 and step + 1 < self._settings.steps:
            self._ahead = step, self._collector.begin(state, (step + 1) // updates)
        if mine is None:
            assert self._held is not None, f"{step=} {updates=}"  # checkpoints lie between rollouts
            return self._held, None, step - self._born
        self._born, begun = mine
        collected = self._collector.finish(state, begun)
        self._held = collected.batch if updates > 1 else None
        return collected.batch, collected, step - self._born

    def ahead(self) -> dict[str, Any]:
        """The rollout that was sampled ahead, if any; waits until it is there."""
        if self._ahead is None:
            return {}
        _, begun = self._ahead
        sampled = {"rollout": begun.seen} | ({"analysis": begun.analysis} if begun.analysis is not None else {})
        return {name: dataclasses.asdict(jax.device_get(rollout)) for name, rollout in sampled.items()}

    def resume(self, step: int, ahead: Mapping[str, Any]) -> None:
        """Goes on before ``step`` with what ``ahead`` gave there."""
        if ahead:
            sampled = {name: _rollout(**arrays) for name, arrays in ahead.items()}
            t = step // self._settings.updates_per_rollout
            self._ahead = step - 1, self._collector.begun(t, sampled["rollout"], sampled.get("analysis"))


def _rollout(prompts: Mapping[str, Any], **arrays: Any) -> Rollout:
    return Rollout(prompts=PromptBatch(**prompts), **arrays)


def _shown(rubric: Any) -> str:
    return rubrics.to_json(rubric) if rubric is not None else ""


def _meta(
    experiment: config.Experiment, model: LanguageModel, problems: Sequence[Problem], rubrics_hash: str
) -> checkpoint.Meta:
    return checkpoint.Meta(
        config_hash=config.content_hash(experiment),
        frozen_hash=models.frozen_hash(experiment, model),
        rubrics_hash=rubrics_hash,
        data_hash=data.content_hash(problems),
    )
