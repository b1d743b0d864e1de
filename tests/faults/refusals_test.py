"""Before anything is compiled: hosts that are not alike, and a folder that is not shared or not free, are refused."""

import fcntl
import json
import os
import shutil
import signal
import socket

import pytest
from processes import PYTHON, ROOT, pod, started, wait_for
from tiny_pipeline import experiment

from rcsd_jax import config, ending, hosts, models, preflight, questions, sharding
from rcsd_jax.workdir import Workdir


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of two hosts was told in each case of refusals.py."""
    folder = tmp_path_factory.mktemp("refusals")
    program = str(ROOT / "tests" / "faults" / "refusals.py")
    with pod(2, [program, folder], folder, port=30_000 + os.getpid() % 2_000, devices=1) as running:
        wait_for(lambda: all("asks" in each.says() for each in running), running)
        os.kill(running[1].process.pid, signal.SIGTERM)
        assert [each.wait() for each in running] == [85, 85], [each.says()[-3000:] for each in running]
        assert all("saves" in each.says() for each in running), "both, although only one of them had something to save"
        assert "asked to end, and nothing is unsaved" in running[0].says()
        lines = [line for each in running for line in each.says().splitlines() if line.startswith("{")]
    both = {}
    for line in map(json.loads, lines):
        [(case, text)] = line.items()
        both.setdefault(case, []).append(text)
    return both


NAME = socket.gethostname()


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("another_config", f"host 1 ({NAME}) has config.seed 1, host 0 ({NAME}) has 0"),
        ("another_version", f"host 1 ({NAME}) has packages.jax '0.1', host 0 ({NAME}) has '0.0'"),
        ("another_processor", f"host 1 ({NAME}) has processor.matrix unit True, host 0 ({NAME}) has False"),
        ("other_data", f"host 1 ({NAME}) has files.questions.jsonl "),
        ("disks_of_their_own", "host 1 cannot see what host 0 writes to run: give a --workdir that all hosts share"),
        ("first_fails", "no such split"),
        ("one_is_silent", "host 1 did not answer within 1 s"),
    ],
)
def test_every_host_is_told_which_one_differs_and_in_what(told, case, says):
    assert len(told[case]) == 2
    for text in told[case]:
        assert says in text


def test_hosts_that_wait_for_one_that_failed_are_told_why(told):
    assert sorted(told["one_fails"]) == [f"host 1 ({NAME}) the disk is gone", "it is me"]


def test_a_folder_that_another_run_has_is_so_for_every_host(told):
    for text in told["taken"]:
        assert "in use by process" in text


def test_hosts_that_are_alike_go_on(told):
    assert told["alike"] == ["nothing", "nothing"]


def test_a_pod_sets_a_damaged_checkpoint_aside_and_uses_the_one_before(told):
    assert told["damaged"] == ["step 1, True, ['1', 'bad_2']"] * 2


# One host


def test_two_runs_in_one_folder_are_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    in_use = pytest.raises(ValueError, match=f"in use by process {os.getpid()} of {NAME}: wait for its end")
    with Workdir(tmp_path, experiment()).held(), in_use, Workdir(tmp_path, experiment()).held():
        pass
    assert (tmp_path / "lock").exists(), "the file stays, as that of a killed run does"
    with Workdir(tmp_path, experiment()).held():
        pass


def test_without_file_locks_a_heartbeat_tells_a_living_run_from_a_killed_one(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(preflight, "_BEAT_SECONDS", 0.05)
    with preflight.claimed(hosts_folder := preflight.epath.Path(tmp_path)):
        with pytest.raises(ValueError, match="in use by process"), preflight.claimed(hosts_folder):
            pass
        left = (tmp_path / "lock").read_text()
    assert not (tmp_path / "lock").exists()
    (tmp_path / "lock").write_text(left)  # as a killed run leaves it
    with preflight.claimed(hosts_folder):
        assert (tmp_path / "lock").read_text() != left


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written to|cannot be made"), Workdir(tmp_path, experiment()).held():
        pass


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match="cannot be made.*give a --workdir that can be written to"),
        Workdir(tmp_path / "file" / "run", experiment()).held(),
    ):
        pass


def test_a_disk_without_room_for_checkpoints_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * 10**9))
    folder = Workdir(tmp_path, experiment())
    folder.check_room(10**9)
    with pytest.raises(ValueError, match="2.0 GB left, its checkpoints need 3.0 GB"):
        folder.check_room(3 * 10**9)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"RCSD_COORDINATOR": "127.0.0.1:1"}, "set RCSD_PROCESSES"),
        ({"RCSD_COORDINATOR": "127.0.0.1:1", "RCSD_PROCESSES": "two", "RCSD_PROCESS": "0"}, "set RCSD_PROCESSES"),
        ({"RCSD_COORDINATOR": "127.0.0.1:1", "RCSD_PROCESSES": "2", "RCSD_PROCESS": "2"}, "give 0 to 1"),
    ],
)
def test_a_process_that_does_not_know_which_one_it_is_is_refused(monkeypatch, given, says):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=says):
        hosts.join()


HANGS = """
import time
from etils import epath
from rcsd_jax import ending
def waits_for_ever():
    time.sleep(600)
with ending.Pulse(epath.Path("/nowhere/STOP")) as pulse:
    pulse()
    with ending.unwatched():
        time.sleep(1)
    print("downloaded", flush=True)
    waits_for_ever()
"""


def test_what_hangs_shows_the_stacks_of_all_threads_and_ends(tmp_path):
    with started([[*PYTHON, "-c", HANGS]], tmp_path, RCSD_HANG_SECONDS="0.2") as [one]:
        assert one.wait() == ending.ABORTED
        assert "no step has ended for 0 s" in one.says()
        assert "downloaded" in one.says(), "what has timeouts of its own may take longer"
        assert "in waits_for_ever" in one.says() and one.says().lower().count("thread 0x") >= 2


COMPILES = """
import hashlib
from etils import epath
from rcsd_jax import ending
ending._LISTEN_SECONDS = 0.1
ending.listen()
with ending.Pulse(epath.Path("/nowhere/STOP")):
    print("compiles", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def test_where_nothing_is_unsaved_a_signal_ends_also_what_python_cannot_interrupt(tmp_path):
    with started([[*PYTHON, "-c", COMPILES]], tmp_path) as [one]:
        wait_for(lambda: "compiles" in one.says(), [one])
        one.process.send_signal(signal.SIGTERM)
        assert one.wait() == ending.PREEMPTED
        assert "asked to end, and nothing is unsaved; the same command goes on" in one.says()


def test_no_pulse_is_late_while_weights_are_fetched(tmp_path, monkeypatch):
    def fetch(source):
        assert source == "some/model" and pulse._is_resting
        raise ValueError("fetched")

    monkeypatch.setattr(models.lm, "fetch", fetch)
    with ending.Pulse(preflight.epath.Path(tmp_path / "STOP")) as pulse:
        with pytest.raises(ValueError, match="fetched"):
            models.load(config.Model(source="some/model"), 0, sharding.make_mesh())
        assert not pulse._is_resting


@pytest.mark.parametrize(("platforms", "joins"), [("tpu,cpu", True), (None, False), ("cpu", False), ("cuda", False)])
def test_a_host_of_a_tpu_is_one_where_jax_has_found_chips(monkeypatch, platforms, joins):
    joined = []
    monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda **timeouts: joined.append(timeouts))
    before = hosts.jax.config.jax_platforms
    try:
        hosts.jax.config.update("jax_platforms", platforms)
        hosts.join()
    finally:
        hosts.jax.config.update("jax_platforms", before)
    assert bool(joined) == joins


def test_a_pulse_is_late_after_ten_times_the_median_and_no_sooner_than_its_floor(tmp_path, monkeypatch):
    monkeypatch.setenv("RCSD_HANG_SECONDS", "60")
    pulse = ending.Pulse(preflight.epath.Path(tmp_path / "STOP"))
    assert pulse.patience == 120, "the first steps compile"
    pulse._paces.extend([1.0, 2.0, 3.0, 200.0])
    assert pulse.patience == 60
    pulse._paces.extend([40.0] * 5)
    assert pulse.patience == 400


def test_an_empty_split_and_one_that_is_not_there_are_refused(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"id": "a", "question": "What is 1 + 1?", "answer": "2"}\n')
    one = config.Data(source="jsonl", path=str(path), eval_share=1.0)
    assert len(questions.load(one, "eval")) == 1
    with pytest.raises(ValueError, match=f"split 'train' of {path} is empty: change its share"):
        questions.load(one, "train")
    with pytest.raises(ValueError, match="there is no split 'test' in jsonl: use one of"):
        questions.load(one, "test")
