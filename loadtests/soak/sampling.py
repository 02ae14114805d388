"""Samples what a running server holds, every few seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..machine import ProcessTree
from ..metrics_page import Repeated

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - shm_open's folder
MEGABYTE = 1e6


@dataclass(frozen=True)
class Sample:
    """One look at the server: seconds since the start of the run, memory in MB, and counts.

    ``rss`` and ``pss``: resident and proportional set size of all its processes. ``shared_memory``: MB that its files
    in /dev/shm occupy; ``regions``: their number. ``handles``: open file descriptors.
    """

    seconds: float
    rss: float
    pss: float
    shared_memory: float
    regions: int
    processes: int
    handles: int


def region_patterns(server: int) -> tuple[str, str]:
    """Return how the names of the regions begin that a server has, which this process started."""
    return f"veridict-{os.getpid()}-*", f"veridict-slots-{server}-*"


def take_sample(tree: ProcessTree, seconds: float, patterns: Sequence[str], folder: Path = SHARED_MEMORY) -> Sample:
    """Return what the processes, and the regions in the folder of shared memory, hold now."""
    memory = tree.memory()
    processes, handles = tree.handles()
    regions = 0
    occupied = 0.0
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        try:
            occupied += path.stat().st_blocks * 512 / MEGABYTE
        except OSError:  # removed meanwhile
            continue
        regions += 1
    factor = 1024**2 / MEGABYTE
    return Sample(seconds, memory.rss * factor, memory.pss * factor, occupied, regions, processes, handles)


class Sampler(Repeated):
    """Takes samples in a thread; a context manager, whose ``samples`` are complete after the ``with``."""

    def __init__(self, pid: int, interval: float) -> None:
        """Take the server's process id and the seconds between two samples."""
        super().__init__(interval)
        self._tree, self._patterns = ProcessTree(pid), region_patterns(pid)
        self.samples: list[Sample] = []

    def look(self, seconds: float) -> None:
        """Take one sample."""
        self.samples.append(take_sample(self._tree, seconds, self._patterns))
