"""Prepares hostile images in a child process: is the answer right, how long did it take, how much memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .kinds import Kind

#: What an answer may cost: milliseconds of CPU time, which other work on the machine changes less than wall time, and
#: MiB beyond what the process had before.
MOST_MS, MOST_MIB = 250.0, 64.0
#: Measurements of a kind above the limit, each in a new process: other work on the machine disturbs single ones.
_ATTEMPTS = 3
#: Seconds after which an image counts as hung and its process is ended.
_HANG = 30.0
_MIB = 1024.0


@dataclass(frozen=True)
class Measured:
    """The answer to one kind: an error code or ``judged``; ``fault``: what is wrong with it, or "".

    ``cpu_ms`` and ``ms``: CPU time and wall time of :func:`~.served.prepare_as_served` in milliseconds. ``mib``: the
    most memory that it held beyond the memory before, in MiB.
    """

    name: str
    size: int
    answer: str
    fault: str
    cpu_ms: float = 0.0
    ms: float = 0.0
    mib: float = 0.0
    large: bool = False

    @property
    def within_limits(self) -> bool:
        """Return whether CPU time and memory are within the limits, which do not hold for large valid images."""
        return self.large or (self.cpu_ms <= MOST_MS and self.mib <= MOST_MIB)


def read_status(field: str) -> float:
    """Return a field of this process's status in MiB: ``VmRSS`` (resident memory) or ``VmHWM`` (its peak)."""
    text = Path("/proc/self/status").read_text()
    return float(text.partition(f"{field}:")[2].split()[0]) / _MIB


def reset_peak() -> float:
    """Return freed memory to the kernel, let the peak begin anew, and return the resident memory in MiB."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return read_status("VmRSS")


def answer_kind(kind: Kind) -> Measured:
    """Prepare one kind in this process and check the answer."""
    from veridict.forensics.decode import decode_image
    from veridict.forensics.errors import ImageError

    from .served import prepare_as_served

    before = reset_peak()
    started, began = time.perf_counter(), time.process_time()
    try:
        image = prepare_as_served(kind.data).observation.image
        answer, fault = "judged", kind.fault_of_size(image.width, image.height, image.frames)
    except ImageError as error:
        answer, fault = error.code, kind.fault_of_refusal(error.code)
    except Exception as error:  # what no image may raise
        answer, fault = "crashed", f"{type(error).__name__}: {error}"
    wall, spent = time.perf_counter() - started, time.process_time() - began
    peak = read_status("VmHWM")
    if answer == "judged" and not fault and kind.shown is not None:
        fault = kind.fault_of_pixels(decode_image(kind.data).pixels)
    held = max(0.0, peak - before)
    return Measured(kind.name, len(kind.data), answer, fault, spent * 1e3, wall * 1e3, held, kind.large)


def _serve(pipe: multiprocessing.connection.Connection) -> None:
    from .served import get_ready

    get_ready()
    while True:
        try:
            kind = pipe.recv()
        except EOFError:
            return
        pipe.send(answer_kind(kind))


class _Child:
    """A process that prepares one image at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def answer(self, kind: Kind) -> Measured:
        """Return the answer; a process that died or hung is the fault of the kind."""
        fault = "hung"
        try:
            self._pipe.send(kind)
            if self._pipe.poll(_HANG):
                answer: Measured = self._pipe.recv()
                return answer
        except (EOFError, OSError):
            self._process.join()
            fault = f"the process ended with status {self._process.exitcode}"
        return Measured(kind.name, len(kind.data), "died", fault)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.kill()
        self._process.join()


def measure_all(kinds: Iterable[Kind]) -> Iterator[Measured]:
    """Yield the answer to every kind; one above the limits is measured again, and the fastest run counts."""
    child = _Child()
    try:
        for kind in kinds:
            measured = child.answer(kind)
            for _ in range(_ATTEMPTS - 1):
                if measured.within_limits and measured.answer != "died":
                    break
                child.close()
                child = _Child()
                again = child.answer(kind)
                measured = again if again.cpu_ms <= measured.cpu_ms else measured
            yield measured
    finally:
        child.close()
