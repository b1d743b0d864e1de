"""The same pipeline with real weights and real questions on a CPU: SmolLM2-135M-Instruct, QuaRTz.

    bash launch/offline_smollm2.sh
    python -m rcsd_jax.pipeline --config=configs/smollm2.py --workdir=runs/smollm2

Cost: 6 GB of memory; 75 minutes without its last part on 2 CPU cores that other work shared, an estimated half of that
on idle ones. With 96 questions of two choices an interval is 20 points wide: this shows that everything works on real
input, not that a method is better (docs/results/smollm2).

A model of this size has never seen a rubric. Asked for one it writes no JSON array (0 of 32 tried), and stage 1 by
self-distillation cannot start from there. So stage 1 is supervised here: the ground-truth rubrics of the science world
teach the form. Questions whose rubric is still invalid are dropped from RCSD and counted ("no rubric" in done.json).
``rcsd_generic`` needs no rubric of anybody and has the same budget.
"""

import rcsd_jax.config

ADAPTERS = {"trainable": "lora"}
DISTILLATION = {
    "objective": "distill",
    "model": ADAPTERS,
    "data": {"limit": 48},
    "optimizer": {"learning_rate": 1e-4, "schedule": "linear", "total_steps": 20},
    "train": {"steps": 20, "questions": 8, "micro_batches": 2},
}
WRITING = {
    "task": "rubric",
    "sampling": {"temperature": 0.7, "top_k": 0, "max_new_tokens": 256},
    "prompts": {"student_lengths": (304,)},
}


def get_config():
    """See ``rcsd_jax.pipeline``."""
    return rcsd_jax.config.pipeline("SmolLM2-135M-Instruct on QuaRTz", common(), parts(), baseline="base")


def common():
    """What all parts share."""
    common = rcsd_jax.config.default()
    common.model.source = "models/smollm2"
    common.model.lora.rank, common.model.lora.alpha = 8, 16.0
    common.model.compute.dtype = "bfloat16"  # The weights stay float32: small updates must not be rounded away.
    common.data.source, common.data.path = "quartz", "models/questions/quartz.jsonl"
    common.prompts.student_lengths = (144,)
    common.prompts.teacher_lengths = (224, 480)
    common.sampling.update(temperature=1.2, top_p=0.95, top_k=20, max_new_tokens=128)
    common.train.update(checkpoint_every=10, trajectories_every=5)
    common.evaluation.update(limit=96, batch=48, samples=2)
    common.evaluation.sampling.max_new_tokens = 128
    return common


def parts():
    """Name to part, in the order in which they run."""
    return {
        "base": {"run": "evaluate", "description": "SmolLM2-135M-Instruct as it is", "set": {}},
        "ceiling_reference": {
            "run": "evaluate",
            "description": "the same with the reference answer in its prompt",
            "set": {"evaluation": {"context": ("reference",)}},
        },
        "rubrics_direct": {
            "run": "write_rubrics",
            "description": "rubrics that the untrained model writes",
            "set": {**WRITING, "data": {"limit": 48}, "rubrics": {"retries": 0}},
        },
        "rubric_generator": {
            "run": "train",
            "description": "stage 1, supervised: learns the form of a rubric from the science world",
            "set": {
                "task": "rubric",
                "objective": "sft",
                "examples": "rubrics",
                "model": ADAPTERS,
                "data": {"source": "science", "path": "", "split": "rubric"},
                "optimizer": {"learning_rate": 1e-3, "schedule": "linear", "warmup_steps": 3, "total_steps": 30},
                "train": {"steps": 30, "rows": 8, "row_length": 400, "micro_batches": 2},
            },
        },
        "rubrics_learned": {
            "run": "write_rubrics",
            "description": "rubrics that the stage-1 model writes",
            "set": {
                **WRITING,
                "model": {"source": "{workdir}/rubric_generator/model"},
                "data": {"limit": 48},
                "rubrics": {"retries": 2},
            },
        },
        "rcsd_learned": {
            "run": "train",
            "description": "RCSD with the rubrics of the stage-1 model",
            "set": {**DISTILLATION, "rubrics": {"source": "cache", "path": "{workdir}/rubrics_learned/rubrics.jsonl"}},
        },
        "rcsd_generic": {
            "run": "train",
            "description": "control: RCSD with one rubric that fits any question",
            "set": {**DISTILLATION, "rubrics": {"source": "generic"}},
        },
    }
