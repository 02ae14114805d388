"""Times decoding and the three forensic measurements on one thread, ours and the textbook's in turn."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2

from veridict.forensics.decode import decode_image
from veridict.forensics.measure import to_working_size
from veridict.forensics.pixels import to_luma
from veridict.forensics.signals import measure_signals

from ..sample_images import DETAILED_NOISE, SIZES, photograph
from ..tables import Comparison, compare_rounds, format_number, markdown_table
from .peers import textbook

#: The sizes whose cost is compared: 2.1 and 12 megapixels.
SMALL, LARGE = "1920x1080", "4000x3000"
#: The same images in files several times as large, as a camera writes them.
DETAILED_SMALL, DETAILED_LARGE = f"{SMALL}, detailed", f"{LARGE}, detailed"
SPEED_TARGET = 4.0
#: Upper bound for growth of the cost / growth of the pixels, from SMALL to LARGE.
GROWTH_TARGET = 0.5


@dataclass
class ForensicsTimes:
    """Milliseconds per call: for each implementation the medians of the rounds.

    ``nlm`` is one call of the textbook's measurements with non-local means.
    """

    ours: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    textbook: list[float] = field(default_factory=list)
    nlm: float = 0.0


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit OpenCV to one thread; the JPEG codecs, and numpy in this code, use one thread anyway."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _measure_ours(data: bytes) -> object:
    image = decode_image(data)
    return measure_signals({"file": image, "luma": to_working_size(to_luma(image.preview))})


#: The functions that are timed on each file, in the order of the lists of :class:`ForensicsTimes`.
_TIMED: tuple[Callable[[bytes], object], ...] = (_measure_ours, decode_image, textbook.measure)


def _milliseconds(work: Callable[[bytes], object], data: bytes) -> float:
    started = time.perf_counter()
    work(data)
    return 1e3 * (time.perf_counter() - started)


def compared_images() -> dict[str, bytes]:
    """Return the JPEG files that are measured, by name."""
    small, large = SIZES[SMALL], SIZES[LARGE]
    return {
        SMALL: photograph(*small),
        LARGE: photograph(*large),
        DETAILED_SMALL: photograph(*small, DETAILED_NOISE),
        DETAILED_LARGE: photograph(*large, DETAILED_NOISE),
    }


def time_forensics(files: Mapping[str, bytes], rounds: int, seconds: float) -> dict[str, ForensicsTimes]:
    """Return the times per JPEG file; non-local means run once, since they take seconds.

    A round lasts ``seconds`` per file and takes the files in turn again and again, so that a slow moment of the machine
    affects all of them alike.
    """
    found = {name: ForensicsTimes() for name in files}
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


def compare_forensics(found: dict[str, ForensicsTimes]) -> list[Comparison]:
    """Return our speed over the textbook's at 1920x1080, and how the cost grows from there to 12 megapixels."""
    speed = [theirs / ours for theirs, ours in zip(found[SMALL].textbook, found[SMALL].ours, strict=True)]
    what = "textbook / ours: decode, ELA, blur, noise, one thread"
    return [
        compare_rounds(what, SMALL, speed, SPEED_TARGET),
        _growth(found, SMALL, LARGE),
        _growth(found, DETAILED_SMALL, DETAILED_LARGE),
    ]


def _growth(found: dict[str, ForensicsTimes], small: str, large: str) -> Comparison:
    """Return the growth of the cost over the growth of the pixels."""
    pixels = SIZES[LARGE][0] * SIZES[LARGE][1] / (SIZES[SMALL][0] * SIZES[SMALL][1])
    growth = [b / a / pixels for a, b in zip(found[small].ours, found[large].ours, strict=True)]
    what = f"growth of that cost / growth of the pixels ({pixels:.1f}x)"
    return compare_rounds(what, f"{small} to {large}", growth, GROWTH_TARGET, at_least=False)


def forensics_table(found: dict[str, ForensicsTimes]) -> str:
    """Return the Markdown table of milliseconds per image."""
    header = (
        "image",
        "ours, ms",
        "ours, decoding only, ms",
        "textbook, ms",
        "textbook / ours",
        "textbook with non-local means, ms",
        "textbook with non-local means / ours",
    )
    lines = []
    for size, times in found.items():
        ours, theirs = statistics.median(times.ours), statistics.median(times.textbook)
        lines.append(
            (
                size,
                format_number(ours, 2),
                format_number(statistics.median(times.decode), 2),
                format_number(theirs),
                format_number(theirs / ours),
                format_number(times.nlm, 0),
                format_number(times.nlm / ours, 0),
            )
        )
    return markdown_table(header, lines)
