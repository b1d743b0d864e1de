"""How long a run of the quickstart's size takes from a SIGTERM to its end, asked at many instants.

    python tests/faults/terms.py 2 3 FOLDER          # 2 processes, 3 tries of each kind of instant
    python tests/faults/terms.py 1 5 FOLDER save     # 1 process, 5 tries of one kind

Prints a line for each try, then the median and the worst of each kind. Nothing of it is a test: machines differ.
"""

import collections
import json
import os
import random
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path

from processes import PYTHON, ROOT, started, wait_for

COMMAND = ("-m", "rcsd_jax.train", f"--config={ROOT}/tests/faults/quickstart_size.py")


def steps(run):
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def instants(rng):
    """Kind of instant to (whether compiled functions are at hand, when it has come, seconds after that)."""
    return {
        "start": (True, lambda run: True, rng.uniform(0.5, 5)),
        "weights and data": (True, lambda run: (run / "env.json").exists(), rng.uniform(0, 3)),
        "compilation": (False, lambda run: (run / "env.json").exists(), rng.uniform(6, 20)),
        "sampling and step": (True, lambda run: steps(run) >= 1, rng.uniform(0, 3)),
        "save": (True, lambda run: any(run.glob("checkpoints/*tmp*")), 0),
        "evaluation on the way": (True, lambda run: (run / "checkpoints" / "3").exists(), rng.uniform(0, 3)),
        "export and last evaluation": (True, lambda run: (run / "model").exists(), rng.uniform(0, 5)),
    }


def one(folder, processes, kind, warm, has_come, delay):
    """(seconds, exit codes, step that is saved, steps of the metrics)."""
    run = folder / "run"
    cache = folder.parent / "warm" if warm else folder / "cold"
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    if processes > 1:
        port = random.randint(20_000, 30_000)
        environment |= {"RCSD_COORDINATOR": f"127.0.0.1:{port}", "RCSD_PROCESSES": str(processes)}
    with started([[*PYTHON, *COMMAND, f"--workdir={run}"]] * processes, folder, **environment) as running:
        wait_for(lambda: has_come(run), running)
        time.sleep(delay)
        asked = time.monotonic()
        # Before they have joined they know nothing of each other.
        for each in running if kind == "start" else running[-1:]:
            os.kill(each.process.pid, signal.SIGTERM)
        codes = [each.wait() for each in running]
        seconds = time.monotonic() - asked
    saved = [int(path.name) for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdigit()]
    return seconds, codes, max(saved, default=0), steps(run)


def main():
    processes, tries, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    rng, found, chosen = random.Random(0), collections.defaultdict(list), sys.argv[4:]
    for number in range(tries):
        for kind, (warm, has_come, delay) in instants(rng).items():
            if chosen and kind not in chosen:
                continue
            own = folder / f"{kind.replace(' ', '_')}_{number}"
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            seconds, codes, saved, written = one(own, processes, kind, warm, has_come, delay)
            found[kind].append(seconds)
            print(json.dumps({"kind": kind, "after": round(delay, 1), "seconds": round(seconds, 2), "codes": codes,
                              "saved": saved, "steps": written}), flush=True)  # fmt: skip
    for kind, times in found.items():
        print(f"| {kind} | {statistics.median(times):.1f} | {max(times):.1f} |")


if __name__ == "__main__":
    main()
