"""Ways to learn to write rubrics, side by side in the science world, without a judge.

    python -m rcsd_jax.sweep --config=configs/stage_1.py --workdir=runs/stage_1

The report's table "Rubrics" has what each of them writes for the same training questions: validity, number of criteria,
duplicates, leaks of the answer, match with the ground truth; and, as rows of their own, how much a teacher minds them
(``rubric_effect``: the base model, on its own answers). To learn from these rubrics is configs/comparison.py.

Cost: 39 cells; estimated at 40 minutes on 2 otherwise idle CPU cores, not recorded yet. Numbers to expect: none yet.
"""

import rcsd_jax.config
from configs import quickstart

QUESTIONS = {"limit": 240}


def get_config():
    """See ``rcsd_jax.sweep``."""
    title = "Stage 1 in the science world: four ways to a rubric"
    config = rcsd_jax.config.pipeline(title, quickstart.common(), parts(), baseline="base")
    config.seeds = (0, 1, 2)
    return config


def parts():
    """Name to part: the base model, three generators, what they and the untrained model write, and its effect."""
    base = quickstart.parts()["base"]
    base["set"]["data"]["pretraining"]["rubric_with_rubric"] = 0.05  # the "released" teacher reads a rubric
    writers = (*_generators(), "direct")
    return (
        {"base": base}
        | {f"generator_{name}": _generator(*generator) for name, generator in _generators().items()}
        | {f"rubrics_{name}": _written(name) for name in writers}
        | {f"effect_{name}": _effect(name) for name in (*writers, "ground_truth")}
    )


def _generator(description, values):
    values = {**quickstart.DISTILLATION, **quickstart.STAGE_1, "data": {"split": "rubric"}, **values}
    return {"run": "train", "description": description, "set": values}


def _written(name):
    source = quickstart.BASE if name == "direct" else {"source": f"{{workdir}}/generator_{name}/model"}
    values = {**quickstart.WRITING, "model": source, "data": QUESTIONS, "prompts": _prompts(name)}
    return {"run": "write_rubrics", "description": f"what the {name} writer writes", "set": values}


def _effect(name):
    cache = {"source": "cache", "path": f"{{workdir}}/rubrics_{name}/rubrics.jsonl"}
    rubrics = {"source": "ground_truth"} if name == "ground_truth" else cache
    return {
        "run": "rubric_effect",
        "description": f"effect of the {name} rubrics on the base model's mind",
        "set": {"model": quickstart.BASE, "data": QUESTIONS, "rubrics": rubrics},
    }


def _generators():
    """Name to description and values."""
    sft = {"objective": "sft", "examples": "rubrics", "train": {"steps": 50, "rows": 8, "row_length": 248}}
    return {
        "paper": ("the teacher reads the reference answer", {}),
        "released": ("the teacher reads the ground-truth rubric as well", {"prompts": _prompts("released")}),
        "sft": ("SFT on ground-truth rubrics", sft),
    }


def _prompts(name):
    lengths = quickstart.STAGE_1["prompts"]
    if name == "released":  # whose teacher reads the question, its answer and a rubric
        return {**lengths, "teacher_lengths": (128,), "profile": "released"}
    return lengths
