"""What a step gains when it samples while a judge answers: python -m benchmarks.overlap

GRPO with the quickstart's model, its rewards from a judge over HTTP on loopback that answers every request after as
many seconds. Runs with ``train.staleness`` 0 and 1 take turns. ``docs/results/speed.md`` gets the table.
"""

from __future__ import annotations

import http.server
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
import zlib
from pathlib import Path

import jax

from benchmarks import machine, page
from configs import quickstart
from rcsd_jax import command, config, memory, metrics, train

DELAYS, ROUNDS, STEPS, WARM = (0.25, 1.0), 3, 12, 3


class Judge(http.server.BaseHTTPRequestHandler):
    """Gives every answer a score that depends on its text, ``delay`` seconds after it was asked."""

    protocol_version, delay = "HTTP/1.1", 0.0

    def do_POST(self) -> None:
        """One chat completion."""
        asked = self.rfile.read(int(self.headers["content-length"]))
        time.sleep(self.delay)
        message = {"role": "assistant", "content": json.dumps({"score": 1 + zlib.crc32(asked) % 10})}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        body = json.dumps({"id": "0", "object": "chat.completion", "created": 0, "model": "m", "choices": choices})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class Server(http.server.ThreadingHTTPServer):
    """One that lets all requests of a step knock at once; with the usual queue of 5 the others wait for a second."""

    daemon_threads, request_queue_size = True, 256


def seconds_a_step(folder: Path, url: str, staleness: int) -> float:
    """The median of a run's steps, without the first ones, which compile, and the last, which has nothing ahead."""
    raw = quickstart.common()
    raw.objective, raw.rubrics.source = "grpo", "none"
    raw.evaluation.splits = ()
    raw.reward.update(kind="rubric", judge="endpoint", scale="implicit")
    raw.reward.endpoint.update(url=url, model="m", concurrency=128, cache=str(folder / "judgements.jsonl"))
    raw.train.update(questions=16, samples=8, steps=STEPS, checkpoint_every=STEPS, staleness=staleness)
    train.train(config.read(raw), str(folder / "run"))
    return statistics.median(x["step_seconds"] for x in metrics.read_metrics(folder / "run" / "metrics.jsonl")[WARM:-1])


def measured() -> dict[tuple[float, int], list[float]]:
    """Seconds a step of every run, by (the judge's delay, staleness)."""
    found: dict[tuple[float, int], list[float]] = {}
    with Server(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _, delay, staleness in itertools.product(range(ROUNDS), DELAYS, (0, 1)):
            Judge.delay = delay
            with tempfile.TemporaryDirectory() as folder:
                took = seconds_a_step(Path(folder), f"http://127.0.0.1:{server.server_port}/v1", staleness)
            print(f"judge {delay} s, staleness {staleness}: {took:.2f} s a step", flush=True)
            found.setdefault((delay, staleness), []).append(took)
        server.shutdown()
    return found


def section(found: dict[tuple[float, int], list[float]]) -> str:
    """The table as Markdown."""
    lines = [
        "## Sampling while a judge answers",
        "",
        f"`python -m benchmarks.overlap`, commit {machine.commit()}, jax {jax.__version__}, load"
        f" {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. GRPO, the quickstart's model, 16 questions of 8"
        " completions a step; a judge over HTTP that answers after so long. Seconds a step: median (least to most) of"
        f" {ROUNDS} runs of {STEPS} steps, each the median of its steps; runs take turns.",
        "",
        "| judge, s | staleness 0 | staleness 1 | faster |",
        "|---|---|---|---|",
    ]
    for delay in DELAYS:
        now, ahead = found[delay, 0], found[delay, 1]
        ratio = statistics.median(a / b for a, b in zip(now, ahead, strict=True))
        lines.append(f"| {delay} | {_spread(now)} | {_spread(ahead)} | {ratio:.2f}x |")
    return "\n".join([*lines, ""])


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    """Measures, and writes the page."""
    memory.keep_freed()  # as a run does
    with tempfile.TemporaryDirectory() as folder:
        command.cache_compilations(os.path.join(folder, "run"))
        text = section(measured())
    (page.RESULTS / "speed" / "overlap.md").write_text(text)
    page.write()
    print(text)


if __name__ == "__main__":
    main()
