"""Numbers reach the disk once and in order, and no way of losing them can stop a run."""

from __future__ import annotations

import io
import json
import math
import pathlib
import struct
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from rcsd_jax.metrics import MetricsWriter, Progress, log, progress, read_metrics, sinks


def lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_has_step_time_and_the_numbers(tmp_path: pathlib.Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(3, {"loss": jnp.float32(0.5), "half": jnp.bfloat16(2.5), "tokens": np.int64(2**40), "on": True})
    (line,) = lines(tmp_path)
    assert abs(line.pop("time") - time.time()) < 60
    assert line == {"step": 3, "loss": 0.5, "half": 2.5, "tokens": 2**40, "on": 1}


def test_non_finite_numbers_are_valid_json_and_come_back(tmp_path: pathlib.Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(0, {"a": math.nan, "b": math.inf, "c": -jnp.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_a_resumed_run_leaves_the_file_of_an_unbroken_one(tmp_path: pathlib.Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(0, {"loss": 2.0})
        writer.write(1, {"loss": 1.0})
        position = writer.position
        writer.write(2, {"loss": 9.0})
        (tmp_path / "metrics.jsonl").open("a").write('{"step": 3, "lo')  # killed in the middle of a line
    with MetricsWriter(tmp_path, resume_at=position, step=2, tensorboard=False) as writer:
        writer.write(2, {"loss": 0.5})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(0, 2.0), (1, 1.0), (2, 0.5)]


def test_a_run_without_checkpoint_starts_the_file_anew(tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        with MetricsWriter(tmp_path, tensorboard=False) as writer:
            writer.write(0, {"loss": 1.0})
    assert len(lines(tmp_path)) == 1


def test_a_file_shorter_than_the_checkpoint_says_is_continued_at_its_last_whole_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1, "l')
    with MetricsWriter(tmp_path, resume_at=500, tensorboard=False) as writer:
        writer.write(2, {})
    assert [line["step"] for line in lines(tmp_path)] == [0, 2]


def test_reading_skips_a_cut_last_line_and_names_any_other_bad_one(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1, "l')
    assert read_metrics(path) == [{"step": 0}]
    path.write_text('{"step": 0}\noops\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2"):
        read_metrics(path)


def test_arrays_and_reserved_names_are_refused(tmp_path: pathlib.Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        with pytest.raises(ValueError, match=r"'loss' has shape \(2,\)"):
            writer.write(0, {"loss": jnp.zeros(2)})
        with pytest.raises(ValueError, match="'time'"):
            writer.write(0, {"time": 1.0})


def test_only_process_0_writes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    stream = io.StringIO()
    with MetricsWriter(tmp_path / "run") as writer, Progress("run", 10, stream=stream) as line:
        writer.write(0, {"loss": 1.0})
        line.advance()
        assert writer.position == 0
    assert not (tmp_path / "run").exists()
    assert stream.getvalue() == ""


FULL_DISK = """
import resource, sys
from rcsd_jax.metrics import MetricsWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
writer = MetricsWriter(sys.argv[1])
for step in range(200):
    writer.write(step, {"loss": 1 / (step + 1)})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
writer.write(200, {"loss": 0.0})
writer.close()
print("alive")
"""


def test_a_full_disk_costs_lines_and_one_warning_each_but_not_the_run(tmp_path: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "alive\n"
    assert done.stderr.count("metrics.jsonl could not be written") == 1
    assert done.stderr.count("TensorBoard is off") <= 1
    steps = [line["step"] for line in lines(tmp_path)]  # every line is whole
    assert steps == sorted(set(steps))
    assert (steps[:10], steps[-1]) == (list(range(10)), 200)
    assert len(steps) < 200


def test_a_bucket_gets_the_whole_file_again_and_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = epath.Path(tmp_path / "metrics.jsonl")
    path.write_text("old\nlost\n")
    bucket = log.RemoteLog(path, keep=4)
    bucket.append(b"a\n")
    bucket.append(b"b\n")  # within the half minute of the last write
    assert path.read_text() == "old\na\n"
    bucket.flush()
    assert (path.read_text(), bucket.size) == ("old\na\nb\n", 8)
    monkeypatch.setattr(type(path), "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("bucket is gone")))
    bucket.append(b"c\n")
    with pytest.raises(OSError, match="gone"):
        bucket.flush()
    monkeypatch.undo()
    bucket.flush()
    assert path.read_text() == "old\na\nb\nc\n"


def events(folder: pathlib.Path) -> Iterator[Any]:
    from tensorboardX.proto import event_pb2

    for path in sorted(folder.glob("tensorboard/events*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def test_tensorboard_gets_the_same_numbers_and_is_told_where_a_run_resumes(tmp_path: pathlib.Path) -> None:
    for start in (0, 1):
        with MetricsWriter(tmp_path, step=start) as writer:
            for step in (start, start + 1):
                writer.write(step, {"loss": step + 0.5, "bad": math.nan})
    scalars = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value if v.tag == "loss"]
    assert scalars == [(0, "loss", 0.5), (1, "loss", 1.5), (1, "loss", 1.5), (2, "loss", 2.5)]
    assert [e.step for e in events(tmp_path) if e.HasField("session_log")] == [0, 1]


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.logged.append((step, numbers))

    def finish(self) -> None:
        self.finished = True


def fake_wandb(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))


def test_wandb_gets_the_numbers_and_one_id_for_all_restarts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = FakeRun(), []
    fake_wandb(monkeypatch, lambda **arguments: asked.append(arguments) or run)
    for _ in range(2):
        with MetricsWriter(tmp_path / "rcsd", tensorboard=False, wandb_project="p", config={"seed": 1}) as writer:
            writer.write(7, {"loss": 1.0})
    assert run.logged == [(7, {"loss": 1.0})] * 2
    assert run.finished
    assert asked[0] == asked[1]
    assert (asked[0]["project"], asked[0]["name"], asked[0]["config"]) == ("p", "rcsd", {"seed": 1})


def test_wandb_without_network_goes_offline(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()

    def init(mode: str = "online", **_: Any) -> FakeRun:
        if mode == "online":
            raise SystemExit("no key")
        return run

    fake_wandb(monkeypatch, init)
    with MetricsWriter(tmp_path, tensorboard=False, wandb_project="p") as writer:
        writer.write(0, {"loss": 1.0})
    assert run.logged


def hang(*_: Any, **__: Any) -> None:
    time.sleep(30)


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize("broken", ["missing", "init hangs", "log fails", "finish hangs"])
def test_wandb_can_never_stop_a_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    monkeypatch.setattr(sinks, "_WANDB_SECONDS", 0.1)
    run = types.SimpleNamespace(
        log=fail if broken == "log fails" else lambda *_, **__: None,
        finish=hang if broken == "finish hangs" else lambda: None,
    )
    if broken == "missing":
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        fake_wandb(monkeypatch, hang if broken == "init hangs" else lambda **_: run)
    start = time.monotonic()
    with caplog.at_level("WARNING"), MetricsWriter(tmp_path, tensorboard=False, wandb_project="p") as writer:
        for step in range(5):
            writer.write(step, {"loss": 1.0})
    assert time.monotonic() - start < 5
    assert len(lines(tmp_path)) == 5
    assert caplog.text.count("wandb is off") == 1


class Clock:
    """Stands in for ``time`` where progress is measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_eta_is_the_median_pace_times_what_is_left_whatever_a_compilation_took(clock: Clock) -> None:
    line = Progress("rcsd", 100, stream=io.StringIO())
    assert line.eta is None
    for seconds in (60.0, 2.0, 2.0, 2.0, 30.0, 2.0):
        clock.now += seconds
        line.advance(loss=0.12345)
        assert line.eta is None or line.done > 1, "the first step compiles"
    assert (line.pace, line.eta) == (2.0, 188.0)
    assert str(line) == "rcsd: 6/100 steps (6%), 2.00 s/step, ETA 0:03:08, loss 0.1235"


def test_units_that_come_in_bursts_are_paced_as_bursts(clock: Clock) -> None:
    line = Progress("eval", 640, unit="questions", stream=io.StringIO())
    for _ in range(5):
        clock.now += 16.0
        for _ in range(64):
            line.advance()
    assert line.pace == pytest.approx(0.25, rel=0.05)


def test_a_resumed_run_counts_from_where_it_was(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("rcsd", 100, done=90, stream=stream) as line:
        clock.now += 1.0
        line.advance(5)
    assert "95/100 steps (95%)" in stream.getvalue()
    assert stream.getvalue().endswith("rcsd: 5 steps in 0:00:01\n")


def test_elsewhere_than_on_a_terminal_a_plain_line_comes_every_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    line = Progress("rcsd", 100, stream=stream)
    for _ in range(60):
        clock.now += 0.5
        line.advance()
    assert len(stream.getvalue().splitlines()) == 3
    assert "\x1b" not in stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_lines_nest_and_leave_their_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress("train", 2, stream=stream) as outer:
        outer.advance()
        with Progress("evaluate", 3, unit="questions", stream=stream) as inner:
            inner.advance(3)
    assert "evaluate: 3 questions in 0:00:00" in stream.getvalue()
    assert "train: 1 steps in 0:00:00" in stream.getvalue()
    hidden, shown = stream.getvalue().rfind("\x1b[?25l"), stream.getvalue().rfind("\x1b[?25h")
    assert 0 <= hidden < shown, "the cursor is not back"
