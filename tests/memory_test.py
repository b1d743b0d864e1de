"""What a run frees it keeps, and how much it needed at most is still known."""

import platform
import subprocess
import sys

import pytest

ALLOCATE = """
import re
from pathlib import Path
import jax, jax.numpy as jnp
from rcsd_jax import memory

jax.config.update("jax_platforms", "cpu")
if {kept}:
    memory.keep_freed()

def allocate():
    jnp.full(2**27, 1, jnp.uint8).block_until_ready()  # by a thread of XLA

def resident():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = resident()
allocate()
print(resident() - before)
peak = memory.PeakMemory()
allocate()
print(peak() - peak._before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("kept", (False, True))
def test_what_is_freed_stays_and_the_peak_is_known(kept):
    command = [sys.executable, "-c", ALLOCATE.format(kept=kept)]
    left, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    # 128 MiB were allocated and freed; the rest is what jax needs to begin.
    assert left > 2**27 if kept else left < 2**27
    assert peak > 2**26
