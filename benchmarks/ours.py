"""Our tasks, through the public doors of rcsd_jax. Run by ``side.Side``."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from benchmarks.case import Case
from benchmarks.side import Once, serve
from rcsd_jax import learning, lm, memory
from rcsd_jax.checkpoint import Checkpoints, Meta
from rcsd_jax.types import CUT, Array, PromptBatch, Rollout, ScoredBatch, TrainState, Tree

OPTIMIZER = learning.OptimizerConfig(learning_rate=1e-6, schedule="constant")
DIVERGENCE = learning.DivergenceConfig(kind="jsd", beta=0.5)


def transformer_of(case: Case) -> lm.Transformer:
    """The decoder of a case."""
    m = case.model
    architecture = lm.Architecture(
        family=m.family,
        vocab_size=m.vocab_size,
        width=m.width,
        layers=m.layers,
        heads=m.heads,
        kv_heads=m.kv_heads,
        head_width=m.head_width,
        mlp_width=m.mlp_width,
        qk_norm=m.family == "qwen3",
        tied=m.tied,
    )
    compute = lm.Compute(dtype=case.dtype, param_dtype=case.param_dtype, remat=case.remat)
    return lm.Transformer(architecture, compute, lm.LoraConfig(rank=case.lora) if case.lora else None)


def state_of(case: Case, transformer: lm.Transformer, teacher: learning.TeacherConfig) -> TrainState:
    """A fresh state."""
    variables = jax.jit(functools.partial(lm.init, transformer))(jax.random.key(0))
    trainable = "lora" if case.lora else "params"
    return learning.init_state(transformer, variables, trainable=trainable, optimizer=OPTIMIZER, teacher=teacher)


def prompts_of(case: Case, length: int) -> PromptBatch:
    """Random prompts without padding."""
    tokens_GP = jax.random.randint(jax.random.key(1), (case.questions, length), 0, case.model.vocab_size)
    return PromptBatch(tokens_GP, jnp.ones(tokens_GP.shape, bool))


def rollout_of(case: Case) -> Rollout:
    """Random completions that fill their room."""
    shape = (case.rows, case.completion)
    logps = [field.name for field in dataclasses.fields(Rollout) if "logp" in field.name]
    return Rollout(
        prompts=prompts_of(case, case.prompt),
        completion_BC=jax.random.randint(jax.random.key(2), shape, 0, case.model.vocab_size),
        valid_BC=jnp.ones(shape, bool),
        finish_B=jnp.full(case.rows, CUT, jnp.int32),
        question_G=jnp.arange(case.questions, dtype=jnp.int32),
        sample_B=jnp.tile(jnp.arange(case.samples, dtype=jnp.int32), case.questions),
        **dict.fromkeys(logps, jnp.zeros(shape, jnp.float32)),
    )


def sampler_of(case: Case, transformer: lm.Transformer) -> Callable[[Tree], Rollout]:
    """From variables to a rollout of the whole vocabulary at temperature 1; nothing ends early."""
    sampling = lm.SamplingConfig(max_new_tokens=case.completion)
    limit = case.model.vocab_size
    sampler = lm.Sampler(transformer, sampling, samples=case.samples, eos_ids=(), pad_id=0, vocab_limit=limit)
    prompts, question_G = prompts_of(case, case.prompt), jnp.arange(case.questions, dtype=jnp.int32)
    return lambda variables: jax.block_until_ready(sampler(variables, prompts, jax.random.key(3), question_G))


def steps_of(
    case: Case, transformer: lm.Transformer, teacher: learning.TeacherConfig, mesh: Mesh | None = None
) -> tuple[Any, Any]:
    """The jitted score step and train step."""
    train = learning.make_train_step(
        transformer,
        learning.OBJECTIVES["distill"],
        learning.LossConfig(divergence=DIVERGENCE),
        optimizer=OPTIMIZER,
        teacher=teacher,
        vocab_limit=case.model.vocab_size,
        micro_batches=case.micro_batches,
        mesh=mesh,
    )
    return learning.make_score_step(transformer, teacher, mesh=mesh), train


def score_inputs(rollout: Rollout, teacher_prompts: PromptBatch) -> tuple[Any, ...]:
    """What the score step takes after the state; every token counts."""
    return ScoredBatch(rollout, jnp.ones(rollout.completion_BC.shape, jnp.float32)), teacher_prompts


class Learner:
    """The teacher's pass and the train step, again and again, on one state."""

    def __init__(self, case: Case, teacher: str):
        self.transformer, config = transformer_of(case), learning.TeacherConfig(teacher)
        self.state = state_of(case, self.transformer, config)
        self.teacher_prompts = prompts_of(case, case.teacher_prompt)
        self.score, self.train = steps_of(case, self.transformer, config)

    def __call__(self, rollout: Rollout) -> dict[str, float]:
        """Seconds of both."""
        batch, score_s = timed(self.score, self.state, *score_inputs(rollout, self.teacher_prompts))
        (self.state, _), train_s = timed(self.train, self.state, batch)
        return {"score": score_s, "train": train_s}


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """The result, when it is there, and the seconds it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - start


def sample(case: Case) -> Once:
    """A rollout; the cast of the weights to the compute dtype is part of it."""
    transformer = transformer_of(case)
    variables = jax.jit(functools.partial(lm.init, transformer))(jax.random.key(0))
    return discarding(functools.partial(sampler_of(case, transformer), variables))


def score(case: Case) -> Once:
    """The teacher's pass over one rollout."""
    learner, rollout = Learner(case, "live"), rollout_of(case)
    inputs = score_inputs(rollout, learner.teacher_prompts)
    return discarding(lambda: jax.block_until_ready(learner.score(learner.state, *inputs)))


def learn(case: Case) -> Once:
    """Teacher (a frozen copy) and student."""
    return functools.partial(Learner(case, "base"), rollout_of(case))


def step(case: Case) -> Once:
    """A whole RCSD step: sampling, the teacher (the student's own weights), the student."""
    learner = Learner(case, "live")
    sampler = sampler_of(case, learner.transformer)

    def once() -> dict[str, float]:
        rollout, sample_s = timed(sampler, learner.state.variables)
        return {"sample": sample_s} | learner(rollout)

    return once


def divergence(case: Case) -> Once:
    """The head with its divergence: value, and gradients of hidden states and head."""

    def mean(student_UD: Array, student_VD: Array, teacher_UD: Array, teacher_VD: Array) -> Array:
        weight_U = jnp.ones(student_UD.shape[:1], jnp.float32)
        student, teacher = learning.States(student_UD, student_VD), learning.States(teacher_UD, teacher_VD)
        options = {"vocab_limit": case.model.vocab_size, "head_trainable": not case.lora}
        return learning.divergence_sum(student, teacher, weight_U, DIVERGENCE, **options)[0] / weight_U.size

    return differentiated(mean, case)


def divergence_naive(case: Case) -> Once:
    """The same with both logits whole and autodiff: what a first version would be."""

    def logp(hidden_UD: Array, head_VD: Array) -> Array:
        return jax.nn.log_softmax(jnp.einsum("ud,vd->uv", hidden_UD, head_VD, preferred_element_type=jnp.float32))

    def mean(student_UD: Array, student_VD: Array, teacher_UD: Array, teacher_VD: Array) -> Array:
        student_UV, teacher_UV = logp(student_UD, student_VD), logp(teacher_UD, teacher_VD)
        middle_UV = jnp.logaddexp(student_UV, teacher_UV) - jnp.log(2.0)
        terms = jnp.exp(student_UV) * (student_UV - middle_UV) + jnp.exp(teacher_UV) * (teacher_UV - middle_UV)
        return jnp.mean(jnp.sum(terms, axis=-1)) / 2

    return differentiated(mean, case)


def differentiated(mean: Callable[..., Array], case: Case) -> Once:
    """Value and gradients of ``mean(student hidden, student head, teacher hidden, teacher head)``."""
    keys = jax.random.split(jax.random.key(0), 4)
    (U, D), V = (case.tokens, case.model.width), case.model.vocab_size
    hidden = [jax.random.normal(key, (U, D), case.dtype) for key in keys[:2]]
    heads = [jax.random.normal(key, (V, D), case.dtype) * D**-0.5 for key in keys[2:]]
    gradients = jax.jit(jax.value_and_grad(mean, argnums=(0,) if case.lora else (0, 1)))
    return discarding(lambda: jax.block_until_ready(gradients(hidden[0], heads[0], hidden[1], heads[1])))


def discarding(function: Callable[[], Any]) -> Once:
    """``function``, whose result is dropped at once."""

    def once() -> None:
        function()

    return once


def compile_cold(case: Case) -> Once:
    """Seconds to trace and compile the sampler, the score step and the train step, from nothing."""
    learner = Learner(case, "live")
    inputs = score_inputs(rollout_of(case), learner.teacher_prompts)
    batch = learner.score(learner.state, *inputs)

    def once() -> dict[str, float]:
        jax.clear_caches()
        _, score_s = timed(lambda: learner.score.lower(learner.state, *inputs).compile())
        _, train_s = timed(lambda: learner.train.lower(learner.state, batch).compile())
        sampler = sampler_of(case, learner.transformer)
        # A sampler compiles when it is called; the second call tells how much of the first was sampling.
        sample_s = timed(sampler, learner.state.variables)[1] - timed(sampler, learner.state.variables)[1]
        seconds = {"sample": sample_s, "score": score_s, "train": train_s}
        return seconds | {"s": sum(seconds.values())}

    return once


def compile_warm(case: Case) -> Once:
    """The same with jax's persistent cache, filled by the call before."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return compile_cold(case)


def save(case: Case) -> Once:
    """A checkpoint of weights and moments: until ``save`` returns, and until it is on disk."""
    state = state_of(case, transformer_of(case), learning.TeacherConfig("live"))
    folder = tempfile.TemporaryDirectory()
    checkpoints, steps = Checkpoints(Path(folder.name) / "checkpoints"), iter(range(1000))

    def once() -> dict[str, float]:
        start = time.perf_counter()
        checkpoints.save(next(steps), state, Meta(config_hash=folder.name))
        returned = time.perf_counter() - start
        checkpoints.wait()
        return {"until save returns": returned}

    return once


def rates(case: Case) -> Once:
    """What the machine can do, by second: operations of a product, bytes read, bytes written to disk."""
    large = jax.default_backend() != "cpu"
    size, floats = (8192, 2**30) if large else (2048, 2**26)
    numbers = jnp.ones((floats // 1024, 1024), jnp.float32)
    ones = jnp.ones(1024, jnp.float32)

    def product(result: str, left: Array, right: Array) -> Array:
        return jnp.einsum("md,nd->mn", left, right, preferred_element_type=result)

    def fastest(function: Callable[..., Any], *arguments: Any) -> float:
        function = jax.jit(function)
        return min(timed(function, *arguments)[1] for _ in range(6))

    def once() -> dict[str, float]:
        found = {}
        for dtype in ("float32", "bfloat16"):
            square = jnp.ones((size, size), dtype)
            kinds = [functools.partial(product, result) for result in {dtype, "float32"}]
            found[dtype] = 2 * size**3 / min(fastest(kind, square, square) for kind in kinds)
        readers = (lambda x, _: jnp.sum(x)), (lambda x, v: x @ v)
        found["read"] = 4 * floats / min(fastest(reader, numbers, ones) for reader in readers)
        return found | {"disk": _disk_rate(2**26)}

    return once


def _disk_rate(size: int) -> float:
    with tempfile.NamedTemporaryFile() as file:
        start = time.perf_counter()
        file.write(os.urandom(2**20) * (size // 2**20))
        file.flush()
        os.fsync(file.fileno())
        return size / (time.perf_counter() - start)


def device_peak() -> int | None:
    """Bytes of device memory used at most; None on a CPU."""
    stats = jax.devices()[0].memory_stats()
    return stats and stats["peak_bytes_in_use"]


TASKS = {
    "compile_cold": compile_cold,
    "compile_warm": compile_warm,
    "divergence": divergence,
    "divergence_naive": divergence_naive,
    "learn": learn,
    "rates": rates,
    "sample": sample,
    "save": save,
    "score": score,
    "step": step,
}

if __name__ == "__main__":
    memory.keep_freed()  # as a run does
    serve(TASKS, device_peak)
