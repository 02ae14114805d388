"""How many images are under way in the whole ensemble: one byte of shared memory per image.

`preprocess` takes a ticket for every image that it admits, and `fusion`, the last step, hands it back. So the first
step alone refuses, at once, and no later step needs a limit or a timeout of its own. That matters beyond tidiness:
Triton 2.51 forms the batches of a step with a bounded queue or a timeout in a way that can leave requests waiting for
half a second beside a free instance, the more often the longer it runs (its count of free instances leaks when two
batches are merged); a step without either has neither fault.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

_FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives; Triton itself needs it


def tickets_file(server: int, holder: int) -> Path:
    """Return the file of the tickets that process ``holder`` of the server with process id ``server`` gave out."""
    return _FOLDER / f"veridict-tickets-{server}-{holder}"


class TicketOffice:
    """Gives out at most ``capacity`` tickets; safe to use from several threads.

    A ticket that nobody hands back (a step in between failed, or Triton dropped what its client had given up) is free
    again when its time is over.
    """

    def __init__(self, capacity: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create the shared bytes: ``most`` is the largest number that is ever asked for at once."""
        self._capacity, self._clock = capacity, clock
        self._lock = threading.Lock()
        self._taken: dict[int, float] = {}
        self.path = tickets_file(os.getppid(), os.getpid())
        with self.path.open("w+b") as file:
            file.truncate(capacity + most)
            self._bytes = mmap.mmap(file.fileno(), capacity + most)

    def take(self, count: int, lifetime: float) -> list[int] | None:
        """Return ``count`` tickets for at most ``lifetime`` seconds, or None when the capacity is reached already.

        So a request of several images is refused only when one of a single image would be.
        """
        with self._lock:
            self._collect()
            if len(self._taken) >= self._capacity:
                return None
            free = [t for t in range(len(self._bytes)) if t not in self._taken][:count]
            for ticket in free:
                self._bytes[ticket] = 1
                self._taken[ticket] = self._clock() + lifetime
            return free

    @property
    def full(self) -> bool:
        """Return whether nothing could be taken now."""
        return self.in_use >= self._capacity

    def give_back(self, tickets: Iterable[int]) -> None:
        """Free tickets whose images go no further."""
        for ticket in tickets:
            self._bytes[ticket] = 0

    @property
    def in_use(self) -> int:
        """Return the number of images under way."""
        with self._lock:
            self._collect()
            return len(self._taken)

    def _collect(self) -> None:
        now = self._clock()
        self._taken = {t: ends for t, ends in self._taken.items() if self._bytes[t] and ends > now}

    def close(self) -> None:
        """Remove the file; whoever has it open can go on writing to it."""
        self._bytes.close()
        self.path.unlink(missing_ok=True)


class TicketReturns:
    """Hands tickets of any office of this server back; opens each office's file once."""

    def __init__(self, server: int | None = None) -> None:
        """Take the process id of the server, by default this process's parent."""
        self._server = os.getppid() if server is None else server
        self._open: dict[int, mmap.mmap | None] = {}

    def give_back(self, ticket: Sequence[int]) -> None:
        """Free a ticket (process id of its office, number); one that does not exist is passed over."""
        holder, number = ticket
        if holder not in self._open:
            self._open[holder] = self._map(holder)
        shared = self._open[holder]
        if shared is not None and 0 <= number < len(shared):
            shared[number] = 0

    def _map(self, holder: int) -> mmap.mmap | None:
        try:
            with tickets_file(self._server, holder).open("r+b") as file:
                return mmap.mmap(file.fileno(), 0)
        except OSError:
            return None
