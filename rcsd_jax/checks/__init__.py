"""What the doctor looks at: a function ``(Asked) -> Finding`` for each check; ``CHECKS`` has them in their order."""

from collections.abc import Callable

from rcsd_jax.checks.finding import Asked, Finding, within
from rcsd_jax.checks.machine import devices, disk, step, versions
from rcsd_jax.checks.surroundings import bucket, hub, judge, model

# What is cheap, and what the others need, comes first.
CHECKS: dict[str, Callable[[Asked], Finding]] = {
    "versions": versions,
    "devices": devices,
    "hub": hub,
    "model": model,
    "disk": disk,
    "bucket": bucket,
    "judge": judge,
    "step": step,
}

__all__ = [
    "CHECKS",
    "Asked",
    "Finding",
    "bucket",
    "devices",
    "disk",
    "hub",
    "judge",
    "model",
    "step",
    "versions",
    "within",
]
