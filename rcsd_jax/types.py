"""The records that travel through the house, and the shape legend.

Shapes live in names. One letter is one dimension:

    B sequences (rows)     G questions            P student prompt     Q teacher prompt
    C completion           T any token axis       S cache slots        D model width
    N query heads          K key/value heads      H head width         F feed-forward width
    V vocabulary           L layers               R adapter rank       U tokens, flattened

``logp_BC`` is an array of B rows and C columns. B is G times the samples a question, and the samples of a
question are neighbours: row ``b`` belongs to question ``b // (B // G)``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax

Array = jax.Array
Tree = Any  # a pytree of arrays

# Why a completion ended. RUNNING never leaves the sampler.
RUNNING, FINISHED, CUT = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a chat: role is "system", "user" or "assistant"; content is plain text, never control tokens."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One line of a rubric: a short title, what is asked for, and how much it counts (negative: a violation)."""

    title: str
    description: str
    weight: float


@dataclasses.dataclass(frozen=True)
class Rubric:
    """Criteria, and where they came from ("ground_truth", "learned", "direct", "generic", ...)."""

    criteria: tuple[Criterion, ...]
    origin: str = "ground_truth"


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question with what is known about it. ``solution`` is a worked rationale and may be wrong.

    ``answer`` is the reference answer as text ("12 m/s", "B"). ``choices`` are the options of a multiple-choice
    question, in the order of their letters. ``source`` names the reader or the world template it came from.
    """

    id: str
    question: str
    answer: str
    solution: str | None = None
    choices: tuple[str, ...] = ()
    rubric: Rubric | None = None
    source: str = ""


@flax.struct.dataclass
class PromptBatch:
    """Left-padded prompts. ``valid_GP`` is True on real tokens, which end at the last column of every row."""

    tokens_GP: Array
    valid_GP: Array


@flax.struct.dataclass
class TokenBatch:
    """Rows of given text for teacher-forced learning; several examples may share a row.

    ``segments_BT`` is 0 on padding and 1, 2, ... on the examples of the row; a token sees only its own segment.
    ``weight_BT[b, t]`` is what predicting token ``t`` from the tokens before it counts (0 on prompts, on padding
    and on the first token of a segment).
    """

    tokens_BT: Array
    positions_BT: Array
    segments_BT: Array
    weight_BT: Array


@flax.struct.dataclass
class Rollout:
    """What the sampler hands on. Completions are right-padded; ``valid_BC`` is True up to and with the EOS token.

    ``logp_BC`` is the log-probability of each sampled token under the model at temperature 1 and the whole
    vocabulary; ``tempered_logp_BC`` under the same at the sampling temperature; ``sampling_logp_BC`` under the
    distribution it was really drawn from (temperature, top-k, top-p, min-p). All are 0 where ``valid_BC`` is False,
    the last two also where sampling was greedy. ``finish_B`` is FINISHED (an EOS id) or CUT (no room left).
    """

    prompts: PromptBatch
    completion_BC: Array
    valid_BC: Array
    logp_BC: Array
    tempered_logp_BC: Array
    sampling_logp_BC: Array
    finish_B: Array
    question_G: Array
    sample_B: Array

    @property
    def samples(self) -> int:
        """Completions per question."""
        return self.completion_BC.shape[0] // self.prompts.tokens_GP.shape[0]


@flax.struct.dataclass
class ScoredBatch:
    """A rollout with all that an objective may need to know of it; what it does not need is None.

    ``weight_BC`` is what each token counts. ``teacher_hidden_BCD[:, t]`` predicts completion token ``t`` (a teacher of
    two weights, or of three prompts, has the states of all side by side). ``advantage_B`` is how much better a
    completion was than the others of its question. ``old_logp_BC`` (the student before it learns from the rollout, by
    the scorer) and ``base_logp_BC`` (the weights that training began with) are log-probabilities of the completion at
    the sampling temperature.
    """

    rollout: Rollout
    weight_BC: Array
    teacher_hidden_BCD: Array | None = None
    advantage_B: Array | None = None
    old_logp_BC: Array | None = None
    base_logp_BC: Array | None = None


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    ``variables`` maps collection names ("params", "lora") to weights; ``trainable`` names the collection that
    learns. ``teacher`` holds older weights of that collection (frozen copy, EMA or snapshot), or None where the
    teacher needs none. ``skipped`` counts the steps that changed no weight, because they were not finite or no token
    counted; ``skipped_in_a_row`` those not finite since the last good one.
    """

    step: Array
    variables: dict[str, Tree]
    opt_state: Tree
    teacher: Tree | None
    skipped: Array
    skipped_in_a_row: Array
    trainable: str = flax.struct.field(pytree_node=False, default="params")
