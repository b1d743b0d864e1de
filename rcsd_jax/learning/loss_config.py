"""What every objective is told."""

from __future__ import annotations

import dataclasses

from rcsd_jax.learning.divergence import DivergenceConfig
from rcsd_jax.learning.gates import Gates
from rcsd_jax.learning.policy import PolicyConfig


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Each objective reads its part. ``temperature`` is the one that completions are sampled at."""

    divergence: DivergenceConfig = DivergenceConfig()
    policy: PolicyConfig = PolicyConfig()
    gates: Gates = Gates()
    temperature: float = 1.0
