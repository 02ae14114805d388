"""Freed memory: kept between two images, given back after a network was loaded."""

import subprocess
import sys

import pytest

_PROGRAM = """
import numpy as np
from veridict.forensics.allocation import keep_freed_memory, release_freed_memory

def resident():  # in MB
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024

keep_freed_memory()
blocks = [np.ones(10_000_000, np.uint8) for _ in range(20)]
used = resident()
del blocks
kept = resident()
released = release_freed_memory()
print(used - kept, kept - resident(), released)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and needs glibc")
def test_freed_memory_stays_until_it_is_released():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    at_once, on_release, released = done.stdout.split()
    assert float(at_once) < 50
    assert float(on_release) > 100
    assert released == "True"
