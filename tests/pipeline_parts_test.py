"""Many runs, one table: what is done stays done, and what is wrong is told before anything runs."""

import json
import shutil

import pytest
import tiny_pipeline
from ml_collections import config_dict

from configs import quickstart
from rcsd_jax import config, metrics, models, pipeline

METHODS = {"base", "sft", "opsd", "rcsd_learned", "rcsd_ground_truth", "rcsd_random"}
CEILINGS = {"ceiling_rubric", "ceiling_reference"}


@pytest.fixture
def copy(tiny_run, tmp_path, monkeypatch):
    """A finished pipeline to write into; its workdir is "tiny", as when it was made."""
    shutil.copytree(tiny_run, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tiny"


def files_of_parts(folder):
    return {path: path.stat().st_mtime_ns for part in folder.iterdir() if part.is_dir() for path in part.rglob("*")}


def names(rows):
    return {row["name"] for row in rows}


def test_the_comparison_holds_every_method_ceiling_and_source_of_rubrics(tiny_run):
    comparison = json.loads((tiny_run / "comparison.json").read_text())
    text = (tiny_run / "report.md").read_text()
    assert names(comparison["methods"]) == METHODS
    assert names(comparison["ceilings"]) == CEILINGS
    assert names(comparison["rubrics"]) == {"rubrics_direct", "rubrics_learned"}
    for name in METHODS | CEILINGS:
        assert name in text


def test_every_part_is_done_and_says_what_it_was(tiny_run):
    for part in pipeline.read_parts(tiny_pipeline.get_config(), "tiny"):
        folder = tiny_run / part.experiment.name
        assert json.loads((folder / "config.json").read_text()) == json.loads(config.to_json(part.experiment))
        assert {"packages", "devices", "commit"} <= set(json.loads((folder / "env.json").read_text()))
        assert (folder / "done.json").exists()
        assert (folder / "model").exists() == (part.run == "train")
        if part.run == "train":
            rows = metrics.read_metrics(folder / "metrics.jsonl")
            assert [row["step"] for row in rows] == [1, 2, 3]
        compiled = [(line["name"], line["shapes"]) for line in json.loads((folder / "compilations.json").read_text())]
        assert len(set(compiled)) == len(compiled), "nothing is compiled twice for the same shapes"


def test_a_second_run_does_nothing_again(copy, capsys):
    before, table = files_of_parts(copy), (copy / "comparison.json").read_text()
    pipeline.run(tiny_pipeline.get_config(), "tiny")
    assert files_of_parts(copy) == before
    assert json.loads((copy / "comparison.json").read_text()) == json.loads(table)
    assert "rcsd_ground_truth" in capsys.readouterr().out


def test_an_order_runs_and_compares_some_of_the_parts(copy):
    (copy / "comparison.json").unlink()
    values = tiny_pipeline.get_config()
    values.order = ("base", "sft")
    pipeline.run(values, "tiny")
    comparison = json.loads((copy / "comparison.json").read_text())
    assert names(comparison["methods"]) == {"base", "sft"}


def test_a_part_that_fails_leaves_the_earlier_ones_done(tmp_path, monkeypatch):
    ran = []

    def run(experiment, workdir):
        ran.append(experiment.name)
        if experiment.name == "opsd" and ran.count("opsd") == 1:
            raise ValueError("no luck")

    monkeypatch.setattr(pipeline, "RUNNERS", dict.fromkeys(pipeline.RUNNERS, run))
    monkeypatch.setattr(pipeline.compare, "compare_runs", lambda folders, *_, **__: f"compared {len(folders)}")
    values = tiny_pipeline.get_config()
    with pytest.raises(ValueError, match="no luck"):
        pipeline.run(values, str(tmp_path))
    order = list(values.order)
    assert ran == order[: order.index("opsd") + 1]
    pipeline.run(values, str(tmp_path))
    assert ran[order.index("opsd") + 1 :] == order, "finished parts are opened, and say themselves that they are done"


def test_a_part_changes_what_it_names_and_reads_what_an_earlier_one_wrote():
    parts = {part.experiment.name: part.experiment for part in pipeline.read_parts(quickstart.get_config(), "runs/q")}
    assert parts["opsd"].model.source == "runs/q/base/model"
    assert parts["rcsd_learned"].rubrics.path == "runs/q/rubrics_learned/rubrics.jsonl"
    assert parts["base"].model.source == "science"
    assert parts["opsd"].teacher.context == ("reference",)
    assert parts["opsd"].prompts == parts["rcsd_random"].prompts
    distilled = [parts[name].train for name in ("opsd", "rcsd_learned", "rcsd_ground_truth", "rcsd_random")]
    assert len(set(distilled)) == 1, "the distillation methods have the same budget"


def test_a_value_of_one_part_is_not_that_of_another():
    values = quickstart.get_config()
    values.parts.opsd.set.train.steps = 7
    steps = {part.experiment.name: part.experiment.train.steps for part in pipeline.read_parts(values, "w")}
    assert steps["opsd"] == 7 and steps["rcsd_random"] != 7


def test_the_errors_of_all_parts_are_told_at_once():
    values = quickstart.get_config()
    values.baseline = "bases"
    values.order = ("base", "sftt", "sft", "opsd", "rubrics_direct")
    values.parts.sft.run = "fit"
    values.parts.opsd.set.trian = {"steps": 3}
    del values.parts.rubrics_direct.description
    with pytest.raises(config.ConfigError) as caught:
        pipeline.read_parts(values, "w")
    told = "\n".join(caught.value.errors)
    assert len(caught.value.errors) == 5, told
    for part in (
        "baseline is 'bases'",
        "order names 'sftt'",
        "part 'sft' is",
        "did you mean 'train'",
        "'rubrics_direct'",
    ):
        assert part in told


def test_the_config_of_a_single_run_is_not_a_pipeline():
    with pytest.raises(config.ConfigError, match="a pipeline has the keys"):
        pipeline.read_parts(config.default(), "w")
    with pytest.raises(config.ConfigError, match="config.parts is unknown"):
        config.read(config_dict.ConfigDict(quickstart.get_config()))


def test_room_beyond_the_positions_of_the_model_is_a_warning(caplog):
    e = tiny_pipeline.experiment(sampling__max_new_tokens=1000)
    with caplog.at_level("WARNING"):
        models._warn_of_positions(e, 2000)
    assert not caplog.text
    with caplog.at_level("WARNING"):
        models._warn_of_positions(e, 1024)
    assert "room for 112 + 1000 tokens, model science knows 1024 positions" in caplog.text
