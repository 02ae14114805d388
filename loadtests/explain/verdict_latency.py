"""Verdict latency next to a saturated explanation worker on the same cores: paired blocks and an A/A control."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from veridict.client import ClientConfig, DetectorClient
from veridict.explain.attribution import Budget
from veridict.explain.errors import ExplainError
from veridict.explain.jobs.client import ExplanationClient
from veridict.explain.jobs.settings import QueueSettings

from ..tables import markdown_table

#: A round has one block of each state, in random order: worker suspended, suspended once more, and running.
STATES = ("idle", "control", "busy")
#: Warm-up before a block in seconds. The server finishes what the worker had asked of it, caches and clock frequencies
#: settle, and the worker notices the verdicts.
WARM_UP = 0.7
#: Upper bound in seconds of a random addition to the warm-up: at its default share a worker computes once in two
#: seconds, and blocks must not all begin at the same point of that cycle.
RANDOM_DELAY = 2.0
#: Seconds in which finished explanations are counted. With verdicts flowing a worker finishes one or two a minute.
THROUGHPUT_SECONDS = 60.0
#: Seconds within which the worker must finish its first jobs.
_START_TIMEOUT = 120.0
_PERCENTILES = (50, 95)
#: Large enough that no job fails because the worker is suspended for two thirds of the time.
_BUDGET = Budget(seconds=3600.0)


@dataclass(frozen=True)
class Interval:
    """A median over rounds and its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the median and the interval for a table."""
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


@dataclass(frozen=True)
class LatencyComparison:
    """One percentile of the verdict latency of ``clients`` clients.

    ``idle`` and ``busy`` are milliseconds, medians over blocks; ``ratio`` is busy / idle and ``control`` is control /
    idle, paired by round.
    """

    clients: int
    percentile: int
    idle: float
    busy: float
    ratio: Interval
    control: Interval


class WorkerProcess:
    """A real ``veridict worker`` on a queue of its own, which can be suspended and resumed."""

    def __init__(self, queue: ExplanationClient, pid: int) -> None:
        """Take a client of the worker's queue, and its process id."""
        self._queue, self._pid = queue, pid

    def suspend(self) -> None:
        """Suspend the process (SIGSTOP)."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process (SIGCONT)."""
        os.kill(self._pid, signal.SIGCONT)

    def remaining(self) -> int:
        """Return the number of unfinished jobs."""
        return sum(sum(stream.waiting()) for stream in self._queue.queue.streams.values())


@contextmanager
def start_worker(
    url: str, images: Sequence[bytes], methods: Sequence[str], options: Sequence[str] = ()
) -> Iterator[WorkerProcess]:
    """Start a worker for the server at ``url`` with a job per image and method; yield it after its first jobs.

    ``options`` are further words of its command line.

    Raises:
        ExplainError: the worker ended, or finished nothing within two minutes.
    """
    with tempfile.TemporaryDirectory(prefix="veridict-") as folder:
        settings = QueueSettings(state=Path(folder), lease=60.0)
        command = [sys.executable, "-m", "veridict.deploy.command", "worker", "--state", folder, "--port", "0"]
        with subprocess.Popen(
            [*command, "--url", url, "--lease", "60", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise ExplainError("explain.queue", "the worker did not start")
                with ExplanationClient(settings) as queue:
                    for image in images:
                        queue.submit(image, methods, budget=_BUDGET)
                    worker = WorkerProcess(queue, process.pid)
                    # The first job of each method loads a network or compiles, which later jobs do not.
                    ends = time.monotonic() + _START_TIMEOUT
                    while worker.remaining() > len(methods) * (len(images) - 1):
                        if time.monotonic() > ends or process.poll() is not None:
                            raise ExplainError("explain.timeout", "the worker finished nothing")
                        time.sleep(0.1)
                    yield worker
            finally:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait()


def measure_latencies(url: str, data: bytes, clients: int, seconds: float, warm_up: float = 0.0) -> list[float]:
    """Send an image from ``clients`` closed-loop clients for ``warm_up`` and then ``seconds``.

    Returns the latencies in milliseconds of the requests that were sent after the warm-up.
    """
    ready = threading.Barrier(clients)

    def run_client() -> list[float]:
        latencies = []
        with DetectorClient(config=ClientConfig(url, deadline=60.0)) as client:
            client.detect(data)  # opens the connection
            ready.wait(30)
            begins = time.perf_counter() + warm_up
            while (started := time.perf_counter()) < begins + seconds:
                client.detect(data)
                if started >= begins:
                    latencies.append(1e3 * (time.perf_counter() - started))
        return latencies

    with ThreadPoolExecutor(clients) as pool:
        return [latency for job in [pool.submit(run_client) for _ in range(clients)] for latency in job.result()]


def bootstrap_median(values: Sequence[float], seed: int = 0, draws: int = 10_000) -> Interval:
    """Return the median and the 2.5th and 97.5th percentile of the medians of ``draws`` resamples (Efron 1979)."""
    array = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    low, high = np.percentile(np.median(array[drawn], axis=1), (2.5, 97.5))
    return Interval(float(np.median(array)), float(low), float(high))


def compare_latencies(clients: int, rounds: Sequence[dict[str, list[float]]]) -> list[LatencyComparison]:
    """Return the comparison at p50 and at p95; a round maps each of :data:`STATES` to its latencies.

    A ratio pairs two blocks of one round, so that slow drifts of the machine cancel. The control pairs the two idle
    blocks and shows how large a ratio is without any effect.
    """
    found = []
    for percentile in _PERCENTILES:
        blocks = {s: [float(np.percentile(r[s], percentile)) for r in rounds] for s in STATES}
        ratio = [b / a for a, b in zip(blocks["idle"], blocks["busy"], strict=True)]
        control = [b / a for a, b in zip(blocks["idle"], blocks["control"], strict=True)]
        idle, busy = statistics.median(blocks["idle"]), statistics.median(blocks["busy"])
        intervals = bootstrap_median(ratio), bootstrap_median(control)
        found.append(LatencyComparison(clients, percentile, idle, busy, *intervals))
    return found


def measure_clients(
    url: str, data: bytes, worker: WorkerProcess, clients: int, rounds: int, seconds: float
) -> tuple[list[LatencyComparison], float]:
    """Return the comparisons for ``clients`` clients, and the explanations per minute while they send.

    Raises:
        ExplainError: the worker finished all its jobs, so it was not busy all the time.
    """
    rng = np.random.default_rng(clients)
    measured: list[dict[str, list[float]]] = []
    for number in range(rounds):
        measured.append({})
        for state in rng.permutation(STATES):
            worker.resume() if state == "busy" else worker.suspend()
            warm_up = WARM_UP + rng.uniform(0, RANDOM_DELAY)
            measured[-1][str(state)] = measure_latencies(url, data, clients, seconds, warm_up)
            worker.suspend()
        print(f"verdicts of {clients} clients: round {number + 1}/{rounds}", file=sys.stderr, flush=True)
    worker.resume()
    before, started = worker.remaining(), time.monotonic()
    measure_latencies(url, data, clients, THROUGHPUT_SECONDS)
    rate = 60 * (before - worker.remaining()) / (time.monotonic() - started)
    if not worker.remaining():
        raise ExplainError("explain.timeout", "the worker ran out of jobs: the busy figures are too low")
    return compare_latencies(clients, measured), rate


def measure_verdict_latency(
    url: str, data: bytes, images: Sequence[bytes], methods: Sequence[str], rounds: int, seconds: float
) -> str:
    """Return two Markdown tables: verdict latency of one and four clients next to a worker, and the worker's rate.

    ``data`` is the image that the clients send; ``images`` and ``methods`` are the worker's jobs.
    """
    rows = []
    with start_worker(url, images, methods) as worker:
        before, alone = worker.remaining(), 10 * seconds
        time.sleep(alone)
        rates = {"no verdicts": 60 * (before - worker.remaining()) / alone}
        for clients in (1, 4):
            name = f"{clients} client{'s' * (clients > 1)}"
            comparisons, rates[name] = measure_clients(url, data, worker, clients, rounds, seconds)
            rows += [
                (str(c.clients), f"p{c.percentile}", f"{c.idle:.1f}", f"{c.busy:.1f}", str(c.ratio), str(c.control))
                for c in comparisons
            ]
    header = (
        "clients",
        "percentile",
        "worker suspended, ms",
        "worker saturated, ms",
        "ratio (95% interval)",
        "suspended/suspended",
    )
    per_minute = [(name, f"{rate:.1f}") for name, rate in rates.items()]
    tables = (markdown_table(header, rows), markdown_table(("load", "explanations per minute"), per_minute))
    return "\n\n".join(tables)
