"""How far the student is from the teacher: forward and reverse KL and what lies between, token by token.

Directions are named by formula. ``kl_teacher_student`` is KL(p_T || p_S), "forward", the choice of the RCSD paper
(arXiv 2606.19327); ``kl_student_teacher`` is KL(p_S || p_T), "reverse"; ``jsd`` is the generalised Jensen-Shannon
divergence of GKD (arXiv 2306.13649, eq. 1), beta KL(p_T || m) + (1 - beta) KL(p_S || m), m = beta p_T + (1 - beta) p_S.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import flax.struct
import jax
import jax.numpy as jnp

from rcsd_jax import sharding
from rcsd_jax.learning.chunked_head import States, head_sum
from rcsd_jax.learning.gates import Gates, passes
from rcsd_jax.lm import NEVER, logit_at
from rcsd_jax.types import Array

KINDS = ("kl_teacher_student", "kl_student_teacher", "jsd")
SUPPORTS = ("full", "teacher", "student", "union")
REDUCTIONS = ("token", "sequence")
IMPORTANCES = ("token", "prefix")


@dataclasses.dataclass(frozen=True)
class DivergenceConfig:
    """Which divergence, over which tokens of the vocabulary, clipped how.

    Attributes:
      kind: "kl_teacher_student", "kl_student_teacher" or "jsd".
      beta: the teacher's share of the mixture, for "jsd" only. The JSD goes to 0 at both ends; divided by beta it goes
        to KL(p_T || p_S) as beta goes to 0, divided by 1 - beta to KL(p_S || p_T) as beta goes to 1. (Where others
        write beta 0 or 1 they mean these two, which are kinds of their own here.)
      temperature: divides both logits. None, in a config, is the temperature that completions are sampled at.
      support: "full" vocabulary, or the ``top_k`` likeliest tokens of "teacher", "student" or the "union" of both.
      top_k: tokens of each in a support that is not "full".
      tail: one more entry holds the rest of the mass; without it both distributions are renormalised on the support.
      entry_clip: cap of every entry's term before the sum over the vocabulary (0.05 in OPSD and in the code that the
        authors of RCSD released). Terms are capped from above only, so the sum may be negative.
      token_clip: cap of a token's divergence; no gradient beyond it.
      purify: None, or the bound c of a soft clip: the target is then not the teacher with question and context, but
        p(question) exp(c tanh(gap / c)), gap = log p(question, context) - log p(context), normalised (Purified OPSD,
        arXiv 2607.02234): what the context says by itself, whatever the question, is taken out.
      importance_cap: weighs each token by what the student makes of it now over what the sampler did, at the sampling
        temperature, at most by this (SDPO: 2): completions of older weights count for what they still are. None: by 1.
      importance: what it makes of the "token" itself (SDPO), or of the "prefix", all tokens before it. The divergence
        does not depend on the token that was drawn, so the former has the mean 1 whatever weights have sampled; only
        the latter gives the mean that samples of now would have (but for the cap, and for top-k and the like).
      reduction: "token" divides by the counted tokens of the global batch, "sequence" (the formula of the RCSD paper)
        by its completions, so that long ones weigh more.
      chunk_tokens: tokens whose logits exist at one time, on all devices; None chooses from a memory budget.

    Raises:
      ValueError: a value out of range, or two that contradict each other.
    """

    kind: str = "kl_teacher_student"
    beta: float = 0.5
    temperature: float | None = 1.0
    support: str = "full"
    top_k: int = 20
    tail: bool = False
    entry_clip: float | None = None
    token_clip: float | None = None
    purify: float | None = None
    importance_cap: float | None = None
    importance: str = "token"
    reduction: str = "token"
    chunk_tokens: int | None = None

    def __post_init__(self) -> None:
        names = {"kind": KINDS, "support": SUPPORTS, "importance": IMPORTANCES, "reduction": REDUCTIONS}
        for name, known in names.items():
            if getattr(self, name) not in known:
                raise ValueError(f"divergence.{name} is {getattr(self, name)!r}: use one of {known}")
        if self.kind == "jsd" and not 0 < self.beta < 1:
            raise ValueError(
                f"divergence.beta is {self.beta}: jsd needs 0 < beta < 1; for what others write as beta 0 use kind "
                "kl_teacher_student, for beta 1 kl_student_teacher"
            )
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"divergence.temperature is {self.temperature}: it must be positive and finite")
        if self.support != "full" and self.top_k < 1:
            raise ValueError(f"divergence.top_k is {self.top_k}: use at least 1, or support 'full'")
        if self.support == "full" and self.tail:
            raise ValueError(
                "divergence.tail is on, but the full support leaves no tail: turn it off or choose a top-k support"
            )
        for name in ("entry_clip", "token_clip", "purify", "importance_cap", "chunk_tokens"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"divergence.{name} is {value}: it must be positive, or None to leave it out")


@flax.struct.dataclass
class Sampled:
    """Sampled tokens, and the log-probabilities that the sampler gave them at temperature 1 and at its own.

    ``prefix_importance_U`` is the weight of the tokens before each, capped; None: it is not wanted.
    """

    token_U: Array
    logp_U: Array
    tempered_logp_U: Array
    prefix_importance_U: Array | None = None
    temperature: float = flax.struct.field(pytree_node=False, default=1.0)


def divergence_sum(
    student: States,
    teacher: States,
    weight_U: Array,
    config: DivergenceConfig,
    *,
    vocab_limit: int,
    head_trainable: bool,
    sampled: Sampled | None = None,
    gates: Gates = Gates(),
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum over tokens of the divergence between teacher and student, chunk by chunk.

    Divide the sum, and each metric, by the sum of the
    weights (of the global batch).

    Args:
      student: its states, one a token that is predicted, and its LM head; gradients flow into both.
      teacher: the same of the teacher.
      weight_U: what each token counts; where it is 0 the states are not looked at.
      config: which divergence.
      vocab_limit: rows of the heads from here on belong to no token and are out of both distributions.
      head_trainable: False leaves out the gradient of the head.
      sampled: the tokens and what the sampler thought of them; needed for ``importance_cap``.
      gates: those by entropy are applied here; a token that does not pass adds nothing to the sum.

    Returns:
      the sum, and sums of: ``divergence`` before clips (nats), ``teacher_entropy`` and ``student_entropy`` (nats, whole
      vocabulary, at the temperature), ``top1_agreement``, ``teacher_uniform`` (whether the teacher knows nothing: its
      entropy is within 1% of the largest), with clips ``clipped_entries`` (of a token) and ``clipped_tokens``, with
      gates by entropy ``passed``, with ``importance_cap`` the weights ``importance`` or ``prefix_importance``, and with
      ``sampled`` the ``sampler_gap``: by how many nats the log-probability that the student now gives to the sampled
      token differs from the sampler's.

    Raises:
      ValueError: ``top_k`` beyond the vocabulary.
    """
    assert sampled is not None or config.importance_cap is None
    if config.support != "full" and config.top_k > vocab_limit:
        raise ValueError(
            f"divergence.top_k is {config.top_k}, the vocabulary has {vocab_limit}: lower it or use support 'full'"
        )
    return head_sum(
        functools.partial(_loss_of_logits, config, gates),
        student,
        teacher,
        sampled,
        weight_U,
        vocab_limit=vocab_limit,
        head_trainable=head_trainable,
        chunk_tokens=config.chunk_tokens,
    )


def _loss_of_logits(
    config: DivergenceConfig, gates: Gates, student_UV: Array, teacher_UV: Array, sampled: Sampled | None
) -> tuple[Array, dict[str, Array]]:
    loss_U, metrics = token_divergence(student_UV, teacher_UV, config)
    if gates.look_at_entropy:
        metrics["passed"] = passes(gates, metrics["student_entropy"], metrics["teacher_entropy"])
        loss_U = jnp.where(metrics["passed"], loss_U, 0)
    if sampled is None:
        return loss_U, metrics
    logits_UV = jax.lax.stop_gradient(student_UV)
    metrics["sampler_gap"] = jnp.abs(_logp(logits_UV, sampled.token_U) - sampled.logp_U)
    if sampled.prefix_importance_U is not None:
        metrics["prefix_importance"] = sampled.prefix_importance_U
        loss_U *= sampled.prefix_importance_U
    elif config.importance_cap is not None:
        tempered_logp_U = _logp(logits_UV / sampled.temperature, sampled.token_U)
        ratio_U = jnp.exp(tempered_logp_U - sampled.tempered_logp_U)
        metrics["importance"] = jnp.minimum(ratio_U, config.importance_cap)
        loss_U *= metrics["importance"]
    return loss_U, metrics


def _logp(logits_UV: Array, token_U: Array) -> Array:
    return logit_at(logits_UV, token_U) - jax.nn.logsumexp(logits_UV, axis=-1)


def target_logits(teacher: Array, purify: float | None) -> Array:
    """Logits [U, V] of what the student is to become.

    Args:
      teacher: the teacher's logits [U, V]; with ``purify`` [U, 3, V]: those with question and context, with the context
        alone, with the question alone.
      purify: see ``DivergenceConfig``.
    """
    if purify is None:
        return teacher
    guided_UV, context_UV, question_UV = (_logp_and_p(teacher[:, k])[0] for k in range(3))
    return question_UV + purify * jnp.tanh((guided_UV - context_UV) / purify)


def token_divergence(student_UV: Array, teacher_UV: Array, config: DivergenceConfig) -> tuple[Array, dict[str, Array]]:
    """The divergence of each token from both logits, and its metrics (see ``divergence_sum``), each of shape U.

    ``teacher_UV`` is what ``target_logits`` reads.
    """
    assert config.temperature is not None
    teacher_UV = target_logits(teacher_UV, config.purify)
    student_UV, teacher_UV = student_UV / config.temperature, teacher_UV / config.temperature
    entries = (student_UV, teacher_UV) if config.support == "full" else _on_support(student_UV, teacher_UV, config)
    loss_U, metrics = _compared(config, *entries)
    if config.support != "full":  # these are of the whole vocabulary
        metrics |= {"student_entropy": _entropy(*_logp_and_p(jax.lax.stop_gradient(student_UV)))}
        metrics |= {"teacher_entropy": _entropy(*_logp_and_p(teacher_UV))}
    metrics |= _agreement(student_UV, teacher_UV, metrics["teacher_entropy"])
    if config.token_clip is not None:
        metrics["clipped_tokens"] = loss_U > config.token_clip
        loss_U = jnp.minimum(loss_U, config.token_clip)
    return loss_U, metrics


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _compared(config: DivergenceConfig, student_UX: Array, teacher_UX: Array) -> tuple[Array, dict[str, Array]]:
    """The sum over entries of their terms, clipped, and metrics; student logits have a gradient, teacher logits none.

    The gradient is made beside the value, of the exponentials at hand: autodiff would form them again.
    """
    return _compared_forward(config, student_UX, teacher_UX)[0]


def _compared_forward(config: DivergenceConfig, student_UX: Array, teacher_UX: Array) -> tuple[tuple, Array]:
    (student_logp, student_p), (teacher_logp, teacher_p) = _logp_and_p(student_UX), _logp_and_p(teacher_UX)
    terms, slope = _terms(student_logp, teacher_logp, student_p, teacher_p, config)
    loss_U = divergence_U = jnp.sum(terms, axis=-1)
    metrics = {
        "divergence": divergence_U,
        "student_entropy": _entropy(student_logp, student_p),
        "teacher_entropy": _entropy(teacher_logp, teacher_p),
    }
    if config.entry_clip is not None:
        is_clipped = terms > config.entry_clip
        metrics["clipped_entries"] = jnp.sum(is_clipped, axis=-1)
        loss_U = jnp.sum(jnp.minimum(terms, config.entry_clip), axis=-1)
        slope = jnp.where(is_clipped, 0, slope)
    return (loss_U, metrics), slope - student_p * jnp.sum(slope, axis=-1, keepdims=True)


def _compared_backward(config: DivergenceConfig, gradient_UX: Array, cotangents: tuple) -> tuple[Array, None]:
    del config
    return gradient_UX * cotangents[0][:, None], None


_compared.defvjp(_compared_forward, _compared_backward)


def _terms(
    student_logp: Array, teacher_logp: Array, student_p: Array, teacher_p: Array, config: DivergenceConfig
) -> tuple[Array, Array]:
    """What each entry of the vocabulary adds to the divergence, and its derivative by the student's log-probability.

    Where both agree a term is 0, and so is the gradient by the logits.
    """
    gap = student_logp - teacher_logp
    if config.kind == "kl_teacher_student":
        return -teacher_p * gap, -teacher_p
    if config.kind == "kl_student_teacher":
        return student_p * gap, student_p * (gap + 1)
    # log m - log(the larger of the two) = log1p(share of the other * expm1(-|gap|)): never overflows, exactly 0 at
    # equality, and free of the cancellation that log(beta p_T + (1 - beta) p_S) suffers near it.
    below = gap <= 0
    other = jnp.where(below, 1 - config.beta, config.beta)
    larger = -jnp.log1p(other * jnp.expm1(jnp.where(below, gap, -gap)))
    teacher_over_m, student_over_m = jnp.where(below, larger, larger - gap), jnp.where(below, larger + gap, larger)
    # The derivatives of m cancel: beta p_T + (1 - beta) p_S is m itself.
    slope = (1 - config.beta) * student_p * student_over_m
    return config.beta * teacher_p * teacher_over_m + slope, slope


def _logp_and_p(logits_UX: Array) -> tuple[Array, Array]:
    """Log-probabilities and probabilities of every row."""
    shifted_UX = logits_UX - jnp.max(logits_UX, axis=-1, keepdims=True)
    exp_UX = jnp.exp(shifted_UX)
    if sharding.platform() == "cpu":  # or XLA forms the exponentials again wherever they are read
        exp_UX = jax.lax.optimization_barrier(exp_UX)
    total_U1 = jnp.sum(exp_UX, axis=-1, keepdims=True)
    return shifted_UX - jnp.log(total_U1), exp_UX / total_U1


def _entropy(logp_UX: Array, p_UX: Array) -> Array:
    return -jnp.sum(p_UX * logp_UX, axis=-1)


def _on_support(student_UV: Array, teacher_UV: Array, config: DivergenceConfig) -> tuple[Array, Array]:
    """Logits of both, of shape [U, entries]: the support's tokens, and the tail's bucket where asked for."""
    index_UK, counts_UK = _support(jax.lax.stop_gradient(student_UV), teacher_UV, config)

    def restrict(logits_UV: Array) -> Array:
        logits_UK = jnp.where(counts_UK, jnp.take_along_axis(logits_UV, index_UK, axis=-1), NEVER)
        if config.tail:
            inside_UV = jnp.put_along_axis(jnp.zeros(logits_UV.shape, bool), index_UK, True, axis=-1, inplace=False)
            tail_U1 = jax.nn.logsumexp(jnp.where(inside_UV, NEVER, logits_UV), axis=-1, keepdims=True)
            logits_UK = jnp.concatenate([logits_UK, tail_U1], axis=-1)
        return logits_UK

    return restrict(student_UV), restrict(teacher_UV)


def _support(student_UV: Array, teacher_UV: Array, config: DivergenceConfig) -> tuple[Array, Array]:
    """Token ids of the support, and which of them count (in a union the ones named twice count once)."""
    teacher_UK = jax.lax.top_k(teacher_UV, config.top_k)[1]
    if config.support == "teacher":
        return teacher_UK, jnp.ones(teacher_UK.shape, bool)
    student_UK = jax.lax.top_k(student_UV, config.top_k)[1]
    if config.support == "student":
        return student_UK, jnp.ones(student_UK.shape, bool)
    new_UK = jnp.all(student_UK[:, :, None] != teacher_UK[:, None, :], axis=-1)
    return (
        jnp.concatenate([teacher_UK, student_UK], axis=-1),
        jnp.concatenate([jnp.ones(teacher_UK.shape, bool), new_UK], axis=-1),
    )


def describe(student_UV: Array, teacher_UV: Array) -> dict[str, Array]:
    """Entropies of both (nats), agreement on the likeliest token, and whether the teacher is uniform; no gradients."""
    student_UV, teacher_UV = jax.lax.stop_gradient((student_UV, teacher_UV))
    entropies = {
        "teacher_entropy": _entropy(*_logp_and_p(teacher_UV)),
        "student_entropy": _entropy(*_logp_and_p(student_UV)),
    }
    return entropies | _agreement(student_UV, teacher_UV, entropies["teacher_entropy"])


def _agreement(student_UV: Array, teacher_UV: Array, teacher_entropy_U: Array) -> dict[str, Array]:
    student_UV = jax.lax.stop_gradient(student_UV)
    # The student's logit at the teacher's favourite, without argmax: maxima vectorise on CPU, argmax does not.
    favourite_UV = jnp.where(teacher_UV == jnp.max(teacher_UV, axis=-1, keepdims=True), student_UV, NEVER)
    possible_U = jnp.sum(teacher_UV > NEVER / 2, axis=-1)
    return {
        "teacher_uniform": teacher_entropy_U > 0.99 * jnp.log(possible_U),
        "top1_agreement": jnp.max(favourite_UV, axis=-1) >= jnp.max(student_UV, axis=-1),
    }
