"""Learning: from a batch to better weights.

    objective     (variables, batch, given) -> (sum, count, metrics); ``OBJECTIVES`` holds them all
    gates         which tokens count
    policy        rewards as a clipped policy gradient; ``advantages`` makes them comparable (on the host)
    divergence    how far the student is from the teacher, with the LM head inside, chunk by chunk
    teacher       whose weights the teacher has: base, live, ema, snapshot, trust_region
    step          ``make_train_step``: (state, batch) -> (state, metrics), jitted and donated;
                  ``make_score_step``: the teacher's hidden states of a rollout; ``make_logp_step``: log-probabilities

Everything is a sum with its count until the global batch is complete; one division follows.
"""

from rcsd_jax.learning.advantages import Advantages, advantages, best
from rcsd_jax.learning.chunked_head import States
from rcsd_jax.learning.cross_entropy import cross_entropy_sum
from rcsd_jax.learning.divergence import DivergenceConfig, divergence_sum
from rcsd_jax.learning.gates import Gates, weights_by_place
from rcsd_jax.learning.loss_config import LossConfig
from rcsd_jax.learning.objectives import OBJECTIVES, REWARDED, TAUGHT, Given, Objective
from rcsd_jax.learning.optimizer import OptimizerConfig
from rcsd_jax.learning.policy import PolicyConfig
from rcsd_jax.learning.step import init_state, make_logp_step, make_score_step, make_train_step, state_shardings
from rcsd_jax.learning.teacher import TeacherConfig, teacher_variables

__all__ = [
    "OBJECTIVES",
    "REWARDED",
    "TAUGHT",
    "Advantages",
    "DivergenceConfig",
    "Gates",
    "Given",
    "LossConfig",
    "Objective",
    "OptimizerConfig",
    "PolicyConfig",
    "States",
    "TeacherConfig",
    "advantages",
    "best",
    "cross_entropy_sum",
    "divergence_sum",
    "init_state",
    "make_logp_step",
    "make_score_step",
    "make_train_step",
    "state_shardings",
    "teacher_variables",
    "weights_by_place",
]
