"""The step, ``(state, batch) -> (state, metrics)``, and the teacher's look at a rollout that comes before it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rcsd_jax import compilations, lm, sharding
from rcsd_jax.learning.chunked_head import logp_of_tokens
from rcsd_jax.learning.loss_config import LossConfig
from rcsd_jax.learning.objectives import Given, Objective, Sums
from rcsd_jax.learning.optimizer import OptimizerConfig, learning_rate, make_optimizer
from rcsd_jax.learning.teacher import (
    TeacherConfig,
    initial_teacher,
    teacher_head,
    teacher_hidden,
    teacher_variables,
    update_teacher,
)
from rcsd_jax.masked import safe_divide
from rcsd_jax.types import Array, PromptBatch, Rollout, ScoredBatch, TrainState, Tree


def init_state(
    transformer: lm.Transformer,
    variables: Tree,
    *,
    trainable: str,
    optimizer: OptimizerConfig,
    teacher: TeacherConfig,
    mesh: Mesh | None = None,
) -> TrainState:
    """The state before the first step, laid out on the mesh.

    The state takes ``variables`` over, without a copy where they lie as the state does: the first train step donates
    their buffers.

    Raises:
      ValueError: ``trainable`` names no collection of ``variables``.
    """
    if trainable not in variables:
        raise ValueError(f"trainable is {trainable!r}, the variables are {sorted(variables)}: name one of them")
    how: dict[str, Any] = {"trainable": trainable, "optimizer": optimizer, "teacher": teacher}

    def beside(variables: Tree) -> TrainState:
        return dataclasses.replace(_initial(variables, **how), variables={})

    if mesh is None:
        return dataclasses.replace(jax.jit(beside)(variables), variables=jax.device_put(variables))
    layout = state_shardings(transformer, mesh, **how)
    state = jax.jit(beside, out_shardings=dataclasses.replace(layout, variables={}))(variables)
    return dataclasses.replace(state, variables=jax.device_put(variables, layout.variables))


def state_shardings(
    transformer: lm.Transformer, mesh: Mesh, *, trainable: str, optimizer: OptimizerConfig, teacher: TeacherConfig
) -> TrainState:
    """The layout of the state: optimiser moments and teacher lie where their weights lie, counters everywhere."""
    weights = sharding.shardings(lm.axes(transformer), mesh)
    abstract = jax.eval_shape(functools.partial(lm.init, transformer), jax.random.key(0))
    state = jax.eval_shape(
        functools.partial(_initial, trainable=trainable, optimizer=optimizer, teacher=teacher), abstract
    )
    structure = jax.tree.structure(abstract[trainable])

    def like_weights(x: Any) -> bool:
        return jax.tree.structure(x) == structure

    layout = jax.tree.map(
        lambda x: weights[trainable] if like_weights(x) else sharding.replicated(mesh), state, is_leaf=like_weights
    )
    return dataclasses.replace(layout, variables=weights)


def _initial(variables: Tree, *, trainable: str, optimizer: OptimizerConfig, teacher: TeacherConfig) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=make_optimizer(optimizer).init(variables[trainable]),
        teacher=initial_teacher(teacher, variables, trainable),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        trainable=trainable,
    )


def make_score_step(
    transformer: lm.Transformer, teacher: TeacherConfig, *, micro_batches: int = 1, mesh: Mesh | None = None
) -> Callable[[TrainState, ScoredBatch, PromptBatch], ScoredBatch]:
    """The jitted ``(state, batch, teacher_prompts) -> batch``, with the teacher's hidden states.

    ``teacher_prompts`` holds one prompt a question, or one a completion, in the order of the rollout. Tokens that are
    not valid never count. ``micro_batches`` parts of the batch are read one after the other.
    """

    def hidden_of(state: TrainState, tokens: tuple) -> Array:
        return teacher_hidden(
            teacher, state, lambda variables: lm.hidden_of_completion(transformer, variables, *tokens, shared=True)
        )

    def score(state: TrainState, batch: ScoredBatch, teacher_prompts: PromptBatch) -> ScoredBatch:
        with _on(mesh):
            rollout = batch.rollout
            tokens = teacher_prompts, rollout.completion_BC, rollout.valid_BC
            hidden_BCD = _in_parts(functools.partial(hidden_of, state), tokens, micro_batches)
            weight_BC = jnp.where(rollout.valid_BC, batch.weight_BC, 0).astype(jnp.float32)
            return dataclasses.replace(batch, weight_BC=weight_BC, teacher_hidden_BCD=hidden_BCD)

    return compilations.jit("score", score)


def make_logp_step(
    transformer: lm.Transformer,
    weights: TeacherConfig,
    *,
    temperature: float,
    vocab_limit: int,
    micro_batches: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Rollout], Array]:
    """The jitted ``(state, rollout) -> logp_BC``: what ``weights`` give to the completions in the student's context.

    "live" is the student as it is now, "base" as it was before training. Whole vocabulary, at the temperature;
    ``micro_batches`` parts of the batch one after the other.
    """

    def logp_of(variables: Tree, tokens: tuple[PromptBatch, Array, Array]) -> Array:
        _, completion_BC, valid_BC = tokens
        hidden_BCD = lm.hidden_of_completion(transformer, variables, *tokens, shared=True)
        logp_U = logp_of_tokens(
            hidden_BCD.reshape(-1, hidden_BCD.shape[-1]),
            lm.head_VD(variables, transformer.architecture),
            completion_BC.reshape(-1),
            temperature=temperature,
            vocab_limit=vocab_limit,
        )
        return jnp.where(valid_BC, logp_U.reshape(valid_BC.shape), 0)

    def logp(state: TrainState, rollout: Rollout) -> Array:
        with _on(mesh):
            tokens = rollout.prompts, rollout.completion_BC, rollout.valid_BC
            variables = teacher_variables(weights, state)
            return _by_rows(_in_parts(functools.partial(logp_of, variables), tokens, micro_batches))

    return compilations.jit("logp", logp)


def make_train_step(
    transformer: lm.Transformer,
    objective: Objective,
    config: LossConfig,
    *,
    optimizer: OptimizerConfig,
    teacher: TeacherConfig,
    vocab_limit: int,
    micro_batches: int = 1,
    mesh: Mesh | None = None,
    teacher_architecture: lm.Architecture | None = None,
) -> Callable[[TrainState, Tree], tuple[TrainState, dict[str, Array]]]:
    """The jitted ``(state, batch) -> (state, metrics)``; the old state is donated.

    A step whose loss or gradient is not finite, whose gradient is larger than ``optimizer.skip_grad_norm``, or in which
    no token counts, changes nothing but the counters ``step``, ``skipped`` and, but for the last, ``skipped_in_a_row``.

    Args:
      transformer: the model.
      objective: one of ``OBJECTIVES``.
      config: what the objective is told.
      optimizer: as in ``init_state``.
      teacher: as in ``init_state``; with an objective that has none, "live" costs nothing.
      vocab_limit: ids from here on are no tokens.
      micro_batches: parts of the batch that are computed one after the other: less memory, and but for the policy's
        aggregation "bnpo" the same numbers.
      mesh: where the state lies.
      teacher_architecture: of a separate teacher; others have the student's.

    Returns:
      the step. Its metrics are float32 scalars: ``loss``, ``loss_count`` (what it was divided by), ``grad_norm``
      (before clipping), ``learning_rate``, ``skipped``, ``skipped_in_a_row``, and those of the objective.
    """
    schedule = learning_rate(optimizer)

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, Array]]:
        own = transformer.architecture
        teacher_head_VD = teacher_head(teacher, state, teacher_architecture or own, own.vocab_size)
        given = Given(transformer, config, vocab_limit, state.trainable == "params", teacher_head_VD)
        (total, (count, sums)), gradients = _sums_and_gradients(
            lambda variables, part: objective(variables, part, given), state, batch, micro_batches
        )
        gradients = jax.tree.map(lambda x: safe_divide(x, count), gradients)
        norm = optax.tree.norm(gradients)
        sane = jnp.isfinite(total) & jnp.isfinite(norm)
        if optimizer.skip_grad_norm is not None:
            sane &= norm <= optimizer.skip_grad_norm
        new_state = _updated(state, gradients, sane, sane & (count > 0), make_optimizer(optimizer), teacher)
        metrics = {
            "loss": safe_divide(total, count),
            "loss_count": count,
            "grad_norm": norm,
            "learning_rate": schedule(_updates(state)),
            "skipped": new_state.skipped,
            "skipped_in_a_row": new_state.skipped_in_a_row,
        } | {name: safe_divide(*pair) for name, pair in sums.items()}
        return new_state, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics)

    def placed(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, Array]]:
        with _on(mesh):
            new_state, metrics = step(state, batch)
        if mesh is not None:
            layout = state_shardings(transformer, mesh, trainable=state.trainable, optimizer=optimizer, teacher=teacher)
            if teacher.kind == "separate":  # it stays where it lies
                own = jax.lax.with_sharding_constraint(dataclasses.replace(new_state, teacher=None), layout)
                new_state = dataclasses.replace(own, teacher=state.teacher)
            else:
                new_state = jax.lax.with_sharding_constraint(new_state, layout)
        return new_state, metrics

    return compilations.jit("train_step", placed, donate_argnums=0)


def _updates(state: TrainState) -> Array:
    """How often the weights have changed: what schedules and snapshots count."""
    return state.step - state.skipped


def _updated(
    state: TrainState,
    gradients: Tree,
    sane: Array,
    good: Array,
    transform: optax.GradientTransformation,
    teacher: TeacherConfig,
) -> TrainState:
    """The state after a step with these gradients; if not ``good``, the same but for its counters."""
    old_weights = state.variables[state.trainable]
    changes, opt_state = transform.update(gradients, state.opt_state, old_weights)
    weights = optax.apply_updates(old_weights, changes)
    new_teacher = update_teacher(teacher, state.teacher, weights, _updates(state) + 1)
    weights, opt_state, new_teacher = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        (weights, opt_state, new_teacher),
        (old_weights, state.opt_state, state.teacher),
    )
    return dataclasses.replace(
        state,
        step=state.step + 1,
        variables={**state.variables, state.trainable: weights},
        opt_state=opt_state,
        teacher=new_teacher,
        skipped=state.skipped + ~good,
        # Where nothing counts (no group has spread, say), nothing is wrong and nothing is known to be right again.
        skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + ~sane),
    )


def _sums_and_gradients(
    sums_of: Callable[[Tree, Tree], Sums], state: TrainState, batch: Tree, parts: int
) -> tuple[tuple, Tree]:
    """((total, (count, metrics)), gradients of total): float32 sums over the parts of a batch, one after the other."""

    def total_of(weights: Tree, part: Tree) -> tuple[Array, tuple]:
        total, *rest = sums_of({**state.variables, state.trainable: weights}, part)
        return total, tuple(rest)

    function = functools.partial(jax.value_and_grad(total_of, has_aux=True), state.variables[state.trainable])
    batch = split(batch, parts)
    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.float32),
        jax.eval_shape(function, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)),
    )

    def body(so_far: Tree, part: Tree) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, so_far, function(_by_rows(part))), None

    return jax.lax.scan(body, nothing, batch)[0]


def split(batch: Tree, parts: int) -> Tree:
    """Every leaf [X, ...] as [parts, X / parts, ...], the completions of a question together.

    Question g goes to part g % parts: where questions lie on several devices, each device has its share of every part.

    Raises:
      ValueError: the questions can not be divided so.
    """
    # Leaves have a row for every question or for every completion: the shortest tells the number of questions.
    questions = min(leaf.shape[0] for leaf in jax.tree.leaves(batch))
    if questions % parts:
        raise ValueError(f"micro_batches is {parts}, the batch has {questions} questions: use a divisor of that")

    def cut(x: Array) -> Array:
        each = x.shape[0] // questions
        x = x.reshape(questions // parts, parts, each, *x.shape[1:]).swapaxes(0, 1)
        return x.reshape(parts, questions // parts * each, *x.shape[3:])

    return jax.tree.map(cut, batch)


def _in_parts(function: Callable[[Tree], Array], batch: Tree, parts: int) -> Array:
    """``function(batch)``, a row for every completion, computed part by part as ``split`` makes them."""
    questions = min(leaf.shape[0] for leaf in jax.tree.leaves(batch))
    result = jax.lax.map(lambda part: function(_by_rows(part)), split(batch, parts))
    rows = result.shape[0] * result.shape[1]
    return (
        result.reshape(parts, questions // parts, rows // questions, *result.shape[2:])
        .swapaxes(0, 1)
        .reshape(rows, *result.shape[2:])
    )


def _on(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Lets ``sharding.constrain`` know the mesh while a step is traced."""
    return contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def _by_rows(batch: Tree) -> Tree:
    return jax.tree.map(lambda x: sharding.constrain(x, "batch"), batch)
