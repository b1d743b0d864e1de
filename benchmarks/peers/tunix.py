"""Google's tunix: its own Sampler, and its DistillationTrainer with the strategy that compares logits."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from tunix.distillation.distillation_trainer import DistillationTrainer, TrainingConfig, TrainingInput
from tunix.distillation.strategies.logit import LogitStrategy
from tunix.generate.sampler import CacheConfig, Sampler

from benchmarks.case import Case
from benchmarks.side import Once, serve

qwen3 = importlib.import_module("tunix.models.qwen3.model")


def model_of(case: Case, seed: int) -> nnx.Module:
    """Tunix's Qwen3 with the sizes of the case; its weights have the dtype of the products."""
    m, dtype = case.model, jnp.dtype(case.dtype)
    config = qwen3.ModelConfig(
        num_layers=m.layers,
        vocab_size=m.vocab_size,
        embed_dim=m.width,
        hidden_dim=m.mlp_width,
        num_heads=m.heads,
        head_dim=m.head_width,
        num_kv_heads=m.kv_heads,
        rope_theta=10000,
        norm_eps=1e-6,
        use_tied_embedding=m.tied,
        remat_config=qwen3.RematConfig.NONE,
        dtype=dtype,
        param_dtype=dtype,
    )
    model = qwen3.Qwen3(config, rngs=nnx.Rngs(seed))
    weights = jax.tree.map(lambda x: (0.05 * x if x.ndim > 1 else x).astype(dtype), nnx.state(model, nnx.Param))
    nnx.update(model, weights)
    return model


class Numbers:
    """A tokenizer of texts that are token ids already; no id ends a text."""

    def encode(self, text: str, **_: object) -> list[int]:
        """Ids."""
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **_: object) -> str:
        """Text."""
        return " ".join(map(str, ids))

    def bos_id(self) -> None:
        """None: a prompt is taken as it is."""

    def eos_id(self) -> int:
        """An id that no model has."""
        return 2**30

    def pad_id(self) -> int:
        """The first."""
        return 0


def tokens_of(case: Case, length: int, seed: int) -> jax.Array:
    """Random tokens [B, length]."""
    return jax.random.randint(jax.random.key(seed), (case.rows, length), 10, case.model.vocab_size)


def sample(case: Case) -> Once:
    """Sampling from the whole vocabulary at temperature 1."""
    m = case.model
    cache = CacheConfig(case.prompt + case.completion, m.layers, m.kv_heads, m.head_width)
    sampler = Sampler(model_of(case, 0), Numbers(), cache)
    prompts = [" ".join(map(str, row)) for row in tokens_of(case, case.prompt, 1).tolist()]
    options = {"temperature": 1.0, "top_p": 1.0, "top_k": None, "seed": 1}

    def once() -> None:
        output = sampler(prompts, max_generation_steps=case.completion, max_prompt_length=case.prompt, **options)
        assert all(len(tokens) == case.completion for tokens in output.tokens), "a completion ended early"

    return once


def learn(case: Case) -> Once:
    """Teacher pass, student pass and AdamW as the trainer does them; only logits of completions are compared."""
    P, C = case.prompt, case.completion

    def logits(model: nnx.Module, tokens_BT: jax.Array) -> jax.Array:
        shape = tokens_BT.shape
        mask = jnp.broadcast_to(jnp.tril(jnp.ones((shape[1], shape[1]), bool)), (*shape, shape[1]))
        return model(tokens_BT, jnp.broadcast_to(jnp.arange(shape[1]), shape), None, mask)[0][:, -C - 1 : -1]

    # One array holds what the student reads and, after it, what the teacher reads.
    completion = tokens_of(case, C, 1)
    read = [tokens_of(case, P, 2), completion, tokens_of(case, case.teacher_prompt, 3), completion]
    tokens = jnp.concatenate(read, axis=1)
    strategy = LogitStrategy(
        lambda model, input_tokens, input_mask, **_: logits(model, input_tokens[:, : P + C]),
        lambda model, input_tokens, input_mask, **_: logits(model, input_tokens[:, P + C :]),
        lambda input_tokens, input_mask, **_: jax.nn.one_hot(input_tokens[:, P : P + C], case.model.vocab_size),
        temperature=1.0,
        alpha=1.0,
    )
    config = TrainingConfig(eval_every_n_steps=10**9, max_steps=10**9)
    trainer = DistillationTrainer(model_of(case, 0), model_of(case, 1), strategy, optax.adamw(1e-6), config)
    train, _ = trainer.jit_train_and_eval_step()
    batch = TrainingInput(input_tokens=tokens, input_mask=jnp.ones_like(tokens))

    def once() -> None:
        loss, *_ = train(trainer._prepare_inputs(batch))
        jax.block_until_ready((loss, nnx.state(trainer.model)))

    return once


def device_peak() -> int | None:
    """Bytes of device memory used at most; None on a CPU."""
    stats = jax.devices()[0].memory_stats()
    return stats and stats["peak_bytes_in_use"]


if __name__ == "__main__":
    serve({"learn": learn, "sample": sample}, device_peak)
