"""The load generator: a closed loop of threads, each with its own call, timed after a lead-in.

It lives in the benchmark's process and shares the cores with what it measures, so every block says what it cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from .machine import Memory, ProcessTree, busy_seconds

#: Sends one request, waits for the answer and returns how many images it held.
Call = Callable[[], int]
#: Opens what one thread calls with (a keep-alive connection), and closes it.
Connect = Callable[[], AbstractContextManager[Call]]
#: Seconds at the start of a block that are not counted: connections, batch sizes and caches settle.
LEAD = 0.4
#: Pause after a refusal, so that a full server is not asked in a busy loop.
_AFTER_REFUSAL = 0.01


class RefusedError(Exception):
    """The server answered that it does not judge this request (overload); counted, not fatal."""


@dataclass(frozen=True)
class Block:
    """One timed block.

    ``latencies`` are milliseconds per answered request; ``seconds`` runs from the end of the lead-in to the last
    answer; ``server_cpu`` and ``generator_cpu`` are CPU seconds spent in it (None: there is no server process),
    ``other_cpu`` those that everything else on the machine took meanwhile.
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
        """Return images per second."""
        return self.images / self.seconds


@dataclass(frozen=True)
class _Answer:
    started: float
    ended: float
    images: int


def _repeat(connect: Connect, ends: float) -> tuple[list[_Answer], list[float]]:
    answers, refusals = [], []
    with connect() as call:
        while (started := time.perf_counter()) < ends:
            try:
                images = call()
            except RefusedError:
                refusals.append(time.perf_counter())
                time.sleep(_AFTER_REFUSAL)
            else:
                answers.append(_Answer(started, time.perf_counter(), images))
    return answers, refusals


def _cpu(tree: ProcessTree | None) -> tuple[float, float, float]:
    """Return the CPU seconds so far of the generator, of the server, and of the whole machine."""
    return time.process_time(), tree.cpu_seconds() if tree else 0.0, busy_seconds()


def drive(
    connect: Connect, concurrency: int, seconds: float, tree: ProcessTree | None = None, lead: float = LEAD
) -> Block:
    """Call from ``concurrency`` threads for ``lead + seconds``, each one request after the other; return the figures.

    Answers that end within the lead-in are not counted. ``tree`` is the server's process tree.

    Raises:
        RuntimeError: nothing was answered in the whole block.
    """
    begun = time.perf_counter()
    counted, ends = begun + lead, begun + lead + seconds
    with ThreadPoolExecutor(concurrency) as pool:
        waiting = [pool.submit(_repeat, connect, ends) for _ in range(concurrency)]
        time.sleep(max(0.0, counted - time.perf_counter()))
        before = _cpu(tree)
        parts = [job.result() for job in waiting]
    own, server, everything = (after - earlier for after, earlier in zip(_cpu(tree), before, strict=True))
    answers = [answer for part, _ in parts for answer in part if answer.ended > counted]
    if not answers:
        raise RuntimeError("no request of the block was answered")
    return Block(
        latencies=tuple(1e3 * (a.ended - a.started) for a in answers),
        images=sum(a.images for a in answers),
        rejected=sum(1 for _, refusals in parts for at in refusals if at > counted),
        seconds=max(a.ended for a in answers) - counted,
        generator_cpu=own,
        server_cpu=server if tree else None,
        memory=tree.memory() if tree else None,
        other_cpu=max(0.0, everything - own - server),
    )
