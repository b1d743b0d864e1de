"""A run in a bucket: killed, stopped, damaged, refused; gcsfs and tensorstore against a server on loopback."""

import itertools
import json
import signal
import threading

import pytest
from loopback_bucket import LoopbackBucket
from pod_test import fingerprints, numbers
from processes import PYTHON, ROOT, started, wait_for

pytest.importorskip("gcsfs", reason="the client of gs:// is not here: pip install gcsfs")
pytestmark = pytest.mark.slow

TRAIN = [*PYTHON, "-m", "rcsd_jax.train", f"--config={ROOT}/tests/faults/tiny_pod.py:sft"]
MODEL = "model/model.safetensors"


def run(folder, tmp_path, bucket, steps=12):
    return started([[*TRAIN, f"--config.train.steps={steps}", f"--workdir={folder}"]], tmp_path, **bucket.environment())


def names(bucket):
    return {name.removeprefix("runs/x/") for _, name in list(bucket.objects)}


def committed(bucket):
    """The steps of whole checkpoints."""
    parts = [name.split("/") for name in names(bucket) if name.startswith("checkpoints/")]
    return {int(part[1]) for part in parts if part[2:] == ["commit_success.txt"] and part[1].isdigit()}


def fetched(bucket, folder):
    """What is in the bucket, as a folder."""
    for (_, name), (_, data) in bucket.objects.items():
        path = folder / name.removeprefix("runs/x/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.mark.timeout(1200)
def test_a_run_in_a_bucket_that_was_killed_ends_with_the_very_bits_of_one_on_a_disk(tmp_path):
    with LoopbackBucket() as bucket:
        with run(tmp_path / "whole", tmp_path, bucket) as [whole]:
            assert whole.wait() == 0, whole.says()[-3000:]
        assert not bucket.objects
        with run("gs://bucket/runs/x", tmp_path, bucket) as [killed]:
            wait_for(lambda: committed(bucket), [killed])
            killed.process.send_signal(signal.SIGKILL)
        assert "lock" in names(bucket) and "done.json" not in names(bucket)
        with run("gs://bucket/runs/x", tmp_path, bucket) as [again]:
            assert again.wait() == 0, again.says()[-3000:]
        assert "was left by another run" in again.says()
        assert {"config.json", "env.json", "metrics.jsonl", MODEL, "done.json"} <= names(bucket)
        assert "lock" not in names(bucket)
        here, there = tmp_path / "whole", fetched(bucket, tmp_path / "fetched")
        assert numbers(there) == numbers(here) and len(numbers(here)) == 12
        assert fingerprints(there) == fingerprints(here)
        assert (there / MODEL).read_bytes() == (here / MODEL).read_bytes()


@pytest.mark.timeout(1200)
def test_a_file_in_a_bucket_stops_a_run_and_a_damaged_checkpoint_there_is_set_aside(tmp_path):
    with LoopbackBucket() as bucket:
        with run("gs://bucket/runs/x", tmp_path, bucket, steps=100) as [first]:
            wait_for(lambda: len(committed(bucket)) > 1, [first])
            bucket.put(("bucket", "runs/x/STOP"), b"")
            assert first.wait() == 0, first.says()[-3000:]
        assert "remove it, the same command goes on" in first.says() and "done.json" not in names(bucket)
        newest = max(committed(bucket))
        del bucket.objects["bucket", "runs/x/STOP"]
        for key in [key for key in bucket.objects if f"checkpoints/{newest}/state/ocdbt.process_0/d/" in key[1]]:
            bucket.put(key, bucket.objects[key][1][: len(bucket.objects[key][1]) // 2])
        with run("gs://bucket/runs/x", tmp_path, bucket, steps=100) as [second]:
            assert second.wait() == 0, second.says()[-3000:]
        assert f"kept as gs://bucket/runs/x/checkpoints/bad_{newest}" in second.says()
        assert max(committed(bucket)) == 100 and "done.json" in names(bucket)


@pytest.mark.timeout(600)
def test_a_bucket_whose_lock_changes_has_a_run_that_lives(tmp_path):
    with LoopbackBucket() as bucket:
        holder, gone = {"run": "r", "host": "elsewhere", "pid": 7}, threading.Event()

        def beat():
            for count in itertools.count():
                bucket.put(("bucket", "runs/x/lock"), json.dumps({**holder, "beat": count}).encode())
                if gone.wait(1):
                    return

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with run("gs://bucket/runs/x", tmp_path, bucket) as [refused]:
                assert refused.wait() == 1
        finally:
            gone.set()
            thread.join()
        assert "in use by process 7 of elsewhere" in refused.says()
        assert names(bucket) == {"lock"}


def test_a_bucket_that_cannot_be_reached_is_refused_before_anything_is_compiled(tmp_path):
    with LoopbackBucket() as bucket:
        with run("gs://forbidden/runs/x", tmp_path, bucket) as [refused]:
            assert refused.wait() == 1
        assert "cannot be reached" in refused.says() and "objectAdmin" in refused.says()
        assert "Traceback" not in refused.says()
