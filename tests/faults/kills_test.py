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


def end(process):
    """Waits until it is done."""
    process.join(SECONDS)
    code = process.exitcode
    process.kill()
    assert code == 0, f"exit code {code}; its words are above"


def kill_and_compare(kind, folder, kills):
    """Kills runs of ``kind`` so often, at instants up to the time of a whole one, and compares each that ends."""
    began = time.monotonic()
    end(killed.started(kind, folder / "whole"))
    seconds, whole = time.monotonic() - began, bits(folder / "whole")
    instants, tried, number = random.Random(kind), 0, 0
    while tried < kills:
        run, number, is_done = folder / str(number), number + 1, False
        while tried < kills and not is_done:
            process = killed.started(kind, run)
            process.join(instants.uniform(0.1, 0.9) * seconds)
            is_done = process.exitcode == 0
            tried += not is_done
            process.kill()
            process.join(SECONDS)
        end(killed.started(kind, run))
        assert bits(run) == whole
    print(f"{kind}: {tried} kills, {number} runs compared")
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
