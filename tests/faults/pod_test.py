"""Several processes are one run: the same numbers, the same end, nothing lost when some are killed."""

import itertools
import json
import os
import resource
import shutil
import signal

import numpy as np
import pytest
from processes import PYTHON, ROOT, pod, started, wait_for

from rcsd_jax import metrics

ports = itertools.count(20_000 + os.getpid() % 10_000)
OF_THE_CLOCK = {"time", "step_seconds"}
STEPS = 12
TRAIN = ("-m", "rcsd_jax.train", f"--config={ROOT}/tests/faults/tiny_pod.py:ahead")


def numbers(folder):
    rows = metrics.read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in OF_THE_CLOCK} for row in rows]


def steps(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def fingerprints(folder):
    """Of every array of the newest checkpoint, as the run itself has stored them."""
    newest = max((path for path in (folder / "checkpoints").iterdir()), key=lambda path: int(path.name))
    return newest.name, json.loads((newest / "record" / "metadata").read_text())["leaves"]


def close(ours, theirs):
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=1e-3, atol=1e-5)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_sample_score_learn_evaluate_and_write_what_one_does(tmp_path):
    program = [*PYTHON, str(ROOT / "tests" / "faults" / "everything.py")]
    launcher = ["bash", str(ROOT / "launch" / "local_pod.sh"), "2"]
    with started([[*launcher, *program, f"--workdir={tmp_path}/two"]], tmp_path) as [two]:
        assert two.wait() == 0, two.says()[-3000:]
    with started([[*program, f"--workdir={tmp_path}/one"]], tmp_path, devices=4) as [one]:
        assert one.wait() == 0, one.says()[-3000:]
    ours, theirs = (tmp_path / name / "everything" for name in ("two", "one"))
    assert json.loads((ours / "env.json").read_text())["processes"] == 2
    close(numbers(ours), numbers(theirs))
    assert all({"reward", "divergence", "sampled_tokens"} <= row.keys() for row in numbers(ours))
    for name in sorted(path.name for path in (theirs / "trajectories").iterdir()):
        assert (ours / "trajectories" / name).read_text() == (theirs / "trajectories" / name).read_text()
    assert lines(ours / "evaluation" / "eval_sampled.jsonl") == lines(theirs / "evaluation" / "eval_sampled.jsonl")
    assert fingerprints(ours)[1].keys() == fingerprints(theirs)[1].keys()
    ours, theirs = (tmp_path / name / "rubrics" / "rubrics.jsonl" for name in ("two", "one"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert "[0] " in two.says() and "everything: 3/3 steps" not in two.says().replace("[0] everything", "")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pod(2, [*TRAIN, f"--workdir={folder}/run"], folder, port=next(ports)) as running:
        assert [each.wait() for each in running] == [0, 0], [each.says()[-2000:] for each in running]
    return folder / "run"


def test_a_pod_that_is_asked_to_end_and_then_killed_ends_with_the_very_bits_of_one_that_was_not(whole, tmp_path):
    run = tmp_path / "run"
    command = [*TRAIN, f"--workdir={run}"]
    with pod(2, command, tmp_path, port=next(ports)) as running:
        wait_for(lambda: steps(run) >= 2, running)
        os.kill(running[1].process.pid, signal.SIGTERM)
        assert [each.wait() for each in running] == [85, 85], [each.says()[-2000:] for each in running]
    saved = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert steps(run) == saved < STEPS, "all hosts saved the step that they ended at"
    assert f"step {saved} is saved; the same command goes on" in running[0].says()
    with pod(2, command, tmp_path, port=next(ports)) as running:
        wait_for(lambda: steps(run) >= saved + 3, running)
        os.kill(running[1].process.pid, signal.SIGKILL)
        assert [each.wait() for each in running] == [134, 137], "one that lost the other is to be started again"
    assert steps(run) < STEPS
    with pod(2, command, tmp_path, port=next(ports)) as running:
        assert [each.wait() for each in running] == [0, 0], [each.says()[-2000:] for each in running]
    assert numbers(run) == numbers(whole)
    assert fingerprints(run) == fingerprints(whole)
    assert len(json.loads((run / "env.json").read_text())["earlier"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1])
def test_a_host_whose_disk_is_full_ends_the_run_and_nothing_that_was_saved_is_lost(host, whole, tmp_path):
    run = tmp_path / "run"
    command = [*TRAIN, f"--workdir={run}"]
    with pod(2, command, tmp_path, port=next(ports)) as running:
        wait_for(lambda: steps(run) >= 5, running)
        resource.prlimit(running[host].process.pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        codes = [each.wait() for each in running]
    assert codes == [134, 134], [each.says()[-3000:] for each in running]
    assert steps(run) < STEPS
    with pod(2, command, tmp_path, port=next(ports)) as running:
        assert [each.wait() for each in running] == [0, 0], [each.says()[-2000:] for each in running]
    assert numbers(run) == numbers(whole)
    assert fingerprints(run) == fingerprints(whole)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A run that four processes began and were asked to end."""
    folder = tmp_path_factory.mktemp("four")
    run, mesh = folder / "run", [f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    with pod(4, [*TRAIN, f"--workdir={run}", *mesh], folder, port=next(ports)) as running:
        wait_for(lambda: steps(run) >= 2, running)
        os.kill(running[3].process.pid, signal.SIGTERM)
        assert [each.wait() for each in running] == [85] * 4, [each.says()[-2000:] for each in running]
    assert steps(run) < STEPS
    return run


def test_what_four_processes_began_one_ends_on_another_mesh(whole, four, tmp_path):
    run = shutil.copytree(four, tmp_path / "run")
    with started([[*PYTHON, *TRAIN, f"--workdir={run}", "--config.mesh.tensor=2"]], tmp_path, devices=8) as [one]:
        assert one.wait() == 0, one.says()[-3000:]
    close(numbers(run), numbers(whole))


@pytest.mark.parametrize(
    "hops",
    [
        pytest.param(((4, 1, "1 2 2"), (2, 2, "2 1 2")), id="1x8 to 4x1 to 2x2"),
        pytest.param(
            ((8, 1, "1 8 1"), (2, 4, "2 2 2"), (1, 1, "1 1 1"), (4, 2, "1 4 2")),
            id="1x8 to 8x1 to 2x4 to 1x1 to 4x2",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_whatever_processes_restore_it_the_state_is_the_same_and_so_are_the_next_batches(four, tmp_path, hops):
    """Each hop (processes, devices of each, mesh) restores what the one before has saved, and saves it again."""
    before, batches = four, []
    program = ROOT / "tests" / "faults" / "restored.py"
    for at, (processes, devices, mesh) in enumerate(hops):
        copy = tmp_path / str(at)
        command = [program, before, *mesh.split(), copy]
        with pod(processes, command, tmp_path, port=next(ports), devices=devices) as running:
            assert [each.wait() for each in running] == [0] * processes, [each.says()[-2000:] for each in running]
            told = [json.loads(each.says().splitlines()[-1]) for each in running]
        assert all(each == told[0] for each in told)
        assert told[0]["leaves"] == fingerprints(four)[1] == fingerprints(copy)[1]
        batches.append(told[0]["batches"])
        before = copy
    assert len(set(map(json.dumps, batches[0]))) == len(batches[0]) > 1, "batches differ from step to step"
    assert all(each == batches[0] for each in batches)
