"""What verdicts cost beside a saturated explanation worker on the same cores: paired blocks and an A/A control."""

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

#: One round has a block of each, in an order drawn anew: the worker stopped, stopped once more, and running.
STATES = ("idle", "control", "busy")
#: Verdicts flow this long before a block is timed: what the server still had to score for the worker is done, caches
#: and clocks have settled, and the worker's gate has noticed the verdicts. Up to ``PHASE`` is added at random, since at
#: the default share a worker computes once in two seconds.
SETTLE, PHASE = 0.7, 2.0
#: Beside verdicts a worker finishes one or two explanations a minute: a block of seconds would see none.
RATE = 60.0
_PERCENTILES = (50, 95)
#: A job of the benchmark is not to fail because the worker is stopped two thirds of the time.
_BUDGET = Budget(seconds=3600.0)


@dataclass(frozen=True)
class Interval:
    """A median over rounds and its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it for a table."""
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


@dataclass(frozen=True)
class Comparison:
    """Verdict latency of ``clients`` in milliseconds, ``percentile`` of each block and the ratios round by round."""

    clients: int
    percentile: int
    idle: float
    busy: float
    ratio: Interval
    control: Interval


class WorkerProcess:
    """A real ``veridict worker`` on a queue of its own, to be stopped (SIGSTOP) and continued."""

    def __init__(self, queue: ExplanationClient, pid: int) -> None:
        """Take the queue it works on and its process id."""
        self._queue, self._pid = queue, pid

    def stop(self) -> None:
        """Let it stand where it is."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self._pid, signal.SIGCONT)

    def remaining(self) -> int:
        """Return the number of jobs that are not finished."""
        return sum(sum(stream.waiting()) for stream in self._queue.queue.streams.values())


@contextmanager
def start_worker(
    url: str, pictures: Sequence[bytes], methods: Sequence[str], options: Sequence[str] = ()
) -> Iterator[WorkerProcess]:
    """Start a worker for the server at ``url`` with a job per picture and method; ready when it finished its first.

    ``options`` are further words of its command line.

    Raises:
        ExplainError: the worker ended or finished nothing within two minutes.
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
                    for picture in pictures:
                        queue.submit(picture, methods, budget=_BUDGET)
                    worker = WorkerProcess(queue, process.pid)
                    # The first job of each method loads a network or compiles: not what a worker does all day.
                    ends = time.monotonic() + 120
                    while worker.remaining() > len(methods) * (len(pictures) - 1):
                        if time.monotonic() > ends or process.poll() is not None:
                            raise ExplainError("explain.timeout", "the worker finished nothing")
                        time.sleep(0.1)
                    yield worker
            finally:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait()


def detect_for(url: str, data: bytes, clients: int, seconds: float, lead: float = 0.0) -> list[float]:
    """Send a picture from ``clients`` closed loops for ``lead`` and then ``seconds``.

    Returns the latencies in milliseconds of what was sent after the lead.
    """
    begin = threading.Barrier(clients)

    def loop() -> list[float]:
        taken = []
        with DetectorClient(config=ClientConfig(url, deadline=60.0)) as client:
            client.detect(data)  # opens the connection
            begin.wait(30)
            begins = time.perf_counter() + lead
            while (started := time.perf_counter()) < begins + seconds:
                client.detect(data)
                if started >= begins:
                    taken.append(1e3 * (time.perf_counter() - started))
        return taken

    with ThreadPoolExecutor(clients) as pool:
        return [latency for job in [pool.submit(loop) for _ in range(clients)] for latency in job.result()]


def bootstrap_median(values: Sequence[float], seed: int = 0, draws: int = 10_000) -> Interval:
    """Return the median and the 2.5th and 97.5th percentile of the medians of ``draws`` resamples (Efron 1979)."""
    array = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    low, high = np.percentile(np.median(array[drawn], axis=1), (2.5, 97.5))
    return Interval(float(np.median(array)), float(low), float(high))


def compare(clients: int, rounds: Sequence[dict[str, list[float]]]) -> list[Comparison]:
    """Return p50 and p95 of rounds, each a mapping of :data:`STATES` to latencies.

    A ratio pairs two blocks of one round, so that slow drifts of the machine cancel; the control pairs the two idle
    blocks and says what the benchmark cannot tell from nothing.
    """
    found = []
    for percentile in _PERCENTILES:
        blocks = {s: [float(np.percentile(r[s], percentile)) for r in rounds] for s in STATES}
        ratio = [b / a for a, b in zip(blocks["idle"], blocks["busy"], strict=True)]
        control = [b / a for a, b in zip(blocks["idle"], blocks["control"], strict=True)]
        idle, busy = statistics.median(blocks["idle"]), statistics.median(blocks["busy"])
        found.append(Comparison(clients, percentile, idle, busy, bootstrap_median(ratio), bootstrap_median(control)))
    return found


def measure(
    url: str, data: bytes, worker: WorkerProcess, clients: int, rounds: int, seconds: float
) -> tuple[list[Comparison], float]:
    """Return the comparisons, and explanations per minute beside the same clients, watched for ``RATE`` seconds."""
    rng = np.random.default_rng(clients)
    taken: list[dict[str, list[float]]] = []
    for number in range(rounds):
        taken.append({})
        for state in rng.permutation(STATES):
            worker.resume() if state == "busy" else worker.stop()
            lead = SETTLE + rng.uniform(0, PHASE)
            taken[-1][str(state)] = detect_for(url, data, clients, seconds, lead)
            worker.stop()
        print(f"verdicts of {clients} clients: round {number + 1}/{rounds}", file=sys.stderr, flush=True)
    worker.resume()
    before, started = worker.remaining(), time.monotonic()
    detect_for(url, data, clients, RATE)
    rate = 60 * (before - worker.remaining()) / (time.monotonic() - started)
    if not worker.remaining():
        raise ExplainError("explain.timeout", "the worker ran out of jobs: the busy figures are too low")
    return compare(clients, taken), rate


def measure_verdicts(
    url: str, data: bytes, pictures: Sequence[bytes], methods: Sequence[str], rounds: int, seconds: float
) -> str:
    """Return the Markdown tables: verdict latency of one client and of four beside a worker, and what the worker does.

    ``data`` is the picture judged, ``pictures`` and ``methods`` are the worker's jobs.
    """
    lines = [
        "| clients | percentile | worker stopped, ms | worker saturated, ms | ratio (95% interval) | stopped/stopped |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with start_worker(url, pictures, methods) as worker:
        before, alone = worker.remaining(), 10 * seconds
        time.sleep(alone)
        rates = {"no verdicts": 60 * (before - worker.remaining()) / alone}
        for clients in (1, 4):
            found, rates[f"{clients} client{'s' * (clients > 1)}"] = measure(
                url, data, worker, clients, rounds, seconds
            )
            lines += [
                f"| {c.clients} | p{c.percentile} | {c.idle:.1f} | {c.busy:.1f} | {c.ratio} | {c.control} |"
                for c in found
            ]
    lines += ["", "| beside | explanations per minute |", "| --- | --- |"]
    lines += [f"| {name} | {rate:.1f} |" for name, rate in rates.items()]
    return "\n".join(lines)
