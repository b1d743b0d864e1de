"""Which tokens of a completion count, and how much: by their place, and by how sure student and teacher are."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from rcsd_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Gates:
    """Tokens that a gate stops do not count: they add nothing to the loss, nor to what it is divided by.

    Attributes:
      skip_tokens: the first tokens of a completion, where style differs most.
      answer_only: what comes before the end of the last ``</think>``; a completion without one does not count at all
        (RGSD masks the thinking so).
      half_life: tokens after which a token counts half as much as the first one; None: all count the same.
      min_student_entropy: nats; tokens that the student is surer of do not count. Distillation only.
      max_teacher_entropy: nats; nor do those that the teacher is less sure of. Distillation only.

    Raises:
      ValueError: a value out of range.
    """

    skip_tokens: int = 0
    answer_only: bool = False
    half_life: float | None = None
    min_student_entropy: float = 0.0
    max_teacher_entropy: float | None = None

    def __post_init__(self) -> None:
        for name in ("skip_tokens", "min_student_entropy"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"gates.{name} is {getattr(self, name)}: it must be finite and at least 0")
        for name in ("half_life", "max_teacher_entropy"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"gates.{name} is {value}: it must be positive, or None to leave it out")

    @property
    def look_at_entropy(self) -> bool:
        """Whether the logits decide what counts."""
        return self.min_student_entropy > 0 or self.max_teacher_entropy is not None


@functools.partial(jax.jit, static_argnums=(0, 3))
def weights_by_place(gates: Gates, weight_BC: Array, tokens_BC: Array, marker: tuple[int, ...]) -> Array:
    """``weight_BC`` where the place of a token lets it count, times what its place makes it count.

    Args:
      gates: see there.
      weight_BC: what each token counts without gates.
      tokens_BC: the completions.
      marker: the ids of ``</think>``.
    """
    place_1C = jnp.arange(tokens_BC.shape[1])[None, :]
    if gates.answer_only:
        weight_BC = jnp.where(place_1C >= _after_last(marker, tokens_BC)[:, None], weight_BC, 0)
    if gates.half_life is not None:
        weight_BC *= 0.5 ** (place_1C / gates.half_life)
    return jnp.where(place_1C >= gates.skip_tokens, weight_BC, 0)


def passes(gates: Gates, student_entropy_U: Array, teacher_entropy_U: Array) -> Array:
    """Whether each token counts, by the entropies (nats) of both distributions."""
    open_U = student_entropy_U >= gates.min_student_entropy
    return open_U if gates.max_teacher_entropy is None else open_U & (teacher_entropy_U <= gates.max_teacher_entropy)


def _after_last(marker: tuple[int, ...], tokens_BC: Array) -> Array:
    """The column after the last occurrence of the marker, [B]; the number of columns where there is none."""
    assert marker, f"{marker=}"
    columns = tokens_BC.shape[1]
    starts_BC = jnp.ones(tokens_BC.shape, bool)
    for offset, token in enumerate(marker):
        # What a roll brings round from the front is not a neighbour: such starts are ruled out below.
        starts_BC &= jnp.roll(tokens_BC, -offset, axis=1) == token
    place_1C = jnp.arange(columns)[None, :]
    ends_BC = jnp.where(starts_BC & (place_1C + len(marker) <= columns), place_1C + len(marker), 0)
    end_B = jnp.max(ends_BC, axis=1)
    return jnp.where(end_B > 0, end_B, columns)
