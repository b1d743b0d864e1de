"""The whole field in the science world: methods, controls and seeds in one table.

    python -m rcsd_jax.sweep --config=configs/comparison.py --workdir=runs/comparison

Cost: 75 cells of one to two minutes and three base models of six, on one core. The command twice at the same time,
pinned to a core each, took an hour and a half beside other work; on more machines that share the folder it divides the
cells as well. Numbers to expect: docs/results/comparison.

Every seed has a base model of its own, and its own order of questions and noise; the questions are the same for all.
Every method that samples has the same budget: 50 steps of 64 completions (16 questions with 4 each where completions
of a question are compared). Published settings stand where they are a choice of the method; learning rate and schedule
are those of the quickstart for all, tuned for none.

    --config.order="('base','opsd','rcsd_ground_truth')"    some of the parts
    --config.seeds="(0,)"                                   some of the seeds
"""

import rcsd_jax.config
from configs import quickstart

TITLE = "RCSD, its relatives and its controls in the science world"
CONTROLS = {
    "random": "the rubric of another question",
    "generic": "one rubric that fits any question",
    "noisy": "random words in place of some words",
    "reduced": "the heaviest criteria only",
    "shuffled": "the criteria in random order",
    "dropped": "criteria left out at random",
    "unweighted": "all weights equal",
    "none": "no rubric at all",
}
GROUND_TRUTH = {"source": "ground_truth"}
COMPARED = {"questions": 16, "samples": 4}  # completions of one question: 64 in all, as everywhere
QUICK = ("base", "ceiling_rubric", "ceiling_reference", "sft", "opsd", "rubric_generator", "rubrics_learned")


def get_config():
    """See ``rcsd_jax.sweep``."""
    config = rcsd_jax.config.pipeline(TITLE, quickstart.common(), parts(), baseline="base")
    config.seeds = (0, 1, 2)
    return config


def parts():
    """Name to part: what the quickstart has, then the relatives, then the controls."""
    quick = quickstart.parts()
    # A teacher that reads a sibling's solution must have met solutions in prompts.
    quick["base"]["set"]["data"]["pretraining"].update(answer=0.3, answer_with_solution=0.1)
    return (
        {name: quick[name] for name in (*QUICK, "rcsd_learned", "rcsd_ground_truth")}
        | {name: _method(*method) for name, method in _relatives().items()}
        | {f"control_{name}": _control(name, what) for name, what in CONTROLS.items()}
    )


def _relatives():
    """Name to description and values."""
    sibling = {"context": ("solution",), "solutions": "sibling", "weights": {"kind": "ema", "ema_decay": 0.95}}
    of_sdpo = {"kind": "jsd", "beta": 0.5, "support": "student", "top_k": 100, "tail": True, "importance_cap": 2.0}
    by_criteria = {"kind": "rubric", "judge": "program"}
    bare = {"rubrics": {"source": "none"}, "train": COMPARED}
    return {
        "rgsd": (
            "RGSD: ground-truth rubrics, clipped JSD",
            {"rubrics": GROUND_TRUTH, "divergence": {"kind": "jsd", "beta": 0.5, "entry_clip": 0.05}},
        ),
        "contrast": (
            "RCSD less what another question's rubric does",
            {"rubrics": GROUND_TRUTH, "teacher": {"contrast": 0.5}},
        ),
        "purified": (
            "RCSD with a purified target: less what the rubric says without the question",
            {"rubrics": GROUND_TRUTH, "divergence": {"purify": 2.0}},
        ),
        "distill_sampled": (
            "RCSD on the sampled tokens only, as a policy gradient",
            {"rubrics": GROUND_TRUTH, "objective": "distill_sampled"},
        ),
        "sdpo": (
            "SDPO: the teacher reads another answer of the student that was right",
            {**bare, "teacher": sibling, "divergence": of_sdpo, "reward": {"kind": "accuracy"}},
        ),
        "grpo_accuracy": ("GRPO on the reference answers", {**bare, "objective": "grpo"}),
        "grpo_rubric": ("GRPO on the criteria met", {**bare, "objective": "grpo", "reward": by_criteria}),
        "best_of_n": (
            "RuFT: SFT on the best of 4 answers by criteria met",
            {**bare, "objective": "best_of_n", "reward": by_criteria},
        ),
    }


def _method(description, values):
    train = {**quickstart.DISTILLATION["train"], **values.get("train", {})}
    return {"run": "train", "description": description, "set": {**quickstart.DISTILLATION, **values, "train": train}}


def _control(name, what):
    return _method(f"control: RCSD with {what}", {"rubrics": {**GROUND_TRUTH, "control": name}})
