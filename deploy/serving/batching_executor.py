"""The batching executor of the first step: threads that work on images, and batches of finished requests.

Triton calls a Python model with a batch and passes the next one when the call returns. With an executor of its own the
model returns at once and answers later. So no core waits for the slowest image of a batch, and a finished request
continues while others are still being worked on. Finished requests are held back for a moment and passed on together,
because the networks are cheaper per image in batches: alone, an image costs a tenth more CPU time in all later steps.

Items that take long have threads of their own (:class:`SlowLane`): no other item waits behind them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class DeadlineExceeded(Exception):
    """The request waited longer than its deadline."""


class Postponed(Exception):
    """The item turned out to take long: it begins again in the slow lane."""


class PendingRequest(Generic[Item, Result]):
    """One request: its items, their results as they come, and the first error in order of the items."""

    def __init__(self, key: Any, items: Sequence[Item], deadline: float) -> None:
        """Take what the answer needs (``key``), the items, and the latest time at which a step of the work may begin.

        All times are of the monotonic clock: ``deadline``, ``arrived``, and ``begun`` and ``finished`` per item.
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


@dataclass(frozen=True)
class SlowLane(Generic[Item, Result]):
    """A number of threads for the items that ``includes`` names, and for those whose work raised :class:`Postponed`."""

    workers: int
    work: Callable[[Item], Result]
    includes: Callable[[Item], bool]


class BatchingExecutor(Generic[Item, Result]):
    """Works on the items of requests with a pool of threads, and passes finished requests on in batches.

    ``work`` turns an item into a result. ``process`` gets a list of finished requests, on a thread of its own, and may
    take long. While ``concurrent`` batches are being processed, finished requests accumulate and form the next batch.
    ``fail`` gets a request as soon as all its items ended and one of them failed, and a request of a batch whose
    deadline passed before the batch's turn. ``process`` and ``fail`` must not raise.
    """

    def __init__(
        self,
        workers: int,
        work: Callable[[Item], Result],
        process: Callable[[list[PendingRequest[Item, Result]]], None],
        fail: Callable[[PendingRequest[Item, Result]], None],
        batch_items: int,
        concurrent: int = 1,
        slow: SlowLane[Item, Result] | None = None,
    ) -> None:
        """Start the threads; with ``batch_items`` finished items a batch is passed on at once."""
        self._work, self._process, self._fail = work, process, fail
        self._batch_items, self._free = batch_items, concurrent
        self._pool = ThreadPoolExecutor(workers)
        self._slow = slow
        self._slow_pool = ThreadPoolExecutor(slow.workers) if slow else None
        self._slow_items = 0
        self._processors = ThreadPoolExecutor(concurrent)
        self._lock = threading.Lock()
        self._unfinished = 0
        self._ready: list[PendingRequest[Item, Result]] = []
        # A thread starts with its first task: give each one a task now, so that no request waits for what it loads.
        list(self._pool.map(time.sleep, [0.05] * workers))

    def submit(self, request: PendingRequest[Item, Result]) -> None:
        """Queue a request of at least one item; it ends with a call of ``process`` or ``fail``."""
        slow = [self._slow is not None and self._slow.includes(item) for item in request.items]
        with self._lock:
            self._unfinished += slow.count(False)
            self._slow_items += slow.count(True)
        for index, is_slow in enumerate(slow):
            if is_slow:
                self._submit_slow(request, index)
            else:
                self._pool.submit(self._run, request, index, self._work, False)

    @property
    def slow_items(self) -> int:
        """Return the number of items that wait or are being worked on in the slow lane."""
        return self._slow_items

    def _submit_slow(self, request: PendingRequest[Item, Result], index: int) -> None:
        assert self._slow is not None
        assert self._slow_pool is not None
        self._slow_pool.submit(self._run, request, index, self._slow.work, True)

    def _run(
        self, request: PendingRequest[Item, Result], index: int, work: Callable[[Item], Result], slow: bool
    ) -> None:
        begun = request.begun[index] = time.monotonic()
        try:
            if begun > request.deadline:
                raise DeadlineExceeded
            request.results[index] = work(request.items[index])
        except Postponed:
            with self._lock:
                self._unfinished -= 1
                self._slow_items += 1
            self._submit_slow(request, index)
            return
        except Exception as error:  # answered to the request's client
            # Its traceback holds this frame and so the request: a cycle would keep the image until the next collection.
            request.errors[index] = error.with_traceback(None)
        request.finished[index] = time.monotonic()
        with self._lock:
            self._unfinished -= not slow
            self._slow_items -= slow
            request.left -= 1
            ended = request.left == 0
            failed = ended and request.error is not None
            if ended and not failed:
                self._ready.append(request)
            batch = self._take_batch()
        if failed:
            self._fail(request)
        if batch:
            self._processors.submit(self._process_batches, batch)

    def _process_batches(self, batch: list[PendingRequest[Item, Result]]) -> None:
        """Process a batch, then what became ready meanwhile."""
        while batch:
            if in_time := self._fail_late(batch):
                self._process(in_time)
            with self._lock:
                self._free += 1
                batch = self._take_batch()

    def _fail_late(self, batch: list[PendingRequest[Item, Result]]) -> list[PendingRequest[Item, Result]]:
        """Fail the requests past their deadline and return the others: a batch waits while others are processed."""
        now = time.monotonic()
        for request in batch:
            if now > request.deadline:
                request.errors[0] = DeadlineExceeded()
                self._fail(request)
        return [request for request in batch if now <= request.deadline]

    def _take_batch(self) -> list[PendingRequest[Item, Result]]:
        """Return the finished requests once they are a whole batch, or half of all but those in the slow lane."""
        waiting = sum(len(request.items) for request in self._ready)
        if not waiting or not self._free:
            return []
        if self._unfinished and waiting < min(self._batch_items, (waiting + self._unfinished + 1) // 2):
            return []
        self._free -= 1
        batch, self._ready = self._ready, []
        return batch

    def close(self) -> None:
        """Finish and process all queued requests, then end the threads."""
        self._pool.shutdown(wait=True)
        if self._slow_pool is not None:  # the last items of the other pool may have moved here
            self._slow_pool.shutdown(wait=True)
        self._processors.shutdown(wait=True)
