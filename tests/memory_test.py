"""What a run frees it keeps, and how much it needed at most is still known."""

import subprocess
import sys

import pytest

ALLOCATE = """
import resource
import jax, numpy as np
from rcsd_jax import memory

jax.config.update("jax_platforms", "cpu")
if {kept}:
    memory.keep_freed()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
peak = memory.PeakMemory()
np.ones(2**26, np.uint8)
print(peak() - peak._before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is not glibc")
@pytest.mark.parametrize("kept", (False, True))
def test_kept_memory_needs_no_new_pages_and_leaves_the_peak_known(kept):
    command = [sys.executable, "-c", ALLOCATE.format(kept=kept)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    new_pages, peak = map(int, told)
    assert new_pages == 0 if kept else new_pages > 10
    assert peak > 2**25
