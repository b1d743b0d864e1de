"""Plain float64 versions, token by token, with nothing in common with what they check but the formula."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def divergence_of_token(student: np.ndarray, teacher: np.ndarray, config) -> float:
    """The divergence of one token from two rows of logits (``config``: a learning.DivergenceConfig)."""
    student, teacher = log_softmax(student / config.temperature), log_softmax(teacher / config.temperature)
    top = {name: set(np.argsort(-logp)[: config.top_k]) for name, logp in (("student", student), ("teacher", teacher))}
    if config.support != "full":
        inside = top["student"] | top["teacher"] if config.support == "union" else top[config.support]
        p_S, p_T = ([np.exp(logp[v]) for v in sorted(inside)] for logp in (student, teacher))
        if config.tail:
            rest = [v for v in range(len(student)) if v not in inside]
            p_S, p_T = p_S + [np.exp(student[rest]).sum()], p_T + [np.exp(teacher[rest]).sum()]
        student, teacher = np.log(np.array(p_S) / sum(p_S)), np.log(np.array(p_T) / sum(p_T))
    p_S, p_T = np.exp(student), np.exp(teacher)
    if config.kind == "kl_teacher_student":
        terms = p_T * (teacher - student)
    elif config.kind == "kl_student_teacher":
        terms = p_S * (student - teacher)
    else:
        m = np.log(config.beta * p_T + (1 - config.beta) * p_S)
        terms = config.beta * p_T * (teacher - m) + (1 - config.beta) * p_S * (student - m)
    if config.entry_clip is not None:
        terms = np.minimum(terms, config.entry_clip)
    value = terms.sum()
    return value if config.token_clip is None else min(value, config.token_clip)


def divergence(student_UV: np.ndarray, teacher_UV: np.ndarray, config) -> np.ndarray:
    """``divergence_of_token`` for every row."""
    return np.array([divergence_of_token(s, t, config) for s, t in zip(student_UV, teacher_UV, strict=True)])


def gradient(function, logits_UV: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """d function(logits)[u] / d logits[u, v] by central differences; row u depends on row u only."""
    result = np.zeros_like(logits_UV)
    for v in range(logits_UV.shape[1]):
        nudge = np.zeros_like(logits_UV)
        nudge[:, v] = step
        result[:, v] = (function(logits_UV + nudge) - function(logits_UV - nudge)) / (2 * step)
    return result


def policy_loss(logits_UV, token_U, advantage_U, then_U, base_U, correction_U, config, temperature) -> np.ndarray:
    """The loss of each token (``config``: a learning.PolicyConfig)."""
    losses = []
    for u, logits in enumerate(logits_UV):
        now = log_softmax(logits / temperature)[token_U[u]]
        ratio, advantage = np.exp(now - then_U[u]), advantage_U[u]
        if advantage >= 0:
            surrogate = min(ratio, 1 + config.clip_high) * advantage
        else:
            surrogate = max(ratio, 1 - config.clip_low) * advantage
        loss = -surrogate * (1 if correction_U is None else correction_U[u])
        if base_U is not None:
            q = np.exp(base_U[u] - now)
            loss += config.kl_coefficient * (q - np.log(q) - 1)
        losses.append(loss)
    return np.array(losses)
