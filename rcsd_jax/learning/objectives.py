"""What can be learned from a batch. An objective is a function; none brings a trainer of its own.

    (variables, batch, given) -> (total, count, metrics: {name: (sum, count)})

``total / count`` is the loss. Neither is divided before the global batch is summed up, so the loss is the same for
any split into micro-batches or devices. Gradients flow into ``variables``, never into the batch or ``given``.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rcsd_jax import lm
from rcsd_jax.learning.chunked_head import States, logp_of_tokens
from rcsd_jax.learning.cross_entropy import cross_entropy_sum
from rcsd_jax.learning.divergence import Sampled, divergence_sum
from rcsd_jax.learning.guided_policy import divergence_and_policy_sum, sampled_divergence_sum
from rcsd_jax.learning.loss_config import LossConfig
from rcsd_jax.learning.policy import PolicyConfig, PolicyRows, aggregated, policy_sum
from rcsd_jax.types import Array, Rollout, ScoredBatch, TokenBatch, Tree

Sums = tuple[Array, Array, dict[str, tuple[Array, Array]]]


class Given(NamedTuple):
    """What an objective works with besides weights and batch.

    Ids from ``vocab_limit`` on are no tokens. ``head_trainable`` says whether the gradient of the LM head is wanted.
    ``teacher_head_VD`` is the LM head that belongs to the teacher's hidden states in the batch.
    """

    transformer: lm.Transformer
    config: LossConfig
    vocab_limit: int
    head_trainable: bool = True
    teacher_head_VD: Array | None = None

    @property
    def of_head(self) -> dict[str, typing.Any]:
        """The arguments that every loss of the logits takes."""
        return {"vocab_limit": self.vocab_limit, "head_trainable": self.head_trainable}


def sft(variables: Tree, batch: TokenBatch, given: Given) -> Sums:
    """Cross-entropy of given text, the mean over tokens by weight; metric ``accuracy``."""
    hidden_BTD = typing.cast(
        Array, given.transformer.apply(variables, batch.tokens_BT, batch.positions_BT, batch.segments_BT)
    )
    # The state at t predicts token t + 1. Column 0 is the first token of a segment, so it wraps round with weight 0.
    target_BT, weight_BT = jnp.roll(batch.tokens_BT, -1, axis=1), jnp.roll(batch.weight_BT, -1, axis=1)
    total, sums = cross_entropy_sum(
        _by_token(hidden_BTD), _head(variables, given), target_BT.reshape(-1), weight_BT.reshape(-1), **given.of_head
    )
    tokens = _count(weight_BT)
    return total, tokens, _paired(sums, tokens)


def distill(variables: Tree, batch: ScoredBatch, given: Given) -> Sums:
    """Divergence from the teacher on the student's own completions (RCSD, OPSD, RGSD, stage 1: method.md sections 2-4).

    The count is of tokens or of completions (``divergence.reduction``); metrics are those of ``divergence_sum``.
    """
    rollout, config = batch.rollout, given.config
    student, teacher = _both(variables, batch, given)
    total, sums = divergence_sum(
        student,
        teacher,
        batch.weight_BC.reshape(-1),
        config.divergence,
        sampled=Sampled(
            rollout.completion_BC.reshape(-1),
            rollout.logp_BC.reshape(-1),
            rollout.tempered_logp_BC.reshape(-1),
            _prefix_importance(student, rollout, given),
            config.temperature,
        ),
        gates=config.gates,
        **given.of_head,
    )
    tokens = _count(batch.weight_BC)
    by_token = config.divergence.reduction == "token"
    count = sums.get("passed", tokens) if by_token else _count(jnp.any(batch.weight_BC > 0, axis=1))
    return total, count, _paired(sums, tokens)


def distill_sampled(variables: Tree, batch: ScoredBatch, given: Given) -> Sums:
    """The teacher's log-probability less the student's as the advantage of each sampled token, the mean over tokens."""
    return _guided(sampled_divergence_sum, variables, batch, given)


def distill_grpo(variables: Tree, batch: ScoredBatch, given: Given) -> Sums:
    """The divergence from the teacher and beside it the loss of ``grpo``, the mean over tokens."""
    return _guided(divergence_and_policy_sum, variables, batch, given)


def grpo(variables: Tree, batch: ScoredBatch, given: Given) -> Sums:
    """Rewards of whole completions, against the others of their question (GRPO and relatives; see ``policy``).

    The count is what ``policy.aggregation`` asks for; metrics are those of ``policy_sum``.
    """
    policy = given.config.policy
    weight_BC, count = aggregated(batch.weight_BC, policy.aggregation)
    total, sums = policy_sum(
        _hidden(variables, batch.rollout, given),
        _head(variables, given),
        _policy_rows(batch, policy),
        weight_BC.reshape(-1),
        policy,
        temperature=given.config.temperature,
        **given.of_head,
    )
    return total, count.astype(jnp.float32), _paired(sums, _count(weight_BC))


def best_of_n(variables: Tree, batch: ScoredBatch, given: Given) -> Sums:
    """Cross-entropy of the completions that count, the best of each question (RuFT); metric ``accuracy``."""
    total, sums = cross_entropy_sum(
        _hidden(variables, batch.rollout, given),
        _head(variables, given),
        batch.rollout.completion_BC.reshape(-1),
        batch.weight_BC.reshape(-1),
        **given.of_head,
    )
    tokens = _count(batch.weight_BC)
    return total, tokens, _paired(sums, tokens)


def _guided(loss_sum: Callable, variables: Tree, batch: ScoredBatch, given: Given) -> Sums:
    student, teacher = _both(variables, batch, given)
    rows = _policy_rows(batch, given.config.policy)
    total, sums = loss_sum(
        student,
        teacher,
        rows._replace(prefix_importance_U=_prefix_importance(student, batch.rollout, given)),
        batch.weight_BC.reshape(-1),
        given.config,
        **given.of_head,
    )
    tokens = _count(batch.weight_BC)
    return total, sums.get("passed", tokens), _paired(sums, tokens)


def _both(variables: Tree, batch: ScoredBatch, given: Given) -> tuple[States, States]:
    """Student and teacher before the same tokens."""
    assert batch.teacher_hidden_BCD is not None and given.teacher_head_VD is not None
    student = States(_hidden(variables, batch.rollout, given), _head(variables, given))
    width = given.teacher_head_VD.shape[1]
    hidden = _by_token(batch.teacher_hidden_BCD)
    if given.config.divergence.purify is not None:
        hidden = hidden.reshape(-1, 3, width)
    return student, States(hidden, given.teacher_head_VD)


def _prefix_importance(student: States, rollout: Rollout, given: Given) -> Array | None:
    """What the student makes now of all tokens before each, over what the sampler did, capped [U]; None: not wanted."""
    config = given.config.divergence
    if config.importance_cap is None or config.importance != "prefix":
        return None
    logp_U = logp_of_tokens(
        *jax.lax.stop_gradient(student),
        rollout.completion_BC.reshape(-1),
        temperature=given.config.temperature,
        vocab_limit=given.vocab_limit,
        chunk_tokens=config.chunk_tokens,
    )
    gap_BC = jnp.where(rollout.valid_BC, logp_U.reshape(rollout.valid_BC.shape) - rollout.tempered_logp_BC, 0)
    before_BC = jnp.cumsum(gap_BC, axis=1) - gap_BC
    return jnp.minimum(jnp.exp(before_BC), config.importance_cap).reshape(-1)


def _policy_rows(batch: ScoredBatch, policy: PolicyConfig) -> PolicyRows:
    """What the policy loss needs to know of each token of the completions."""
    rollout, then_BC, correction_BC = batch.rollout, batch.rollout.tempered_logp_BC, None
    if batch.old_logp_BC is not None:
        assert policy.importance_cap is not None
        correction_BC = jnp.minimum(jnp.exp(batch.old_logp_BC - then_BC), policy.importance_cap)
        then_BC = batch.old_logp_BC
    advantage_B = batch.advantage_B
    advantage_BC = None if advantage_B is None else jnp.broadcast_to(advantage_B[:, None], then_BC.shape)
    rows = PolicyRows(rollout.completion_BC, advantage_BC, then_BC, batch.base_logp_BC, correction_BC)
    return jax.tree.map(lambda x: x.reshape(-1), rows)


def _hidden(variables: Tree, rollout: Rollout, given: Given) -> Array:
    """States [U, D] that predict the completions' tokens; a question's prompt is computed once."""
    return _by_token(
        lm.hidden_of_completion(
            given.transformer, variables, rollout.prompts, rollout.completion_BC, rollout.valid_BC, shared=True
        )
    )


def _head(variables: Tree, given: Given) -> Array:
    return lm.head_VD(variables, given.transformer.architecture)


def _by_token(hidden: Array) -> Array:
    return hidden.reshape(-1, hidden.shape[-1])


def _count(weight: Array) -> Array:
    return jnp.sum(weight.astype(jnp.float32))


def _paired(sums: dict[str, Array], count: Array) -> dict[str, tuple[Array, Array]]:
    return {name: (total, count) for name, total in sums.items()}


Objective = Callable[[Tree, typing.Any, Given], Sums]
OBJECTIVES: dict[str, Objective] = {
    objective.__name__: objective for objective in (sft, distill, distill_sampled, distill_grpo, grpo, best_of_n)
}
# What they need besides the student's own completions ("sft" learns from given text): a teacher's look, a reward.
TAUGHT = ("distill", "distill_sampled", "distill_grpo")
REWARDED = ("distill_grpo", "grpo", "best_of_n")
