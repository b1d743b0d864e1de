"""What a number depends on besides the code: machine, versions, load, commit; and what the machine can do at best."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.side import ROOT

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers", "trl", "liger-kernel", "google-tunix")


def commit() -> str:
    """The commit, with -dirty if files have changed since; what benchmarks write under docs is none of them."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return (git("describe", "--always") + ("-dirty" if dirty else "")) or "unknown"


def describe(environment: Mapping[str, str]) -> str:
    """The class of machine."""
    fields = [line.split(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    models = [value.strip() for name, *value in fields if name.strip() == "model name" for value in value]
    units = {"amx_bf16", "avx512_bf16"} & set(Path("/proc/cpuinfo").read_text().split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    devices = _ask(sys.executable, "import jax; print([d.device_kind for d in jax.devices()])", environment)
    known = f"{os.cpu_count()} cores of {models[0] if models else platform.machine()} {sorted(units)}"
    return f"{known}, {memory:.0f} GiB, jax devices {devices}"


def versions(python: str) -> dict[str, str]:
    """Python and the packages that matter in the environment of an interpreter."""
    code = (
        "import importlib.metadata as m, json, platform\n"
        "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
        f"found = {{name: found[name] for name in {PACKAGES} if name in found}}\n"
        "print(json.dumps({'python': platform.python_version()} | found))"
    )
    return json.loads(_ask(python, code, {}))


def load() -> float:
    """Processes that wanted a core in the last minute, on average."""
    return os.getloadavg()[0]


def settled(patience: float = 120.0) -> float:
    """The load, once it is low: what ran before this is a part of it for a minute; or as it is after ``patience`` s."""
    until = time.monotonic() + patience
    while load() > 0.4 and time.monotonic() < until:
        time.sleep(5)
    return load()


def best(measured: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The highest of each rate: the machine's, whoever reached it."""
    found: dict[str, float] = {}
    for rates in measured:
        found = {name: max(rates.get(name, 0.0), found.get(name, 0.0)) for name in rates.keys() | found.keys()}
    return found


def _ask(python: str, code: str, environment: Mapping[str, str]) -> Any:
    command = [python, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return answer.stdout.strip().splitlines()[-1]
