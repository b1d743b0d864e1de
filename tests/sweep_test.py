"""Cells: each is run once by whoever gets it, after what it reads; and the table is about all seeds."""

import csv
import json
import os
import shutil
import threading
import time

import numpy as np
import pytest
import tiny_pipeline
from etils import epath

from configs import comparison
from rcsd_jax import config, pipeline, preflight, rubrics, sweep

PARTS = ("base", "ceiling_rubric", "opsd", "rubrics_direct", "rcsd_learned", "rcsd_random")


def tiny_sweep(order=PARTS, seeds=(0, 1)):
    values = tiny_pipeline.get_config()
    values.order, values.seeds = order, seeds
    return values


def finish(folder):
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/done.json", "w") as file:
        file.write("{}")


@pytest.fixture
def runs(monkeypatch):
    """Runs of cells that do nothing but say that they are done: (folder, the cells that were done before)."""
    seen = []

    def run(experiment, folder):
        with preflight.claimed(epath.Path(folder)):
            if os.path.exists(f"{folder}/done.json"):
                return
            before = {done for done, _ in seen}
            time.sleep(0.01)
            seen.append((folder, before))
            finish(folder)

    monkeypatch.setattr(pipeline, "RUNNERS", dict.fromkeys(pipeline.RUNNERS, run))
    monkeypatch.setattr(sweep.compare, "compare_runs", lambda folders, *_, **__: f"compared {len(folders)}")
    monkeypatch.setattr(sweep, "WAIT", 0.01)
    return seen


def test_every_seed_has_its_own_base_and_the_same_questions():
    cells = {cell.folder: cell for cell in sweep.read_cells(comparison.get_config(), "w")}
    assert len(cells) == 75
    for seed in (0, 1, 2):
        cell = cells[f"w/seed_{seed}/rcsd_learned"]
        assert cell.part.experiment.model.source == f"w/seed_{seed}/base/model"
        assert cell.needs == (f"w/seed_{seed}/base", f"w/seed_{seed}/rubrics_learned")
        assert cell.part.experiment.seed == seed
    assert len({cell.part.experiment.data.science for cell in cells.values()}) == 1


def test_every_method_of_the_comparison_has_the_same_budget():
    cells = sweep.read_cells(comparison.get_config(), "w")
    trained = [cell.part.experiment for cell in cells if cell.part.run == "train"]
    trained = [e for e in trained if e.objective != "sft" and e.task == "answer" and e.model.source != "science"]
    sampled = {(e.train.steps, e.train.questions * e.train.samples, e.optimizer) for e in trained}
    assert len(sampled) == 1 and len(trained) > 40


def test_a_sweep_wants_seeds_and_each_once():
    for seeds in ((), (1, 1)):
        with pytest.raises(config.ConfigError, match="give at least one, each once"):
            sweep.read_cells(tiny_sweep(seeds=seeds), "w")
    with pytest.raises(config.ConfigError, match="order names 'sftt'"):
        sweep.read_cells(tiny_sweep(order=("base", "sftt")), "w")


def test_several_workers_run_every_cell_once_and_after_what_it_reads(runs, tmp_path, capsys):
    values = tiny_sweep(seeds=(0, 1, 2))
    workers = [threading.Thread(target=sweep.run, args=(values, str(tmp_path))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    needs = {cell.folder: cell.needs for cell in sweep.read_cells(values, str(tmp_path))}
    assert sorted(folder for folder, _ in runs) == sorted(needs)
    for folder, before in runs:
        assert before.issuperset(needs[folder]), folder
    assert f"compared {len(needs)}" in capsys.readouterr().out


def test_what_a_killed_worker_held_is_free_and_what_is_done_stays_done(runs, tmp_path):
    values = tiny_sweep(seeds=(0,))
    finish(tmp_path / "seed_0" / "base")
    (tmp_path / "seed_0" / "opsd").mkdir()
    (tmp_path / "seed_0" / "opsd" / "lock").write_text('{"run": "gone", "host": "here", "pid": 1}')
    sweep.run(values, str(tmp_path))
    assert [os.path.basename(folder) for folder, _ in runs] == list(PARTS[1:])


def test_a_cell_that_fails_stops_only_those_that_read_it_and_is_told_at_the_end(runs, tmp_path, monkeypatch):
    good = pipeline.RUNNERS["train"]

    def bad(experiment, folder):
        raise ValueError("no luck")

    monkeypatch.setitem(pipeline.RUNNERS, "write_rubrics", bad)
    values = tiny_sweep(seeds=(0, 1))
    values.parts.rcsd_learned.set.rubrics.path = "{workdir}/rubrics_direct/rubrics.jsonl"
    with pytest.raises(ValueError, match=r"4 of 12 cells failed:\n.*no luck(.|\n)*needs .*seed_1/rubrics_direct"):
        sweep.run(values, str(tmp_path))
    assert len(runs) == 8
    monkeypatch.setitem(pipeline.RUNNERS, "write_rubrics", good)
    sweep.run(values, str(tmp_path))
    assert len(runs) == 12


def test_the_table_of_several_seeds_has_their_means_and_pairs_them(tiny_run, tmp_path, capsys):
    for seed in (0, 1):
        for name in PARTS:
            shutil.copytree(tiny_run / name, tmp_path / f"seed_{seed}" / name, ignore=shutil.ignore_patterns("model"))
            path = tmp_path / f"seed_{seed}" / name / "config.json"
            here = path.read_text().replace('"tiny/', f'"{path.parents[1]}/')
            path.write_text(json.dumps(json.loads(here) | {"seed": seed}))
    # The second seed of one method answers as another method did.
    shutil.rmtree(tmp_path / "seed_1" / "opsd" / "evaluation")
    shutil.copytree(tiny_run / "base" / "evaluation", tmp_path / "seed_1" / "opsd" / "evaluation")
    sweep.run(tiny_sweep(), str(tmp_path))
    assert "rcsd_random" in capsys.readouterr().out
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    rows = {row["name"]: row for row in comparison["methods"]}
    assert set(rows) == {"base", "opsd", "rcsd_learned", "rcsd_random"}
    key = "eval_sampled/length"
    first, second = rows["opsd"]["by_seed"][key]
    assert second == rows["base"]["by_seed"][key][1] and rows["opsd"]["seeds"] == [0, 1]
    difference = rows["opsd"]["differences"][key]
    assert difference["difference"] == pytest.approx((first - rows["base"]["by_seed"][key][0]) / 2)
    assert rows["opsd"]["metrics"]["eval_sampled"]["length"]["mean"] == pytest.approx(np.mean([first, second]))
    guidance = rubrics.RubricCache(tmp_path / "seed_1" / "rcsd_random" / "guidance.jsonl").entries()
    assert guidance[0].rubric.origin == "random(ground_truth)"
    assert rows["opsd"]["budget"]["steps"] == tiny_pipeline.STEPS and rows["opsd"]["budget"]["peak_memory"] > 0
    assert [row["name"] for row in comparison["rubrics"]] == ["rubrics_direct"]
    report = (tmp_path / "report.md").read_text()
    for words in ("Seed by seed", "each with 2 seeds", "peak memory", "the rubric of another question (seed 0)"):
        assert words in report
    with open(tmp_path / "comparison.csv") as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    assert float(lines["opsd"]["tokens_vs_difference"]) == difference["difference"]
    assert lines["ceiling_rubric"]["kind"] == "ceiling" and lines["base"]["seeds"] == "2"
    assert (tmp_path / "accuracy.png").stat().st_size > 1000
    other = tiny_sweep()
    other.common.optimizer.learning_rate = 0.5
    with pytest.raises(ValueError, match="holds a run of another config"):
        sweep.run(other, str(tmp_path))


def test_a_tiny_model_goes_through_a_sweep(one_device, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run / "base", "w/seed_0/base")  # of the same config: it is done
    sweep.run(tiny_sweep(order=("base", "rubrics_direct"), seeds=(0,)), "w")
    assert json.loads((tmp_path / "w/seed_0/rubrics_direct/done.json").read_text())["questions"] == 16
    comparison = json.loads((tmp_path / "w" / "comparison.json").read_text())
    assert [row["name"] for row in comparison["rubrics"]] == ["rubrics_direct"]
