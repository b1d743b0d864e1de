"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with a schedule and gradient clipping, in float32 throughout."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from rcsd_jax.types import Tree

SCHEDULES = ("constant", "linear", "cosine")
NOT_DECAYED = ("scale", "bias")  # norms and biases: pulling them to 0 is no regularisation


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow gradients.

    Attributes:
      learning_rate: the highest one, reached after the warmup.
      schedule: what follows the warmup: "constant", or "linear" or "cosine" down to 0 at ``total_steps``.
      warmup_steps: updates of linear increase; the first update is already larger than 0.
      total_steps: updates of the whole run, the warmup included.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: added to the root of the second moment.
      weight_decay: decoupled, times the learning rate; not on norms and biases.
      max_grad_norm: gradients are scaled down to this global norm; None leaves them.
      skip_grad_norm: a step whose gradient has a larger global norm than this changes no weight; None uses them all.

    Raises:
      ValueError: a value out of range.
    """

    learning_rate: float = 5e-6
    schedule: str = "linear"
    warmup_steps: int = 0
    total_steps: int = 100
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    skip_grad_norm: float | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"optimizer.schedule is {self.schedule!r}: use one of {SCHEDULES}")
        for name in ("learning_rate", "weight_decay", "warmup_steps"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}: it must be finite and at least 0")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}: it must be at least 0 and below 1")
        if not self.eps > 0:
            raise ValueError(f"optimizer.eps is {self.eps}: it must be positive, 1e-8 is usual")
        for name, off in (("max_grad_norm", "no clipping"), ("skip_grad_norm", "no skipping")):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"optimizer.{name} is {limit}: it must be positive, or None for {off}")
        if self.skip_grad_norm is not None and self.skip_grad_norm <= (self.max_grad_norm or 0):
            raise ValueError(
                f"optimizer.skip_grad_norm is {self.skip_grad_norm}, max_grad_norm {self.max_grad_norm}: what would be "
                "scaled down would be skipped, give a larger one or max_grad_norm None"
            )
        if self.schedule != "constant" and self.total_steps <= self.warmup_steps:
            raise ValueError(
                f"optimizer.total_steps is {self.total_steps}, warmup_steps is {self.warmup_steps}: "
                f"a {self.schedule} schedule needs steps after the warmup"
            )


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """From the number of updates so far to the learning rate of the next one."""
    peak, warmup = config.learning_rate, config.warmup_steps
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, config.total_steps - warmup),
        "cosine": lambda: optax.cosine_decay_schedule(peak, config.total_steps - warmup),
    }[config.schedule]()
    return optax.join_schedules([optax.linear_schedule(peak / (warmup + 1), peak, warmup), after], [warmup])


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip, Adam, weight decay, learning rate. Moments and updates are float32 whatever the weights are.

    bfloat16 weights round away updates below about 1/256 of themselves, at fine-tuning learning rates nearly all of
    them: keep ``compute.param_dtype`` at float32 for what learns.
    """
    return _in_float32(
        optax.chain(
            optax.identity() if config.max_grad_norm is None else optax.clip_by_global_norm(config.max_grad_norm),
            optax.scale_by_adam(config.b1, config.b2, config.eps),
            optax.add_decayed_weights(config.weight_decay, mask=decayed),
            optax.scale_by_learning_rate(learning_rate(config)),
        )
    )


def decayed(params: Tree) -> Tree:
    """True for the leaves that weight decay applies to; by name, since stacked norms are matrices too."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    def cast(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        return inner.update(cast(updates), state, cast(params))

    return optax.GradientTransformation(lambda params: inner.init(cast(params)), update)
