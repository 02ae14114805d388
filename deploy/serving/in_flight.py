"""The in-flight limiter: how many images are being worked on in the whole ensemble, one byte of shared memory each.

``preprocess`` acquires a slot for every image that it admits; ``fusion``, the last step, releases it. So the first step
alone refuses requests, at once, and no later step needs a queue limit or a timeout. That matters because of Triton:
with a bounded queue or a timeout, Triton 2.51 can leave requests waiting for half a second next to a free instance (its
count of free instances leaks when two batches are merged; faults 1 and 2 of docs/triton-2.51-faults.md). A step without
either does not show the fault.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

_FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives; Triton itself needs it


def slots_file(server: int, holder: int) -> Path:
    """Return the shared file of the limiter in process ``holder`` of the server with process id ``server``."""
    return _FOLDER / f"veridict-slots-{server}-{holder}"


class InFlightLimiter:
    """Lets at most ``limit`` images in; safe to use from several threads.

    A slot that is never released (a step in between failed, or Triton dropped a cancelled request) is free again when
    its lifetime is over.
    """

    def __init__(self, limit: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create the shared bytes; ``most`` is the largest number of slots that one request takes."""
        self._limit, self._clock = limit, clock
        self._lock = threading.Lock()
        self._taken: dict[int, float] = {}
        self.path = slots_file(os.getppid(), os.getpid())
        with self.path.open("w+b") as file:
            file.truncate(limit + most)
            self._bytes = mmap.mmap(file.fileno(), limit + most)

    def acquire(self, count: int, lifetime: float) -> list[int] | None:
        """Return ``count`` slots for at most ``lifetime`` seconds, or None when the limit is reached already.

        So a request with several images is refused only when a request with one image would be refused too.
        """
        with self._lock:
            self._collect()
            if len(self._taken) >= self._limit:
                return None
            free = [t for t in range(len(self._bytes)) if t not in self._taken][:count]
            for slot in free:
                self._bytes[slot] = 1
                self._taken[slot] = self._clock() + lifetime
            return free

    @property
    def full(self) -> bool:
        """Return whether a request would be refused now."""
        return self.in_use >= self._limit

    def release(self, slots: Iterable[int]) -> None:
        """Release the slots of images that go no further."""
        for slot in slots:
            self._bytes[slot] = 0

    @property
    def in_use(self) -> int:
        """Return the number of images in flight."""
        with self._lock:
            self._collect()
            return len(self._taken)

    def _collect(self) -> None:
        now = self._clock()
        self._taken = {t: ends for t, ends in self._taken.items() if self._bytes[t] and ends > now}

    def close(self) -> None:
        """Remove the file; a process that has it mapped can still write to it."""
        self._bytes.close()
        self.path.unlink(missing_ok=True)


class SlotReturns:
    """Releases slots of any limiter of this server; opens each limiter's file once."""

    def __init__(self, server: int | None = None) -> None:
        """Take the process id of the server, by default this process's parent."""
        self._server = os.getppid() if server is None else server
        self._open: dict[int, mmap.mmap] = {}

    def release(self, slot: Sequence[int]) -> None:
        """Release a slot (process id of its limiter, number); an unknown slot is ignored."""
        holder, number = slot
        shared = self._open.get(holder) or self._map(holder)
        if shared is None:  # not remembered: a client that calls fusion itself can name any number
            return
        self._open[holder] = shared
        if 0 <= number < len(shared):
            shared[number] = 0

    def _map(self, holder: int) -> mmap.mmap | None:
        try:
            with slots_file(self._server, holder).open("r+b") as file:
                return mmap.mmap(file.fileno(), 0)
        except OSError:
            return None
