"""The whole method on a laptop, offline: a small model that has learned from noisy rationales, and what helps it.

    bash launch/quickstart.sh

Cost: eleven to fourteen minutes on 2 CPU cores. Numbers to expect: the table in README.md.

``common`` is one experiment; every part is that experiment with a few values changed. The base model learns the science
world's pretraining split from scratch: to answer from noisy rationales, to follow a rubric or a reference answer in its
prompt, and to attempt a rubric. All other parts start from it. The distillation methods have the same budget.
"""

import rcsd_jax.config

BASE = {"source": "{workdir}/base/model"}
DISTILLATION = {
    "objective": "distill",
    "model": BASE,
    "optimizer": {"learning_rate": 3e-4, "total_steps": 50},
    "train": {"steps": 50},
}
STAGE_1 = {"task": "rubric", "sampling": {"max_new_tokens": 80}, "prompts": {"student_lengths": (48,)}}
WRITING = {**STAGE_1, "sampling": {"max_new_tokens": 80, "temperature": 0.7, "top_p": 0.95, "top_k": 20}}


def get_config():
    """See ``rcsd_jax.pipeline``; ``--config.order="('base', 'opsd')"`` runs some of the parts."""
    return rcsd_jax.config.pipeline(
        "Quickstart: rubric-conditioned self-distillation in the science world", common(), parts(), baseline="base"
    )


def common():
    """What all parts share."""
    common = rcsd_jax.config.default()
    common.model.science.update(width=128, layers=4, heads=4, kv_heads=2, head_width=32, mlp_width=384)
    common.prompts.wording = "compact"
    common.prompts.student_lengths = (40,)
    common.prompts.teacher_lengths = (56, 112)
    common.sampling.max_new_tokens = 48
    common.train.update(questions=64, samples=1, checkpoint_every=60)
    common.model.compute.remat = "dots"  # on a CPU a gradient takes a seventh less than with "full", "none" is slower
    common.optimizer.update(schedule="linear", warmup_steps=5, b2=0.95, max_grad_norm=1.0)
    common.evaluation.update(splits=("eval", "transfer"), samples=4, batch=160, tolerance=1e-6)
    common.evaluation.sampling.max_new_tokens = 48
    return common


def parts():
    """Name to part, in the order in which they run."""
    return {
        "base": {
            "run": "train",
            "description": "the base model: learns from noisy rationales",
            "set": {
                "objective": "sft",
                "examples": "science_pretraining",
                "data": {"split": "pretrain", "pretraining": {"examples": 30000, "rubric_with_rubric": 0.0}},
                "optimizer": {"learning_rate": 4e-3, "warmup_steps": 30, "total_steps": 1200},
                "train": {"steps": 1200, "rows": 8, "row_length": 248, "checkpoint_every": 200},
            },
        },
        "ceiling_rubric": {
            "run": "evaluate",
            "description": "the base model with the ground-truth rubric in its prompt: what RCSD's teacher knows",
            "set": {"model": BASE, "evaluation": {"context": ("rubric",)}, "rubrics": {"source": "ground_truth"}},
        },
        "ceiling_reference": {
            "run": "evaluate",
            "description": "the base model with the reference answer in its prompt: what OPSD's teacher knows",
            "set": {"model": BASE, "evaluation": {"context": ("reference",)}},
        },
        "sft": {
            "run": "train",
            "description": "SFT on the noisy rationales of the training questions",
            "set": {
                "objective": "sft",
                "model": BASE,
                "optimizer": {"learning_rate": 3e-4, "total_steps": 50},
                "train": {"steps": 50, "rows": 8, "row_length": 248},
            },
        },
        "opsd": {
            "run": "train",
            "description": "OPSD: the teacher reads the reference answer",
            "set": {**DISTILLATION, "teacher": {"context": ("reference",)}},
        },
        "rubric_generator": {
            "run": "train",
            "description": "stage 1: learns to write rubrics from a teacher that reads the reference answer",
            "set": {**DISTILLATION, **STAGE_1, "data": {"split": "rubric"}},
        },
        "rubrics_direct": {
            "run": "write_rubrics",
            "description": "rubrics that the base model writes",
            "set": {**WRITING, "model": BASE, "data": {"limit": 480}},
        },
        "rubrics_learned": {
            "run": "write_rubrics",
            "description": "rubrics that the stage-1 model writes",
            "set": {**WRITING, "model": {"source": "{workdir}/rubric_generator/model"}},
        },
        "rcsd_learned": {
            "run": "train",
            "description": "RCSD with the rubrics of the stage-1 model",
            "set": {**DISTILLATION, "rubrics": {"source": "cache", "path": "{workdir}/rubrics_learned/rubrics.jsonl"}},
        },
        "rcsd_ground_truth": {
            "run": "train",
            "description": "RCSD with ground-truth rubrics",
            "set": {**DISTILLATION, "rubrics": {"source": "ground_truth"}},
        },
        "rcsd_random": {
            "run": "train",
            "description": "control: RCSD with the ground-truth rubric of another question",
            "set": {**DISTILLATION, "rubrics": {"source": "ground_truth", "control": "random"}},
        },
    }
