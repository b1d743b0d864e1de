"""A teacher that is another model: it is read, it never changes, and no checkpoint holds it."""

import json
import shutil

import jax
import pytest
from tiny_pipeline import experiment

from rcsd_jax import checkpoint, config, lm, metrics, models, sharding
from rcsd_jax.train import train

pytestmark = pytest.mark.usefixtures("one_device")


def exported(folder, seed=0, **sizes):
    """A folder with a random model of the science world."""
    shape = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_width": 16, "mlp_width": 64} | sizes
    mesh = sharding.make_mesh(config.read({}).mesh)
    model = models.load(config.Model(science=config.ScienceModel(**shape)), seed, mesh)
    lm.export(str(folder), model.transformer, model.variables, model.tokenizer)
    return str(folder)


def taught_by(teacher, student, **changes):
    return experiment(
        model__source=student,
        teacher__source=teacher,
        teacher__weights__kind="separate",
        teacher__context=(),
        rubrics__source="none",
        evaluation__splits=(),
        train__steps=2,
        optimizer__total_steps=2,
        optimizer__warmup_steps=0,
        **changes,
    )


def losses(folder):
    return [row["loss"] for row in metrics.read_metrics(folder / "metrics.jsonl")]


def test_a_larger_model_teaches_is_hashed_and_stays_out_of_the_checkpoints(tmp_path):
    student, teacher = exported(tmp_path / "student"), exported(tmp_path / "teacher", 1, width=48, layers=3)
    e, folder = taught_by(teacher, student), tmp_path / "run"
    train(e, str(folder))
    assert min(losses(folder)) > 1e-3
    stored = json.loads((folder / "checkpoints" / "2" / "record" / "metadata").read_text())
    assert any(path.startswith("variables/params") for path in stored["leaves"])
    assert not any(path.startswith("teacher") for path in stored["leaves"])
    # Another teacher of the same shape cannot go on with it.
    (folder / "done.json").unlink()
    shutil.rmtree(teacher)
    exported(teacher, 2, width=48, layers=3)
    with pytest.raises(checkpoint.Mismatch, match="of a separate teacher changed"):
        train(e, str(folder))


def test_a_teacher_with_the_students_weights_and_prompt_agrees_and_does_not_move(tmp_path):
    student = exported(tmp_path / "student")
    train(taught_by(student, student), str(tmp_path / "run"))
    first, second = losses(tmp_path / "run")
    assert abs(first) < 1e-5 and abs(second) < 1e-5


def test_another_vocabulary_is_refused_with_both_sizes(tmp_path):
    student = exported(tmp_path / "student")
    shutil.copytree(student, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    one, two = list(tokenizer["model"]["vocab"])[-2:]
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(tokenizer))
    mesh = sharding.make_mesh(config.read({}).mesh)
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="has another vocabulary"):
        models.of(taught_by(str(tmp_path / "other"), student), mesh)


def test_a_separate_teacher_has_a_source_and_a_kind():
    for teacher in ({"source": "x"}, {"weights": {"kind": "separate"}}):
        with pytest.raises(config.ConfigError, match="a separate teacher has both"):
            config.read({"teacher": teacher})
    values = {"teacher": {"source": "x", "weights": {"kind": "separate"}}, "objective": "distill_grpo"}
    values |= {"train": {"samples": 4}, "policy": {"kl_coefficient": 0.1}}
    with pytest.raises(config.ConfigError, match="no weights are kept from before training"):
        config.read(values)
