"""The judges room: what an answer earns by the rubric of its question.

A ``Case`` is an answer to judge; it words the request, with the answer behind fences, and reads the reply strictly. A
judge gives a ``Judgement`` a case: its reward, or why there is none. ``Endpoint`` is one at an OpenAI-compatible
server; ``rewards`` makes others of a program and of the model itself. ``explicit`` and ``implicit`` are what verdicts
are worth. ``attacks`` are answers that deserve nothing, to try a judge with.
"""

from rcsd_jax.judges.cases import SCALES, WEIGHTS, Case, Judgement, Scale, VerdictError, explicit, implicit
from rcsd_jax.judges.endpoint import Endpoint, EndpointConfig
from rcsd_jax.judges.master_keys import attacks, master_keys

__all__ = [
    "SCALES",
    "WEIGHTS",
    "Case",
    "Endpoint",
    "EndpointConfig",
    "Judgement",
    "Scale",
    "VerdictError",
    "attacks",
    "explicit",
    "implicit",
    "master_keys",
]
