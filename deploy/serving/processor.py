"""What this machine's processor offers to this process."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_flags() -> frozenset[str]:
    """Return the features of the first processor in Linux's names (``avx2``); none where Linux does not list them."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return frozenset()
