"""Runs that are taken away: what is run again, what is not, and a slice that is made again. All processes are real."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BABYSIT = ["bash", str(ROOT / "launch" / "babysit.sh")]


def babysit(script, folder, **settings):
    """Runs ``script`` under babysit; it can count its runs in the file ``n`` of the folder it is run in."""
    environment = {**os.environ, "WAIT": "0", **{name: str(value) for name, value in settings.items()}}
    command = [*BABYSIT, "bash", "-c", f"echo >>n; n=$(wc -l <n); {script}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    return done, len((folder / "n").read_text())


@pytest.mark.parametrize("code", [85, 134, 137, 143])
def test_a_run_that_was_taken_away_is_run_again_until_it_ends_of_itself(tmp_path, code):
    done, runs = babysit(f"[ $n -lt 3 ] && exit {code}; exit 0", tmp_path)
    assert (done.returncode, runs) == (0, 3)
    assert f"exit code {code}" in done.stderr


@pytest.mark.parametrize("code", [0, 1, 2, 130, 139])
def test_a_run_that_ends_otherwise_is_not_run_again_and_its_code_is_handed_on(tmp_path, code):
    done, runs = babysit(f"exit {code}", tmp_path)
    assert (done.returncode, runs) == (code, 1)


@pytest.mark.parametrize("name", ["KILL", "TERM", "ABRT"])
def test_death_by_a_signal_counts_as_its_exit_code(tmp_path, name):
    done, runs = babysit(f"[ $n -gt 1 ] || kill -{name} $$", tmp_path)
    assert (done.returncode, runs) == (0, 2)


def test_it_gives_up_after_so_many_short_runs_in_a_row(tmp_path):
    done, runs = babysit("exit 137", tmp_path, TRIES=4)
    assert (done.returncode, runs) == (137, 4)
    assert "given up, 4 runs in a row" in done.stderr


def test_runs_that_got_somewhere_are_not_counted(tmp_path):
    done, runs = babysit("[ $n -gt 5 ] && exit 3; exit 85", tmp_path, TRIES=2, STEADY=0)
    assert (done.returncode, runs) == (3, 6)


def test_words_reach_the_command_as_they_were_given(tmp_path):
    words = ["a b", "--config.teacher.context=('rubric',)", "", "$HOME", "*"]
    shown = 'for word in "$@"; do echo "<$word>"; done'
    done = subprocess.run([*BABYSIT, "bash", "-c", shown, "_", *words], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"<{word}>" for word in words]


@contextlib.contextmanager
def started(script, folder, **settings):
    """A process of babysit in a session of its own, as in a terminal; what is left of it is killed.

    A job in the background of a shell, as these tests may be, ignores SIGINT, and so would its children.
    """
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True, "env": {**os.environ, **settings}}
    command = ["env", "--default-signal=INT", *BABYSIT, "bash", "-c", script]
    with subprocess.Popen(command, cwd=folder, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_lets_the_command_save_tells_it_once_and_runs_it_no_more(tmp_path, number):
    saves = "trap 'echo told >>told' TERM INT; touch ready; until [ -f told ]; do sleep 0.05; done; sleep 0.3; exit 85"
    with started(saves, tmp_path) as process:
        wait_for(tmp_path / "ready")
        os.killpg(process.pid, number)  # to all of its group: what a terminal does at Ctrl-C
        assert process.wait(timeout=30) == 85
    assert (tmp_path / "told").read_text() == "told\n"


def test_told_to_end_between_two_runs_it_does_not_wait_for_the_next(tmp_path):
    with started("exit 85", tmp_path, WAIT="1000") as process:
        assert "exit code 85" in process.stderr.readline()
        assert "again in 1000 s" in process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=30) == 85


# on_host.sh: a command that outlives the connection that started it


@pytest.fixture
def host(tmp_path):
    """``host(verb, words)`` asks launch/on_host.sh; what was started is stopped at the end."""
    environment = {**os.environ, "RUN": str(tmp_path / "run"), "HOME": str(tmp_path), "GRACE": "1"}

    def ask(*words):
        command = ["bash", str(ROOT / "launch" / "on_host.sh"), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    yield ask
    ask("stop")


def ended(host):
    for _ in range(200):
        told = host("code").stdout.strip()
        if told != "exit: running":
            return told
        time.sleep(0.05)
    raise AssertionError("it goes on")


def test_a_host_says_how_its_command_ended(host, tmp_path):
    assert host("code").stdout == "exit: none\n"
    assert host("start", "bash", "-c", "echo a b; exit 85").returncode == 0
    assert ended(host) == "exit: 85"
    assert (tmp_path / "run" / "log").read_text() == "a b\n"
    host("start", "bash", "-c", "exit 0")
    assert ended(host) == "exit: 0", "of the last command"


def test_a_host_runs_one_command_at_a_time(host):
    assert host("start", "sleep", "100").returncode == 0
    assert host("start", "sleep", "100").stdout == "runs already\n"
    assert "this host runs sleep 100" in host("start", "sleep", "7").stderr
    assert host("code").stdout == "exit: running\n"
    host("stop")
    assert host("code").stdout == "exit: 143\n"


def test_stop_lets_the_command_save_and_kills_it_where_it_does_not_end(host, tmp_path):
    saves = "trap 'touch saved; exit 85' TERM; touch ready; while :; do sleep 0.05; done"
    host("start", "bash", "-c", f"cd {tmp_path}; {saves}")
    wait_for(tmp_path / "ready")
    host("stop")
    assert (tmp_path / "saved").exists() and host("code").stdout == "exit: 85\n"
    host("start", "bash", "-c", f"cd {tmp_path}; trap '' TERM; touch deaf; sleep 100 & wait; sleep 100")
    wait_for(tmp_path / "deaf")
    host("stop")
    assert host("code").stdout == "exit: 137\n"


def test_a_command_that_nobody_saw_end_was_killed(host, tmp_path):
    host("start", "sleep", "100")
    os.killpg(int((tmp_path / "run" / "keeper").read_text()), signal.SIGKILL)
    assert ended(host) == "exit: 137"


# tpu_vm.sh babysit, in a cloud that is a folder


@pytest.fixture
def cloud(tmp_path):
    """A clone to launch from, an empty cloud, and ``babysit(script)``, which gives the process when it has ended."""
    clone, folder = tmp_path / "clone", tmp_path / "cloud"
    (folder / "bucket").mkdir(parents=True)
    shutil.copytree(ROOT / "launch", clone / "launch")
    for file in ROOT.glob("requirements*.txt"):
        shutil.copy(file, clone)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], cwd=clone, check=True)
    settings = {"NAME": "rcsd", "ZONE": "z", "TYPE": "v6e-8", "BUCKET": "gs://b/rcsd"}
    environment = {
        **os.environ,
        **settings,
        "POLL": "0.1",
        "WAIT": "0",
        "TRIES": "4",
        "CLOUD": str(folder),
        "TEST_PYTHON": sys.executable,
        "PATH": f"{ROOT / 'tests' / 'fake_cloud'}:{os.environ['PATH']}",
    }

    def babysit(script, **settings):
        (folder / "run.sh").write_text(f"echo >>$CLOUD/runs_$HOST; n=$(wc -l <$CLOUD/runs_$HOST)\n{script}\n")
        command = ["bash", "launch/tpu_vm.sh", "babysit", "bash", str(folder / "run.sh")]
        return subprocess.run(
            command, cwd=clone, env={**environment, **settings}, capture_output=True, text=True, timeout=120
        )

    yield folder, babysit
    subprocess.run(["gcloud", "tpu-vm delete"], env=environment, capture_output=True)


def test_a_slice_is_made_set_up_run_on_and_made_again_when_it_was_preempted(cloud):
    folder, babysit = cloud
    # First all hosts save and leave; then the slice is taken away under the run; then it ends.
    done = babysit(
        "case $n in 1) exit 85;; 2) [ $HOST = 0 ] || echo PREEMPTED >$CLOUD/state; sleep 60;; 3) echo the end;; esac"
    )
    assert done.returncode == 0, done.stderr
    calls = (folder / "calls").read_text()
    assert calls.count("tpu-vm create") == 2 and calls.count("tpu-vm delete") == 1
    assert [len((folder / f"runs_{host}").read_text()) for host in (0, 1)] == [3, 3]
    assert "the end\n" in [path.read_text() for path in (folder / "bucket" / "b/rcsd/logs/rcsd").iterdir()]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder / "host_1" / "rcsd_jax", capture_output=True, text=True
    ).stdout.strip()
    assert f"code/{commit}.bundle" in calls, "the hosts know which commit they run"
    lock = folder / "bucket" / f"b/rcsd/code/{commit}.lock"
    assert lock.read_text() == "jax==0.10.2\n"
    for host in (0, 1):
        installed = (folder / f"host_{host}" / "pip").read_text().splitlines()
        assert all(line.endswith("requirements.lock") for line in installed), (
            "a later slice has the first one's versions"
        )


def test_a_slice_out_of_the_queue_that_was_preempted_goes_back_into_the_queue(cloud):
    folder, babysit = cloud
    done = babysit("[ $n -gt 1 ] || echo PREEMPTED >$CLOUD/state; sleep 0.5; exit 0", MODE="queued", FLAGS="--spot")
    assert done.returncode == 0, done.stderr
    calls = (folder / "calls").read_text()
    assert calls.count("queued-resources create rcsd --zone=z --node-id=rcsd") == 2
    assert calls.count("queued-resources delete rcsd --zone=z --force") == 1
    assert "in the queue: WAITING_FOR_RESOURCES\nin the queue: ACTIVE" in done.stderr


def test_an_error_of_one_host_ends_it_all_whatever_the_others_say(cloud):
    folder, babysit = cloud
    done = babysit("[ $HOST = 1 ] && exit 1; sleep 0.3; exit 134")
    assert done.returncode == 1, done.stderr
    assert len((folder / "runs_0").read_text()) == 1
    assert (folder / "state").read_text() == "READY\n", "so that the logs can be read"


def test_a_run_that_goes_on_is_found_and_followed(cloud):
    folder, babysit = cloud
    assert babysit("exit 3").returncode == 3
    (folder / "go").touch()
    for host in (0, 1):  # what an earlier babysit has started
        home = {**os.environ, "HOME": str(folder / f"host_{host}")}
        start = ["bash", str(folder / f"host_{host}" / "rcsd_jax" / "launch" / "on_host.sh"), "start"]
        subprocess.run([*start, "bash", "-c", f"sleep 1; rm -f {folder}/go; exit 0"], env=home, check=True)
    (folder / "offline").touch()  # that we know nothing of a slice is no reason to make it again
    assert babysit("exit 4").returncode == 0
    assert not (folder / "go").exists()
    assert (folder / "calls").read_text().count("tpu-vm create") == 1
    assert len((folder / "runs_0").read_text()) == 1, "nothing was started again"


def wait_for(path):
    for _ in range(400):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} does not come")
