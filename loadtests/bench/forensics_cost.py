"""Decoding and the three forensic measurements on one thread: ours in turns with the textbook's."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2

from veridict.forensics.decode import decode_image
from veridict.forensics.measure import measure

from ..sample_images import DETAILED_GRAIN, SIZES, photograph
from ..tables import Ratio, markdown, show
from .peers import textbook

#: The sizes of the comparison and of the growth: 2.1 and 12 megapixels.
SMALL, LARGE = "1920x1080", "4000x3000"
#: The same pictures with several times the bytes, as a camera writes them.
DETAILED_SMALL, DETAILED_LARGE = f"{SMALL}, detailed", f"{LARGE}, detailed"
SPEED_TARGET = 4.0
#: Growth of the cost over growth of the pixels, from SMALL to LARGE.
GROWTH_TARGET = 0.5


@dataclass
class Times:
    """Milliseconds per call of each way, a list per round of medians."""

    ours: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    textbook: list[float] = field(default_factory=list)
    nlm: float = 0.0


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread; the JPEG codecs and numpy's part here have one anyway."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _measure_ours(data: bytes) -> object:
    return measure(decode_image(data))


#: What is timed on each file, in the order of the lists of :class:`Times`.
_TIMED: tuple[Callable[[bytes], object], ...] = (_measure_ours, decode_image, textbook.measure)


def _milliseconds(work: Callable[[bytes], object], data: bytes) -> float:
    started = time.perf_counter()
    work(data)
    return 1e3 * (time.perf_counter() - started)


def compared_pictures() -> dict[str, bytes]:
    """Return the JPEG files that are compared, by name."""
    small, large = SIZES[SMALL], SIZES[LARGE]
    return {
        SMALL: photograph(*small),
        LARGE: photograph(*large),
        DETAILED_SMALL: photograph(*small, DETAILED_GRAIN),
        DETAILED_LARGE: photograph(*large, DETAILED_GRAIN),
    }


def time_forensics(files: Mapping[str, bytes], rounds: int, seconds: float) -> dict[str, Times]:
    """Return the times per JPEG file; the non-local means run once, for they take seconds.

    In a round of ``seconds`` per file every file has its turn again and again, so that all meet the same noise.
    """
    found = {name: Times() for name in files}
    with one_thread():
        for _ in range(rounds):
            taken: dict[str, tuple[list[float], ...]] = {name: ([], [], []) for name in files}
            ends = time.perf_counter() + seconds * len(files)
            while not all(times[0] for times in taken.values()) or time.perf_counter() < ends:
                for name, data in files.items():
                    for times, work in zip(taken[name], _TIMED, strict=True):
                        times.append(_milliseconds(work, data))
            for name, (ours, decode, theirs) in taken.items():
                found[name].ours.append(statistics.median(ours))
                found[name].decode.append(statistics.median(decode))
                found[name].textbook.append(statistics.median(theirs))
        for name, data in files.items():
            found[name].nlm = _milliseconds(functools.partial(textbook.measure, residual="nlm"), data)
    return found


def compare_forensics(found: dict[str, Times]) -> list[Ratio]:
    """Return our speed against the textbook's at 1920x1080, and how the cost grows to 12 megapixels."""
    speed = [theirs / ours for theirs, ours in zip(found[SMALL].textbook, found[SMALL].ours, strict=True)]
    what = "textbook / ours: decode, ELA, blur, noise, one thread"
    return [
        Ratio(what, SMALL, statistics.median(speed), min(speed), max(speed), SPEED_TARGET),
        _growth(found, SMALL, LARGE),
        _growth(found, DETAILED_SMALL, DETAILED_LARGE),
    ]


def _growth(found: dict[str, Times], small: str, large: str) -> Ratio:
    """Return how much faster the cost grows than the pixels."""
    pixels = SIZES[LARGE][0] * SIZES[LARGE][1] / (SIZES[SMALL][0] * SIZES[SMALL][1])
    growth = [b / a / pixels for a, b in zip(found[small].ours, found[large].ours, strict=True)]
    return Ratio(
        f"growth of that cost / growth of the pixels ({pixels:.1f}x)",
        f"{small} to {large}",
        statistics.median(growth),
        min(growth),
        max(growth),
        GROWTH_TARGET,
        at_least=False,
    )


def forensics_table(found: dict[str, Times]) -> str:
    """Return the Markdown table of milliseconds per picture."""
    header = (
        "image",
        "ours, ms",
        "of it decoding, ms",
        "textbook, ms",
        "textbook / ours",
        "textbook with non-local means, ms",
        "that / ours",
    )
    lines = []
    for size, times in found.items():
        ours, theirs = statistics.median(times.ours), statistics.median(times.textbook)
        lines.append(
            (
                size,
                show(ours, 2),
                show(statistics.median(times.decode), 2),
                show(theirs),
                show(theirs / ours),
                show(times.nlm, 0),
                show(times.nlm / ours, 0),
            )
        )
    return markdown(header, lines)
