"""Closed-loop load generator: a fixed number of threads, each of which waits for its answer before it sends again.

It runs in the benchmark's process and shares the cores with what it measures, so each block reports its own CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from .machine import Memory, ProcessTree, busy_seconds

#: Sends one request, waits for the answer and returns the number of images in the request.
Call = Callable[[], int]
#: Opens one thread's connection, yields its call, and closes the connection.
Connect = Callable[[], AbstractContextManager[Call]]
#: Warm-up at the start of a block in seconds. It is not counted: connections, batch sizes and caches settle.
WARM_UP = 0.4
#: Pause after a rejection in seconds, so that a full server is not asked in a busy loop.
_BACKOFF = 0.01


class RejectedError(Exception):
    """The server rejected the request because it is overloaded. The rejection is counted and the block continues."""


@dataclass(frozen=True)
class Block:
    """One timed block.

    ``latencies`` are milliseconds per answered request. ``seconds`` is the time from the end of the warm-up to the last
    answer. ``server_cpu`` and ``generator_cpu`` are CPU seconds in that time; ``server_cpu`` and ``memory`` are None
    where there is no server process. ``other_cpu`` is the CPU time of everything else on the machine.
    """

    latencies: tuple[float, ...]
    images: int
    rejected: int
    seconds: float
    generator_cpu: float
    server_cpu: float | None
    memory: Memory | None
    other_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Return the throughput in images per second."""
        return self.images / self.seconds


@dataclass(frozen=True)
class _Answer:
    started: float
    ended: float
    images: int


def _send_until(connect: Connect, ends: float) -> tuple[list[_Answer], list[float]]:
    """Send one request after the other until ``ends``; return the answers and the times of the rejections."""
    answers, rejections = [], []
    with connect() as call:
        while (started := time.perf_counter()) < ends:
            try:
                images = call()
            except RejectedError:
                rejections.append(time.perf_counter())
                time.sleep(_BACKOFF)
            else:
                answers.append(_Answer(started, time.perf_counter(), images))
    return answers, rejections


def _cpu_seconds(tree: ProcessTree | None) -> tuple[float, float, float]:
    """Return the CPU seconds so far of the generator, of the server, and of the whole machine."""
    return time.process_time(), tree.cpu_seconds() if tree else 0.0, busy_seconds()


def run_closed_loop(
    connect: Connect, concurrency: int, seconds: float, tree: ProcessTree | None = None, warm_up: float = WARM_UP
) -> Block:
    """Send requests from ``concurrency`` threads for ``warm_up + seconds`` seconds and return the measured block.

    Answers that arrive during the warm-up are not counted. ``tree`` is the server's process tree.

    Raises:
        RuntimeError: no request was answered after the warm-up.
    """
    begun = time.perf_counter()
    counted_from, ends = begun + warm_up, begun + warm_up + seconds
    with ThreadPoolExecutor(concurrency) as pool:
        threads = [pool.submit(_send_until, connect, ends) for _ in range(concurrency)]
        time.sleep(max(0.0, counted_from - time.perf_counter()))
        before = _cpu_seconds(tree)
        parts = [thread.result() for thread in threads]
    generator, server, machine = (after - earlier for after, earlier in zip(_cpu_seconds(tree), before, strict=True))
    answers = [answer for part, _ in parts for answer in part if answer.ended > counted_from]
    if not answers:
        raise RuntimeError("no request of the block was answered")
    return Block(
        latencies=tuple(1e3 * (a.ended - a.started) for a in answers),
        images=sum(a.images for a in answers),
        rejected=sum(1 for _, rejections in parts for at in rejections if at > counted_from),
        seconds=max(a.ended for a in answers) - counted_from,
        generator_cpu=generator,
        server_cpu=server if tree else None,
        memory=tree.memory() if tree else None,
        other_cpu=max(0.0, machine - generator - server),
    )
