"""The first step's own queue: worker threads for images, and finished requests handed on in groups.

Triton calls a Python model with a batch and takes the next one when it returns. This queue lets the model return at
once and answer later: no core waits for the slowest picture of a batch, and what is finished goes on while the rest is
still worked on. Finished requests are held back a little, so that the networks get several at a time: alone, a picture
costs the CPU a tenth more in all the steps that follow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Late(Exception):
    """The request waited longer than its deadline."""


class Job(Generic[Item, Result]):
    """One request: its items, their results as they come, and the first error in order of the items."""

    def __init__(self, key: Any, items: Sequence[Item], deadline: float) -> None:
        """Take what the answer needs (``key``), the items, and the moment after which none is begun.

        ``arrived``, and ``begun`` and ``finished`` of every item, are moments of the monotonic clock as well.
        """
        self.key = key
        self.items = items
        self.deadline = deadline
        self.results: list[Result | None] = [None] * len(items)
        self.errors: list[Exception | None] = [None] * len(items)
        self.left = len(items)
        self.arrived = time.monotonic()
        self.begun = [self.arrived] * len(items)
        self.finished = [self.arrived] * len(items)

    @property
    def error(self) -> tuple[int, Exception] | None:
        """Return index and error of the first item that failed."""
        return next(((i, e) for i, e in enumerate(self.errors) if e is not None), None)


class Intake(Generic[Item, Result]):
    """Works on the items of requests with a pool of threads and hands finished requests on in groups.

    ``work`` turns an item into a result. ``hand_on`` gets a list of finished jobs, on a thread of its own; it may take
    long. What finishes while ``calls`` of it are under way goes together afterwards. ``refuse`` gets each job of which
    an item failed, at once. Neither may raise.
    """

    def __init__(
        self,
        workers: int,
        work: Callable[[Item], Result],
        hand_on: Callable[[list[Job[Item, Result]]], None],
        refuse: Callable[[Job[Item, Result]], None],
        group: int,
        calls: int = 1,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        """Start the threads; ``group`` is the most items that are held back for one another."""
        self._work, self._hand_on, self._refuse = work, hand_on, refuse
        self._group, self._calls_left = group, calls
        self._pool = ThreadPoolExecutor(workers, initializer=initializer)
        self._callers = ThreadPoolExecutor(calls)
        self._lock = threading.Lock()
        self._unfinished = 0
        self._ready: list[Job[Item, Result]] = []
        # Threads start with their first job: give each one now, so that no request pays for what they load.
        list(self._pool.map(time.sleep, [0.05] * workers))

    def put(self, job: Job[Item, Result]) -> None:
        """Queue a job of at least one item; its answer comes through ``hand_on``."""
        with self._lock:
            self._unfinished += job.left
        for index in range(len(job.items)):
            self._pool.submit(self._run, job, index)

    def _run(self, job: Job[Item, Result], index: int) -> None:
        begun = job.begun[index] = time.monotonic()
        try:
            if begun > job.deadline:
                raise Late
            job.results[index] = self._work(job.items[index])
        except Exception as error:  # answered to the request's client
            job.errors[index] = error
        job.finished[index] = time.monotonic()
        with self._lock:
            self._unfinished -= 1
            job.left -= 1
            ended = job.left == 0
            failed = ended and job.error is not None
            if ended and not failed:
                self._ready.append(job)
            group = self._take_group()
        if failed:
            self._refuse(job)
        if group:
            self._callers.submit(self._call, group)

    def _call(self, group: list[Job[Item, Result]]) -> None:
        """Hand a group on, then what became ready meanwhile."""
        while group:
            self._hand_on(group)
            with self._lock:
                self._calls_left += 1
                group = self._take_group()

    def _take_group(self) -> list[Job[Item, Result]]:
        """Return the finished jobs, if they may go now: half of all that is worked on here, or a whole group."""
        waiting = sum(len(job.items) for job in self._ready)
        if not waiting or not self._calls_left:
            return []
        if self._unfinished and waiting < min(self._group, (waiting + self._unfinished + 1) // 2):
            return []
        self._calls_left -= 1
        group, self._ready = self._ready, []
        return group

    def close(self) -> None:
        """Finish what is queued and hand it on, then end the threads."""
        self._pool.shutdown(wait=True)
        self._callers.shutdown(wait=True)
