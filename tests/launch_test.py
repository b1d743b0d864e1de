"""The launch scripts: what they would do (DRY_RUN=1), and that shells, YAML readers and Kubernetes can read them.

tests/references/launch/*.txt are sessions in a shell. After a wanted change ``python tests/launch_test.py`` records
them anew; read the difference.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs import rcsd
from rcsd_jax import ahead, config, sharding

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), ROOT / ".ci" / "run"])
SESSIONS = sorted((ROOT / "tests" / "references" / "launch").glob("*.txt"))
TAKEN_AWAY = {85, 134, 137, 143}


def session(path):
    """The commands of a recorded session, and what a shell with DRY_RUN=1 says to them now."""
    commands = [line for line in path.read_text().splitlines() if line.startswith("$ ")]
    script = "".join(f"cat <<'END'\n{line}\nEND\n{line[2:]}\n" for line in commands)
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "DRY_RUN": "1"}
    done = subprocess.run(
        ["bash", "-s"], input=script, cwd=ROOT, env=environment, text=True, timeout=60,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_script_says_what_it_would_do(path):
    assert session(path) == path.read_text()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_can_read_it(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shellcheck_finds_nothing():
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=places)
    if shellcheck is None:
        pytest.skip("no shellcheck: pip install -r requirements-dev.txt")
    fakes = (ROOT / "tests" / "fake_cloud").iterdir()
    done = subprocess.run([shellcheck, "-x", *SCRIPTS, *fakes], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.md")), ids=lambda path: path.name)
def test_a_shell_can_read_what_the_notes_say_to_type(path):
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_everything_that_is_sourced_copied_or_named_is_there():
    for path in [*SCRIPTS, *LAUNCH.glob("*.md"), *LAUNCH.glob("*.yaml"), LAUNCH / "Dockerfile", ROOT / "README.md"]:
        for name in re.findall(r"\blaunch/[\w/]+\.\w+|\brequirements[\w-]*\.txt|\bconfigs/\w+\.py", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name} names {name}"
        for module in re.findall(r"python -m rcsd_jax\.([a-z_]+)", path.read_text(), re.MULTILINE):
            assert (ROOT / "rcsd_jax" / f"{module}.py").exists(), f"{path.name} names rcsd_jax.{module}"


def flags_of_training(text):
    """The --config.key=value of every complete command in it that trains configs/rcsd.py."""
    whole = re.sub(r"\\\n(# +)?", " ", text)
    commands = re.findall(r"train --config=configs/rcsd\.py.*", whole)
    return [dict(re.findall(r"--config\.([\w.]+)=([^\s\"`|]+)", command)) for command in commands]


def test_what_is_given_as_an_example_divides_over_its_devices():
    readme = (LAUNCH / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \|.*\| `(--config\.[^`]+)` \|$", readme, re.MULTILINE)
    examples = [(int(devices), dict(re.findall(r"--config\.([\w.]+)=(\S+)", flags))) for devices, flags in rows]
    assert [devices for devices, _ in examples] == [8, 16, 32, 64, 128, 256]
    files = {"README.md": 64, "tpu_vm.sh": 64, "gke.sh": 64, "slurm.sbatch": 32, "gce_mig.md": 128}
    for name, devices in files.items():
        examples.append((devices, flags_of_training((LAUNCH / name).read_text())[-1]))
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    examples.append((16, *flags_of_training(task["envs"]["COMMAND"])))
    for devices, flags in examples:
        raw = rcsd.get_config()
        raw.update_from_flattened_dict({"data.path": "x", "rubrics.path": "x"})
        raw.update_from_flattened_dict({key: int(value) for key, value in flags.items() if value.isdigit()})
        e = config.read(raw)
        wanted = [e.mesh.data, e.mesh.fsdp, e.mesh.tensor]
        wanted[1] = devices // (wanted[0] * wanted[2])
        sizes = ahead.subject(e, None).transformer.architecture.sizes
        rows = [e.train.questions // e.train.micro_batches]
        assert sharding.working(wanted, devices, rows=rows, sizes=sizes)[0] == tuple(wanted), (devices, flags)


# Kubernetes


@pytest.fixture(scope="module")
def submitted():
    """The JobSet that launch/gke.sh submits, in the recorded session."""
    recorded = (ROOT / "tests" / "references" / "launch" / "gke.txt").read_text()
    return yaml.safe_load(recorded.split("<<'END'\n")[1].split("\nEND\n")[0])


def test_the_jobset_on_disk_is_yaml_and_nothing_is_left_to_fill_in():
    assert yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())["kind"] == "JobSet"
    recorded = (ROOT / "tests" / "references" / "launch" / "gke.txt").read_text()
    assert "${" not in recorded


def test_the_jobset_has_a_host_for_every_four_chips_and_the_words_of_the_command(submitted):
    job = submitted["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 64 // 4
    [container] = job["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["args"][:2] == ["rcsd_jax.train", "--config=configs/rcsd.py"]
    assert container["args"][2:] == ["--config.teacher.context=('rubric',)", 'a "quoted" \\ & word']
    assert "command" not in container, "the entry point of the image hands signals on"


def test_the_jobset_begins_again_after_a_preemption_and_fails_at_an_error(submitted):
    job = submitted["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never", "all hosts or none"
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "NotIn"
    assert set(rule["onExitCodes"]["values"]) == TAKEN_AWAY
    assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    policy = submitted["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 20
    assert policy["rules"] == [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]


def test_the_image_starts_python_under_an_init_that_hands_signals_on():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    entry = next(line for line in lines if line.startswith("ENTRYPOINT"))
    assert entry == 'ENTRYPOINT ["tini", "--", "python", "-m"]'
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
    assert {".venv*", "runs", "models", ".cache"} <= set(ignored)


# SkyPilot and SLURM


def test_the_skypilot_task_recovers_from_what_a_preempted_run_exits_with():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    recovery = task["resources"]["job_recovery"]
    assert 85 in recovery["recover_on_exit_codes"] and set(recovery["recover_on_exit_codes"]) < TAKEN_AWAY
    assert task["resources"]["use_spot"] and set(task["envs"]) == {"WORKDIR", "REQUIREMENTS", "COMMAND"}
    for part in ("setup", "run"):
        done = subprocess.run(["bash", "-n"], input=task[part], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def slurm(tmp_path):
    """``slurm(code, restarts)`` submits a job that ends with ``code``: (exit code, calls of srun and scontrol)."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/calls\nexit ${{{name.upper()}:-0}}\n')
        (tmp_path / name).chmod(0o755)

    def submit(code, restarts=0):
        (tmp_path / "calls").unlink(missing_ok=True)
        job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SRUN": str(code), "TRIES": "5", **job}
        spooled = shutil.copy(LAUNCH / "slurm.sbatch", tmp_path / "slurm_script")
        done = subprocess.run(["bash", spooled, "train", "--workdir=runs/a b"], cwd=tmp_path, env=environment)
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return submit


@pytest.mark.parametrize("code", sorted(TAKEN_AWAY))
def test_a_job_that_was_taken_away_goes_back_to_the_queue(slurm, code):
    ended, calls = slurm(code)
    assert ended == 0 and calls[1:] == ["scontrol requeue 7"]
    assert calls[0].endswith("python -m rcsd_jax.train --workdir=runs/a b")


@pytest.mark.parametrize(("code", "restarts"), [(0, 0), (1, 0), (85, 5)])
def test_a_job_that_is_done_or_wrong_or_was_there_too_often_does_not(slurm, code, restarts):
    ended, calls = slurm(code, restarts)
    assert ended == code and len(calls) == 1


def test_slurm_leaves_time_to_save_and_starts_a_process_for_each_gpu():
    options = dict(
        itertools.islice(re.split(r"[= ]", line.removeprefix("#SBATCH --") + " "), 2)
        for line in (LAUNCH / "slurm.sbatch").read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert options["signal"] == "TERM@120" and "requeue" in options
    assert options["ntasks-per-node"] == options["gpus-per-node"] == "8"


if __name__ == "__main__":
    for each in SESSIONS:
        each.write_text(session(each))
