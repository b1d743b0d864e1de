"""The doors of the commands: flags, folders, and errors that fit on a line."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import flagsaver
from tiny_pipeline import experiment

from rcsd_jax import command, compare, config
from rcsd_jax.workdir import Workdir

ROOT = Path(__file__).parents[1]


@pytest.fixture
def called(monkeypatch):
    """``called(*arguments)`` runs a command in this process: (exit message or code, what it was run with)."""

    def call(*arguments, main=command.run):
        seen = []
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(command, "cache_compilations", lambda workdir: None)
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
            main(lambda *found: seen.append(found))
        return ended.value.code, seen

    return call


def test_a_key_is_overridden_from_the_command_line(called, tmp_path):
    code, [(found, workdir)] = called(
        "--config=configs/rcsd.py",
        f"--workdir={tmp_path}/a b/",
        "--config.data.path=questions.jsonl",
        "--config.rubrics.path=r.jsonl",
        "--config.optimizer.learning_rate=1e-6",
        "--config.train.samples=4",
        "--config.teacher.context=('reference', 'rubric')",
        "--config.divergence.token_clip=0.5",
        "--config.optimizer.max_grad_norm=None",
        "--config.model.compute.scan_layers=false",
    )
    assert not code
    assert workdir == f"{tmp_path}/a b", "with and without the last slash it is one folder"
    assert (found.data.path, found.optimizer.learning_rate, found.train.samples) == ("questions.jsonl", 1e-6, 4)
    assert found.teacher.context == ("reference", "rubric")
    assert found.divergence.token_clip == 0.5 and found.optimizer.max_grad_norm is None
    assert found.model.compute.scan_layers is False
    assert found.model.source == "Qwen/Qwen3-8B", "what is not overridden is that of the file"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config=configs/rcsd.py"], "--workdir is missing: give, for example, --workdir=runs/x"),
        (["--workdir=w"], "--config is missing: give, for example, --config=configs/quickstart.py"),
        (["--config=configs/rcsd.py", "--workdir=w", "config.train.steps=3"], "['config.train.steps=3'] belong to no"),
        (
            ["--config=configs/rcsd.py", "--workdir=w", "--config.train.stepz=3"],
            "config.train.stepz is unknown: did you mean 'steps'?",
        ),
        (
            ["--config=configs/rcsd.py", "--workdir=w", "--config.optimizer.lr=1", "--config.sampling.x=2"],
            "config.optimizer.lr is unknown: config.optimizer has b1",
        ),
        (
            ["--config=configs/rcsd.py", "--workdir=w", "--config.seed.x=2"],
            "config.seed.x is unknown",
        ),
        (["--config=configs/rcsd.py", "--workdir=w", "--config.train.steps=None"], "config.train.steps is None"),
        (["--config=configs/rcsd.py", "--workdir=w", "--config.train.steps=0"], "config.train.steps is 0"),
        (
            ["--config=configs/rcsd.py", "--workdir=w", "--config.train.steps=1e3"],
            "config.train.steps is '1e3': give int",
        ),
        (
            ["--config=configs/rcsd.py", "--workdir=w", "--config.a=1", "--config.seed=x", "--config.train.rows=0"],
            "the config has 5 errors",
        ),
        (["--config=configs/rcsd.py", "--workdir=w", "--config.optimizer.eps=nan"], "eps is nan: give a finite"),
        (["--config=configs/rscd.py", "--workdir=w"], "configs/rscd.py"),
    ],
)
def test_what_is_wrong_with_the_flags_ends_the_command_with_its_cure(called, arguments, says):
    code, seen = called(*arguments)
    assert says in str(code)
    assert not seen
    assert not (ROOT / "w").exists()


@pytest.mark.parametrize("bad", ["--confg=x", "--config.model.compute.scan_layers=maybe"])
def test_a_flag_of_the_wrong_type_or_name_ends_the_command(called, bad, capsys):
    code, seen = called("--config=configs/rcsd.py", "--workdir=w", bad)
    assert code and not seen
    assert bad.split("=")[0].strip("-") in capsys.readouterr().err


def test_an_error_of_the_run_is_its_message_and_with_verbosity_its_traceback(called, tmp_path):
    def fails(error):
        return lambda main: command.start(lambda: (_ for _ in ()).throw(error))

    assert called(main=fails(ValueError("no such thing")))[0] == "error: no such thing"
    assert "denied" in called(main=fails(PermissionError("denied")))[0]
    with pytest.raises(ValueError, match="no such thing"):
        called("--verbosity=1", main=fails(ValueError("no such thing")))
    with pytest.raises(KeyError):
        called(main=fails(KeyError("a mistake of ours")))


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, **options)


def test_help_names_the_flags_and_says_what_the_command_is_for():
    shown = python("-m", "rcsd_jax.export", "--help").stdout
    for part in ("--config", "--workdir", "--to", "a checkpoint for others"):
        assert part in shown


def test_a_leftover_argument_fails_the_process(tmp_path):
    ended = python("-m", "rcsd_jax.train", "--config=configs/sft.py", f"--workdir={tmp_path}/w", "config.seed=3")
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith(
        "arguments ['config.seed=3'] belong to no flag: write --config.key=value, with two dashes"
    )
    assert not (tmp_path / "w").exists()


# The folder of a run


def begin(folder, e):
    with Workdir(folder, e).held():
        pass
    return Workdir(folder, e)


def test_a_folder_belongs_to_one_config_and_says_which_keys_differ(tmp_path):
    begin(tmp_path, experiment(seed=1))
    (begin(tmp_path, experiment()) / "checkpoints").mkdir()  # nothing was made before: it may have been a slip
    begin(tmp_path, experiment())
    with pytest.raises(ValueError) as caught:
        Workdir(tmp_path, experiment(train__steps=7, prompts__teacher_lengths=(64, 128)))
    told = str(caught.value)
    assert "config.train.steps was 100, is 7" in told
    assert "config.prompts.teacher_lengths was [112], is [64, 128]" in told
    assert told.count("\n  - ") == 2 and "use another --workdir" in told
    assert config.read(json.loads((tmp_path / "config.json").read_text())) == experiment()
    saving = experiment(train__checkpoint_every=7, mesh__fsdp=4)
    begin(tmp_path, saving)
    assert config.read(json.loads((tmp_path / "config.json").read_text())) == saving, "no number depends on these"
    assert config.content_hash(saving) == config.content_hash(experiment()) != config.content_hash(experiment(seed=1))


def test_a_folder_that_was_begun_before_a_key_was_there_goes_on_with_its_default(tmp_path, caplog):
    (begin(tmp_path, experiment()) / "checkpoints").mkdir()
    before = json.loads((tmp_path / "config.json").read_text())
    del before["data"]["max_bad_rows"], before["gates"], before["train"]["keep_every"]
    (tmp_path / "config.json").write_text(json.dumps(before))
    with pytest.raises(ValueError, match=r"config:\n  - config.data.max_bad_rows was 0, is 1\nuse"):
        Workdir(tmp_path, experiment(data__max_bad_rows=1))
    assert not caplog.messages
    saving = experiment(train__keep_every=50)  # on which no number depends
    folder = begin(tmp_path, saving)
    [told] = caplog.messages
    assert "before there were config.data.max_bad_rows=0, config.gates={" in told and "these defaults count" in told
    now = json.loads((tmp_path / "config.json").read_text())
    assert now["train"].pop("keep_every") == 50 and now == before, "later commits find the same folder"
    # What its checkpoints say that they belong to, as that commit has written it.
    text = json.dumps(config.without_free(before), sort_keys=True)
    assert folder.config_hash == hashlib.sha256(text.encode()).hexdigest()[:16] != config.content_hash(saving)


def test_a_machine_without_git_has_no_commit_and_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    begin(tmp_path, experiment())
    assert json.loads((tmp_path / "env.json").read_text())["commit"] is None


def test_every_start_of_a_run_is_in_its_environment(tmp_path):
    starts = []
    for _ in range(3):
        begin(tmp_path, experiment())
        starts.append(json.loads((tmp_path / "env.json").read_text()))
    assert [len(start.pop("earlier")) for start in starts] == [0, 1, 2]
    assert json.loads((tmp_path / "env.json").read_text())["earlier"] == starts[:2]


def test_a_run_is_done_when_it_says_so(tmp_path):
    folder = Workdir(tmp_path / "a" / "b", experiment())
    assert folder.done() is None
    assert folder.finish({"steps": 3}) == {"steps": 3}
    assert Workdir(tmp_path / "a" / "b", experiment()).done() == {"steps": 3}
    assert not list(tmp_path.rglob("*.tmp"))


# compare


def test_finished_runs_are_compared_whatever_command_made_them(tiny_run, tmp_path):
    runs = [tiny_run / name for name in ("base", "sft", "ceiling_rubric", "rubrics_direct", "rubrics_learned")]
    table = compare.compare_runs(runs, tmp_path, baseline="sft", title="Some of them")
    assert "ceiling_rubric" in table
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["name"] for row in comparison["methods"]] == ["base", "sft"]
    assert [row["name"] for row in comparison["rubrics"]] == ["rubrics_direct", "rubrics_learned"]
    assert (tmp_path / "report.md").read_text().startswith("# Some of them")


def test_a_run_that_is_not_finished_is_not_compared(tiny_run, tmp_path):
    begin(tmp_path / "unfinished", experiment())
    with pytest.raises(ValueError, match="unfinished is not finished"):
        compare.compare_runs([tiny_run / "base", tmp_path / "unfinished"], tmp_path, baseline="base", title="")
    with pytest.raises(ValueError, match="the baseline is 'bass'"):
        compare.compare_runs([tiny_run / "base"], tmp_path, baseline="bass", title="")
