"""Every function of a run, from abstract arrays: shapes, types and places on the mesh, and no numbers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rcsd_jax import checkpoint, config, learning, lm, models, sharding
from rcsd_jax.types import PromptBatch, Rollout, ScoredBatch, TokenBatch, TrainState, Tree


class Vocabulary(NamedTuple):
    """What a compiled function knows of a tokenizer; named as in ``lm.ChatTokenizer``."""

    eos_ids: tuple[int, ...]
    pad_id: int
    vocab_limit: int


class Subject(NamedTuple):
    """What is compiled for: an experiment with its decoder, on a mesh; and that of a separate teacher."""

    experiment: config.Experiment
    transformer: lm.Transformer
    vocabulary: Vocabulary
    mesh: Mesh
    teacher: lm.Transformer | None = None


class Function(NamedTuple):
    """One jitted function of a run, with abstract arguments.

    ``times`` is how often it runs for one step of training; ``turns`` are those of its loops whose end depends on data,
    at the most.
    """

    name: str
    jitted: Any
    arguments: tuple[Tree, ...]
    times: float = 1.0
    turns: tuple[int, ...] = ()


# What published models are made of, so that no hub is needed to ask what one would cost: as in their config.json.
QWEN3 = {"vocab_size": 151936, "kv_heads": 8, "head_width": 128, "rope_theta": 1e6, "max_positions": 40960}
QWEN3_VOCABULARY = Vocabulary((151645, 151643), 151643, 151669)
QWEN3_SIZES = {  # width, layers, heads, mlp_width, tied
    "0.6B": (1024, 28, 16, 3072, True),
    "1.7B": (2048, 28, 16, 6144, True),
    "4B": (2560, 36, 32, 9728, True),
    "8B": (4096, 36, 32, 12288, False),
    "14B": (5120, 40, 40, 17408, False),
    "32B": (5120, 64, 64, 25600, False),
}


def subject(experiment: config.Experiment, mesh: Mesh) -> Subject:
    """The decoders that the config names; of the published Qwen3 sizes, without a look at the hub."""
    transformer, vocabulary = _declared(experiment.model)
    teacher = None
    if experiment.older_weights.kind == "separate":
        teacher, _ = _declared(models.separate_teacher(experiment))
    return Subject(experiment, transformer, vocabulary, mesh, teacher)


def _declared(model: config.Model) -> tuple[lm.Transformer, Vocabulary]:
    size = model.source.removeprefix("Qwen/Qwen3-")
    if model.source == size or size not in QWEN3_SIZES:
        transformer, tokenizer = models.declared(model)
        return transformer, Vocabulary(*(getattr(tokenizer, x) for x in Vocabulary._fields))
    width, layers, heads, mlp_width, tied = QWEN3_SIZES[size]
    sizes = {"width": width, "layers": layers, "heads": heads, "mlp_width": mlp_width, "tied": tied}
    architecture = lm.Architecture(family="qwen3", qk_norm=True, **QWEN3, **sizes)
    lora = model.lora if model.trainable == "lora" else None
    return lm.Transformer(architecture, model.compute, lora), QWEN3_VOCABULARY


def functions(s: Subject) -> list[Function]:
    """The functions of a run in the order in which a step calls them, each for the longest prompts."""
    e, state = s.experiment, abstract_state(s)
    learned = models.learned(state, has_separate_teacher=s.teacher is not None)
    saved = Function("checkpoint", checkpoint.fingerprints, (jax.tree.leaves(learned),), 1 / e.train.checkpoint_every)
    if e.objective == "sft":
        return [Function("train_step", train_step(s), (state, _text(s))), saved]
    rollout, each = _rollout(s), 1 / e.train.updates_per_rollout
    found = [_sampling("sample", s, state, e.sampling, e.train.samples, e.prompts.student_lengths[-1], each)]
    if e.teacher.reason_first:
        length = max(1, e.prompts.teacher_lengths[-1] - e.teacher.analysis.max_new_tokens)
        analyst, its_state = s, state
        if s.teacher is not None:
            analyst, its_state = (
                s._replace(transformer=s.teacher),
                dataclasses.replace(state, variables={"params": state.teacher}),
            )
        found.append(_sampling("analysis", analyst, its_state, e.teacher.analysis, 1, length, each))
    for name, weights in _logp_weights(e).items():
        step = learning.make_logp_step(
            s.transformer,
            weights,
            temperature=e.sampling.temperature,
            vocab_limit=s.vocabulary.vocab_limit,
            micro_batches=e.train.micro_batches,
            mesh=s.mesh,
        )
        found.append(Function(name, step, (state, rollout), each))
    batch = _scored(s, rollout)
    if e.objective in learning.TAUGHT:
        score = learning.make_score_step(
            s.teacher or s.transformer, e.older_weights, micro_batches=e.train.micro_batches, mesh=s.mesh
        )
        prompts = _prompts(s, e.prompts.teacher_lengths[-1], e.train.samples if e.teacher.solutions == "sibling" else 1)
        given = ScoredBatch(rollout, batch.weight_BC)
        looks = 3 if e.divergence.purify else 2 if e.teacher.contrast else 1
        found.append(Function("score", score, (state, given, prompts), each * looks))
    return [*found, Function("train_step", train_step(s), (state, batch)), saved]


def train_step(s: Subject) -> Callable[..., Any]:
    """The jitted train step of the run."""
    e = s.experiment
    return learning.make_train_step(
        s.transformer,
        learning.OBJECTIVES[e.objective],
        e.loss,
        vocab_limit=s.vocabulary.vocab_limit,
        micro_batches=e.train.micro_batches,
        optimizer=e.optimizer,
        teacher=e.older_weights,
        mesh=s.mesh,
        teacher_architecture=s.teacher.architecture if s.teacher else None,
    )


def abstract_state(s: Subject) -> TrainState:
    """The whole state of training."""
    e = s.experiment
    how: dict[str, Any] = {"trainable": e.model.trainable, "optimizer": e.optimizer, "teacher": e.older_weights}
    variables = jax.eval_shape(functools.partial(lm.init, s.transformer), jax.random.key(0))
    state = jax.eval_shape(functools.partial(learning.init_state, s.transformer, **how), variables)
    layout = learning.state_shardings(s.transformer, s.mesh, **how)
    if s.teacher is not None:
        variables = jax.eval_shape(functools.partial(lm.init, s.teacher), jax.random.key(0))
        state = dataclasses.replace(state, teacher=variables["params"])
        layout = dataclasses.replace(layout, teacher=sharding.shardings(lm.axes(s.teacher), s.mesh)["params"])
    return placed(state, layout)


def placed(abstract: Tree, layout: Tree) -> Tree:
    """The same shapes with a place on the mesh."""
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract, layout)


def cache_bytes(s: Subject) -> float:
    """Keys and values of a whole rollout on one device: of the prompts, and of the completions."""
    e, a = s.experiment, s.transformer.architecture
    if e.objective == "sft":
        return 0.0
    compute = e.model.compute
    width = jnp.dtype(compute.dtype if compute.cache_dtype == "same" else compute.cache_dtype).itemsize
    slots = e.prompts.student_lengths[-1] + e.train.samples * e.sampling.max_new_tokens
    heads = -(-a.kv_heads // s.mesh.shape["tensor"])
    rows = e.train.questions / sharding.row_parts(s.mesh)
    return 2.0 * width * a.layers * heads * a.head_width * rows * slots


def _sampling(
    name: str, s: Subject, state: TrainState, sampling: lm.SamplingConfig, samples: int, length: int, times: float
) -> Function:
    sampler = lm.Sampler(s.transformer, sampling, samples=samples, **s.vocabulary._asdict())
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(s.mesh))
    arguments = (state.variables, _prompts(s, length), key, _rows(s, "int32", s.experiment.train.questions))
    lengths = lm.cache_lengths(sampling.max_new_tokens)
    return Function(
        name,
        sampler.jitted,
        arguments,
        times,
        tuple(after - before for before, after in zip((0, *lengths), lengths, strict=False)),
    )


def _logp_weights(e: config.Experiment) -> dict[str, learning.TeacherConfig]:
    """Whose log-probabilities of a rollout the loss wants."""
    found = {}
    if e.objective in learning.REWARDED and e.policy.importance_cap is not None:
        found["old_logp"] = learning.TeacherConfig("live")
    if e.has_kl_penalty:
        found["base_logp"] = learning.TeacherConfig("base")
    return found


def _rows(s: Subject, dtype: str, *shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding.batch_sharding(s.mesh))


def _prompts(s: Subject, length: int, samples: int = 1) -> PromptBatch:
    shape = (s.experiment.train.questions * samples, length)
    return PromptBatch(_rows(s, "int32", *shape), _rows(s, "bool", *shape))


def _rollout(s: Subject) -> Rollout:
    e = s.experiment
    G, B, C = e.train.questions, e.train.questions * e.train.samples, e.sampling.max_new_tokens
    return Rollout(
        prompts=_prompts(s, e.prompts.student_lengths[-1]),
        completion_BC=_rows(s, "int32", B, C),
        valid_BC=_rows(s, "bool", B, C),
        logp_BC=_rows(s, "float32", B, C),
        tempered_logp_BC=_rows(s, "float32", B, C),
        sampling_logp_BC=_rows(s, "float32", B, C),
        finish_B=_rows(s, "int32", B),
        question_G=_rows(s, "int32", G),
        sample_B=_rows(s, "int32", B),
    )


def _scored(s: Subject, rollout: Rollout) -> ScoredBatch:
    e, (B, C) = s.experiment, rollout.completion_BC.shape
    width = (s.teacher or s.transformer).architecture.width * (2 if e.older_weights.kind == "trust_region" else 1)
    width *= 3 if e.divergence.purify else 1
    logps = _logp_weights(e)
    return ScoredBatch(
        rollout,
        weight_BC=_rows(s, "float32", B, C),
        teacher_hidden_BCD=(_rows(s, e.model.compute.dtype, B, C, width) if e.objective in learning.TAUGHT else None),
        advantage_B=_rows(s, "float32", B) if e.objective in learning.REWARDED else None,
        old_logp_BC=_rows(s, "float32", B, C) if "old_logp" in logps else None,
        base_logp_BC=_rows(s, "float32", B, C) if "base_logp" in logps else None,
    )


def _text(s: Subject) -> TokenBatch:
    shape = s.experiment.train.rows, s.experiment.train.row_length
    return TokenBatch(*(_rows(s, "int32", *shape) for _ in range(3)), weight_BT=_rows(s, "float32", *shape))
