"""Eight fake devices for every test, loud numerics, and a finished run that tests may read."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

# Most of the time of these tests goes into compiling: leave LLVM's own optimisation out (a third less in all).
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
ROOT = Path(__file__).parents[1]
# Whole runs compile the same functions again and again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax_of_tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest

from rcsd_jax import config, questions, rubrics, sharding

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def one_device(monkeypatch):
    """Commands run on one of the eight devices: less to compile."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The folder of a finished pipeline with every part of the quickstart; read it, do not write into it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # one for all workers
    with open(folder / "tiny.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "tiny" / "report.md").exists():
            _run_tiny_pipeline(folder)
    return folder / "tiny"


def _run_tiny_pipeline(folder):
    import tiny_pipeline

    train = questions.load(config.read(tiny_pipeline.common()).data, "train")
    (folder / "tiny").mkdir(exist_ok=True)
    cache = rubrics.RubricCache(folder / "tiny" / "rubrics.jsonl")
    cache.extend((rubrics.RubricKey(p.question, "by hand", "", ""), rubrics.Entry(p.rubric)) for p in train)
    command = ["-m", "rcsd_jax.pipeline", f"--config={tiny_pipeline.__file__}", "--workdir=tiny/"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
