"""Runs mutants through decoding and forensics in worker processes, and records what no image may do."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .generator import small_files
from .measure import MOST_MIB, read_status, reset_peak
from .mutants import Mutator

#: CPU seconds for one mutant in all threads of its process; the kernel then ends the process.
HANG_CPU = 2.0
#: Seconds of wall time for one mutant: longer than that it waits for something.
_HANG_WALL = 30.0
#: Bytes per pixel that a large image may hold beyond the limit of memory: decoded, as RGB, and its preview.
_BYTES_PER_PIXEL = 12
#: Mutants that a worker gets at a time.
_BATCH = 500
#: Takes a mutant; returns its answer, what is wrong with it or "", and the CPU milliseconds.
Answer = Callable[[bytes], tuple[str, str, float]]
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Finding:
    """A mutant that did what no image may do: its number, bytes and what happened."""

    number: int
    data: bytes
    what: str


@dataclass
class MutantResult:
    """The outcome of a run: answers by code (``judged`` among them), findings, and the CPU seconds of all workers."""

    mutants: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    slowest_ms: float = 0.0


def answer_mutant(data: bytes) -> tuple[str, str, float]:
    """Prepare one mutant in this process and return the answer, what is wrong or "", and its CPU milliseconds."""
    from veridict.forensics.errors import CODES, ImageError

    from .served import prepare_as_served

    before, pixels = reset_peak(), 0
    began = time.process_time()
    try:
        image = prepare_as_served(data).observation.image
        answer, fault, pixels = "judged", "", image.width * image.height
    except ImageError as error:
        answer, fault = error.code, "" if error.code in CODES else f"unknown code {error.code}"
    except Exception as error:  # what no image may raise
        answer, fault = "crashed", f"{type(error).__name__}: {error}"
    spent = time.process_time() - began
    held = read_status("VmHWM") - before
    if held > MOST_MIB + pixels * _BYTES_PER_PIXEL / _MIB:
        fault = fault or f"held {held:.0f} MiB ({answer}, {pixels} pixels)"
    return answer, fault, spent * 1e3


def _work(pipe: multiprocessing.connection.Connection, seeds: Sequence[bytes], seed: int, answer: Answer) -> None:
    from .served import get_ready

    get_ready()
    mutator = Mutator(seeds, seed)
    while True:
        try:
            first, last = pipe.recv()
        except EOFError:
            return
        for number in range(first, last):
            pipe.send(number)
            data = mutator.mutant(number)
            # The kernel ends the process by this signal, also in the middle of a decoder.
            signal.setitimer(signal.ITIMER_PROF, HANG_CPU)
            found = answer(data)
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(found)
        pipe.send(None)


class _Worker:
    """A worker process with the range of mutants that it has in hand."""

    def __init__(self, seeds: Sequence[bytes], seed: int, answer: Answer) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, seeds, seed, answer), daemon=True)
        self._process.start()
        other.close()
        self.number = self.last = 0
        self.since = time.monotonic()

    def begin(self, first: int, last: int) -> None:
        """Give the worker mutants."""
        self.number, self.last, self.since = first, last, time.monotonic()
        self.pipe.send((first, last))

    def end(self) -> str:
        """End the process and return what ended it."""
        self._process.join(0.5)
        status = self._process.exitcode
        self.pipe.close()
        self._process.kill()
        self._process.join()
        if status is None:
            return f"hung for {_HANG_WALL:g} s"
        if status == -signal.SIGPROF:
            return f"took more than {HANG_CPU:g} s of CPU time"
        return f"ended the process with status {status}"


def run_mutants(
    count: int,
    seed: int,
    workers: int = 1,
    seeds: Sequence[bytes] | None = None,
    log: Callable[[str], None] | None = None,
    answer: Answer = answer_mutant,
) -> MutantResult:
    """Run mutants 0 to ``count`` - 1 of a seed; a worker that dies is replaced, and its mutant is a finding.

    ``answer`` runs in the workers, so it must be possible to pickle it.
    """
    files = seeds if seeds is not None else small_files()
    mutator = Mutator(files, seed)
    result = MutantResult()
    ranges = [(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH)][::-1]
    started = time.monotonic()
    active: list[_Worker] = []
    for _ in range(min(workers, len(ranges))):
        active.append(_Worker(files, seed, answer))
        active[-1].begin(*ranges.pop())
    while active:
        ready = multiprocessing.connection.wait([worker.pipe for worker in active], timeout=1.0)
        for worker in list(active):
            if worker.pipe in ready:
                ended = _take(worker, result, mutator)
            else:
                ended = time.monotonic() - worker.since > _HANG_WALL
            if ended:
                active.remove(worker)
                _record(result, mutator, worker.number, worker.end())
                ranges.append((worker.number + 1, worker.last))
                active.append(_Worker(files, seed, answer))
                active[-1].begin(*ranges.pop())
            elif worker.number >= worker.last:
                if ranges:
                    worker.begin(*ranges.pop())
                else:
                    active.remove(worker)
                    worker.end()
                if log is not None:
                    log(f"{result.mutants} mutants, {len(result.findings)} findings, {dict(result.answers)}")
    result.seconds = time.monotonic() - started
    return result


def _take(worker: _Worker, result: MutantResult, mutator: Mutator) -> bool:
    """Read one message of a worker; return whether it died."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        return True
    worker.since = time.monotonic()
    if message is None:
        worker.number = worker.last
    elif isinstance(message, int):
        worker.number = message
    else:
        answer, fault, milliseconds = message
        result.mutants += 1
        result.answers[answer] += 1
        result.slowest_ms = max(result.slowest_ms, milliseconds)
        if fault:
            result.findings.append(Finding(worker.number, mutator.mutant(worker.number), fault))
    return False


def _record(result: MutantResult, mutator: Mutator, number: int, what: str) -> None:
    result.mutants += 1
    result.answers["died"] += 1
    result.findings.append(Finding(number, mutator.mutant(number), what))


def save_findings(result: MutantResult, folder: Path) -> None:
    """Write the bytes of every finding, and a list of what each did."""
    folder.mkdir(parents=True, exist_ok=True)
    for finding in result.findings:
        (folder / f"mutant-{finding.number}.bin").write_bytes(finding.data)
    lines = [f"mutant-{finding.number}.bin: {finding.what}" for finding in result.findings]
    (folder / "findings.txt").write_text("".join(f"{line}\n" for line in lines))
