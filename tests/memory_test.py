"""What a run frees it keeps, and how much it needed at most is still known."""

import subprocess
import sys

import pytest

ALLOCATE = """
import resource
import jax, jax.numpy as jnp
from rcsd_jax import memory

jax.config.update("jax_platforms", "cpu")
if {kept}:
    memory.keep_freed()

def allocate():
    jnp.full(2**26, 1, jnp.uint8).block_until_ready()  # by a thread of XLA

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    allocate()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(), faults()
print(faults())
peak = memory.PeakMemory()
allocate()
print(peak() - peak._before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is not glibc")
@pytest.mark.parametrize("kept", (False, True))
def test_kept_memory_needs_no_new_pages_and_leaves_the_peak_known(kept):
    command = [sys.executable, "-c", ALLOCATE.format(kept=kept)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    new_pages, peak = map(int, told)
    assert new_pages < 1000 if kept else new_pages > 10000
    assert peak > 2**25
