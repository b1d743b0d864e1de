"""launch/local_pod.sh: N processes, each told which one it is, and one exit code that a launcher understands."""

import signal
import subprocess

import pytest
from processes import ROOT, started, wait_for

POD = ["bash", str(ROOT / "launch" / "local_pod.sh")]


def test_every_process_is_told_which_one_it_is_and_speaks_under_its_number(tmp_path):
    tell = "echo $RCSD_PROCESS of $RCSD_PROCESSES at $RCSD_COORDINATOR with $XLA_FLAGS"
    with started([[*POD, "3", "bash", "-c", tell]], tmp_path, PORT="12345", DEVICES="4", XLA_FLAGS="--a") as [pod]:
        assert pod.wait() == 0
    flags = "--a --xla_force_host_platform_device_count=4"
    assert sorted(pod.says().splitlines()) == [f"[{i}] {i} of 3 at 127.0.0.1:12345 with {flags}" for i in range(3)]


@pytest.mark.parametrize(
    ("codes", "code"),
    [((0, 0), 0), ((85, 85), 85), ((0, 134), 134), ((137, 1), 1), ((134, 137), 134), ((3, 85), 3)],
)
def test_an_error_of_one_process_ends_it_all_and_a_preemption_may_be_run_again(tmp_path, codes, code):
    end = f"codes=({' '.join(map(str, codes))}); exit ${{codes[$RCSD_PROCESS]}}"
    with started([[*POD, "2", "bash", "-c", end]], tmp_path) as [pod]:
        assert pod.wait() == code


def test_a_term_reaches_every_process_and_all_are_waited_for(tmp_path):
    save = "trap 'sleep 0.3; echo saved; exit 85' TERM; echo up; while :; do sleep 0.05; done"
    with started([[*POD, "2", "bash", "-c", save]], tmp_path) as [pod]:
        wait_for(lambda: pod.says().count("up") == 2, [pod])
        pod.process.send_signal(signal.SIGTERM)
        assert pod.wait() == 85
    assert sorted(line for line in pod.says().splitlines() if "saved" in line) == ["[0] saved", "[1] saved"]


def test_a_pod_that_is_taken_away_is_run_again_by_the_babysit_loop(tmp_path):
    once = f"test -e {tmp_path}/was$RCSD_PROCESS && exit 0; touch {tmp_path}/was$RCSD_PROCESS; exit 85"
    babysit = ["bash", str(ROOT / "launch" / "babysit.sh"), *POD, "2", "bash", "-c", once]
    with started([babysit], tmp_path, WAIT="0") as [loop]:
        assert loop.wait() == 0
    assert loop.says().count("babysit: exit code 85") == 1


def test_how_many_and_of_what_must_be_said():
    done = subprocess.run([*POD, "python"], capture_output=True, text=True)
    assert done.returncode == 2 and "how many processes" in done.stderr
