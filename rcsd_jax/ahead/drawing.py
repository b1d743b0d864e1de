"""Who draws tokens in a run, and the functions of the two samplers that do it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from rcsd_jax import judges, learning, lm, sharding
from rcsd_jax.ahead.subject import Subject, placed, prompts_of, rows
from rcsd_jax.types import Array, Rubric, TrainState, Tree


class Function(NamedTuple):
    """One jitted function of a run, with abstract arguments.

    ``times`` is how often it runs ``during`` a "step" of training, at the "start", or for as many questions as are
    evaluated or get rubrics at a time ("evaluation", "rubrics"). ``turns`` are those of its loops whose end depends on
    data, at the most. ``beside`` is what lies on the devices besides the arguments: if it is None the state, but for
    the first argument, which is of it.
    """

    name: str
    jitted: Any
    arguments: tuple[Tree, ...]
    times: float = 1.0
    turns: tuple[int, ...] = ()
    during: str = "step"
    beside: Tree | None = None


class Drawing(NamedTuple):
    """``samples`` completions of each of ``questions`` prompts at a time, which have ``length`` tokens at the most.

    With ``is_continuous`` others take the rows of those that end, see ``lm.ContinuousSampler``. ``times`` and
    ``during`` are as in :class:`Function`.
    """

    sampling: lm.SamplingConfig
    samples: int
    questions: int
    length: int
    is_continuous: bool = True
    times: float = 1.0
    during: str = "step"


def drawings(s: Subject) -> dict[str, Drawing]:
    """Everything that a run draws tokens for, by name, in the order in which it does."""
    e, found = s.experiment, {}
    together, length = e.evaluation.batch, e.prompts.student_lengths[-1]
    if s.run == "write_rubrics":
        return {"rubrics": Drawing(e.sampling, 1, together, length, during="rubrics")}
    if s.run == "train" and e.objective != "sft":
        each, number = 1 / e.train.updates_per_rollout, e.train.questions
        at_a_time = min(e.train.sampling_batch or number, number)
        waits, turns = at_a_time < number, each * number / at_a_time
        found["sample"] = Drawing(e.sampling, e.train.samples, at_a_time, length, is_continuous=waits, times=turns)
        if e.teacher.reason_first:
            room = max(1, e.prompts.teacher_lengths[-1] - e.teacher.analysis.max_new_tokens)
            found["analysis"] = Drawing(e.teacher.analysis, 1, number, room, is_continuous=False, times=each)
        if e.judges_itself:
            judgements = number * e.train.samples + len(judges.master_keys(Rubric(())))
            found["judge"] = Drawing(
                e.reward.sampling, 1, number, e.prompts.judge_lengths[-1], times=each * judgements / number
            )
    if e.evaluation.splits and (s.run == "evaluate" or e.task == "answer"):
        length = e.prompts.teacher_lengths[-1] if e.evaluation.context else length
        sampling, samples = e.evaluation.sampling, e.evaluation.samples
        if samples:
            found["evaluation"] = Drawing(sampling, samples, together, length, during="evaluation")
        if e.evaluation.greedy:
            greedy = dataclasses.replace(sampling, temperature=0.0)
            found["greedy"] = Drawing(greedy, 1, together, length, during="evaluation")
    return found


def cache_bytes(s: Subject, name: str) -> float:
    """Keys and values of a drawing on one device: of the prompts, and of the completions."""
    drawing, compute, a = drawings(s)[name], s.experiment.model.compute, _transformer_of(s, name).architecture
    width = jnp.dtype(compute.dtype if compute.cache_dtype == "same" else compute.cache_dtype).itemsize
    slots = drawing.length + drawing.samples * drawing.sampling.max_new_tokens
    heads = -(-a.kv_heads // s.mesh.shape["tensor"])
    return 2.0 * width * a.layers * heads * a.head_width * drawing.questions / sharding.row_parts(s.mesh) * slots


def _transformer_of(s: Subject, name: str) -> lm.Transformer:
    return s.teacher if s.teacher is not None and name == "analysis" else s.transformer


def functions_of(name: str, drawing: Drawing, s: Subject, state: TrainState) -> list[Function]:
    """The function of the sampler, or those of a continuous one."""
    weights = {"analysis": s.experiment.teacher.weights, "judge": s.experiment.older_weights}
    variables = _variables_of(weights[name], state) if name in weights else state.variables
    options = {"samples": drawing.samples, **s.vocabulary._asdict()}
    transformer, C = _transformer_of(s, name), drawing.sampling.max_new_tokens
    if drawing.is_continuous:
        sampler = lm.ContinuousSampler(
            transformer, drawing.sampling, questions=drawing.questions, mesh=s.mesh, **options
        )
        return _continuous(name, drawing, sampler, s, state, variables)
    jitted, lengths = lm.Sampler(transformer, drawing.sampling, **options).jitted, lm.cache_lengths(C)
    arguments = (variables, *_asked(s, drawing.questions, drawing.length))
    turns = tuple(after - before for before, after in zip((0, *lengths), lengths, strict=False))
    return [Function(name, jitted, arguments, drawing.times, turns, drawing.during)]


def _continuous(
    name: str, drawing: Drawing, sampler: lm.ContinuousSampler, s: Subject, state: TrainState, variables: Tree
) -> list[Function]:
    number, weights = sampler.together, view(sampler, variables, drawing.length)
    caches = placed(jax.eval_shape(lambda: sampler.blank(drawing.length)), sampler.layout)
    slots, enough = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((number,), ()))
    prompts, key, ids = _asked(s, number, drawing.length)
    rest = dataclasses.replace(state, variables={k: v for k, v in state.variables.items() if k not in variables})
    # At the most: while a batch of completions fills its room, as many others begin.
    fills, turns = drawing.times * drawing.questions / number, (drawing.sampling.max_new_tokens,)
    begun, drawn = (variables, *caches, key, prompts, ids, slots), (weights, *caches, enough)
    return [
        Function(f"{name} fill", sampler.fill, begun, fills, (), drawing.during, (rest, weights)),
        Function(f"{name} decode", sampler.decode, drawn, drawing.times, turns, drawing.during, state),
    ]


def view(sampler: lm.ContinuousSampler, variables: Tree, P: int) -> Tree:
    """The weights as ``sampler.decode`` takes them: each layer lies as its stack does, the rotation on every device."""
    abstract = jax.eval_shape(lambda variables: sampler.view(variables, P), variables)

    def like(x: Array, weight: Array) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=weight.sharding)

    def of_stack(x: Array, stack: Any) -> Any:
        where = NamedSharding(stack.sharding.mesh, PartitionSpec(*stack.sharding.spec[1:]))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    layers = [
        {name: jax.tree.map(of_stack, tree, variables[name]["layers"]) for name, tree in layer.items()}
        for layer in abstract.layers
    ]
    rest = {"params": {k: jax.tree.map(like, v, variables["params"][k]) for k, v in abstract.rest["params"].items()}}
    rotation = placed(abstract.rotation, sharding.replicated(jax.tree.leaves(variables)[0].sharding.mesh))
    return abstract._replace(layers=layers, rest=rest, rotation=rotation)


def _variables_of(weights: learning.TeacherConfig, state: TrainState) -> Tree:
    """As ``learning.teacher_variables``: those of a teacher lie as the student's do."""
    if weights.kind == "separate":
        return {"params": state.teacher}
    names = jax.eval_shape(functools.partial(learning.teacher_variables, weights), state)
    return {name: state.variables[name] for name in names}


def _asked(s: Subject, number: int, length: int) -> tuple[Tree, Any, Any]:
    """Prompts, a key and the ids of questions."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(s.mesh))
    return prompts_of(s, number, length), key, rows(s, "int32", number)
