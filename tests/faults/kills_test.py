"""SIGKILL at seeded instants: what is left, run again, ends with the very bits of a run that nobody killed."""

import random
import time

import killed
import pytest
from pod_test import fingerprints, numbers
from processes import SECONDS

WEIGHTS = ("base", "live", "ema", "snapshot", "trust_region")  # of RCSD's teacher


def bits(folder):
    """All that a run has made, but for what a clock or a process makes of it."""
    names = ["model/model.safetensors", "rubrics.jsonl", "quality.json"]
    paths = [path for name in names if (path := folder / name).exists()] + sorted(folder.glob("trajectories/*"))
    made = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    if (folder / "metrics.jsonl").exists():
        made |= {"metrics": numbers(folder), "checkpoint": fingerprints(folder)}
    return made


def lines(folder):
    """How many steps, or rubrics, are written down."""
    path = next((path for name in ("metrics.jsonl", "rubrics.jsonl") if (path := folder / name).exists()), None)
    return path.read_bytes().count(b"\n") if path else 0


def end(kind, folder):
    """The run goes on until it is done."""
    process = killed.started(kind, folder)
    process.join(SECONDS)
    code = process.exitcode
    process.kill()
    assert code == 0, f"no end within {SECONDS} s" if code is None else f"exit code {code}, its words are above"


def kill(kind, folder, instants, seconds):
    """Starts the run and kills it some lines further on and some time after; whether it was done before that."""
    process, until = killed.started(kind, folder), lines(folder) + instants.randint(0, 2)
    while process.exitcode is None and lines(folder) < until:
        time.sleep(0.01)
    process.join(instants.uniform(0, seconds / 4))
    is_done = process.exitcode == 0
    process.kill()
    process.join(SECONDS)
    return is_done


def kill_and_compare(kind, folder, kills):
    """Kills runs of ``kind`` so often, and compares each that ends with one that nobody killed."""
    began = time.monotonic()
    end(kind, folder / "whole")
    seconds, whole = time.monotonic() - began, bits(folder / "whole")
    instants, tried, number = random.Random(kind), [], 0
    while len(tried) < kills:
        run, number, is_done = folder / str(number), number + 1, False
        while len(tried) < kills and not is_done:
            is_done = kill(kind, run, instants, seconds)
            tried += [] if is_done else [lines(run)]
        end(kind, run)
        assert bits(run) == whole
    print(f"{kind}: killed with {tried} lines written, {number} runs compared")
    return whole


def test_a_run_that_is_killed_ends_as_one_that_was_not(tmp_path):
    whole = kill_and_compare("grpo", tmp_path, 1)
    losses = [row["loss"] for row in whole["metrics"]]
    assert len(set(losses)) == len(losses) == 6, "every step is another one"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["grpo", "generator", "rubrics", "sft", *WEIGHTS])
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(kind, tmp_path):
    assert kill_and_compare(kind, tmp_path, 10)
