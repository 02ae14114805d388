"""When the requests of a load test are due: profiles as data, in multiples of the server's capacity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Phase:
    """A stretch of a profile: ``seconds`` long, from ``start`` to ``end`` times capacity (linear in between).

    The figures of a run come from its ``measured`` phases; the others warm up or show the recovery.
    """

    name: str
    seconds: float
    start: float
    end: float
    measured: bool = False


@dataclass(frozen=True)
class Profile:
    """A load test: its phases, which ``images`` it sends (a set of :mod:`.images`), and what it is for."""

    summary: str
    phases: tuple[Phase, ...]
    images: str = "photo"


def _level(name: str, seconds: float, factor: float, measured: bool = False) -> Phase:
    return Phase(name, seconds, factor, factor, measured)


#: Profile names as the command line takes them. Durations are scaled by ``--scale``.
PROFILES = {
    "steady": Profile(
        "80% of capacity for a minute", (_level("warm-up", 10, 0.5), _level("steady", 60, 0.8, measured=True))
    ),
    "ramp": Profile(
        "from a tenth of capacity to all of it in a minute",
        (Phase("ramp", 60, 0.1, 1.0, True), _level("after", 15, 0.5)),
    ),
    "spike": Profile(
        "three times capacity for five seconds",
        (_level("before", 15, 0.5), _level("spike", 5, 3.0, measured=True), _level("after", 25, 0.5)),
    ),
    "overload": Profile(
        "twice capacity for two minutes",
        (_level("before", 15, 0.5), _level("overload", 120, 2.0, measured=True), _level("after", 25, 0.5)),
    ),
    "mixed-sizes": Profile(
        "70% of capacity, from 320x240 to 12 megapixels",
        (_level("warm-up", 10, 0.5), _level("mixed", 60, 0.7, measured=True)),
        images="sizes",
    ),
    "mixed-bad-input": Profile(
        "70% of capacity, every fourth file damaged or of a wrong kind",
        (_level("warm-up", 10, 0.5), _level("mixed", 45, 0.7, measured=True)),
        images="damaged",
    ),
}


@dataclass(frozen=True)
class Span:
    """Where a phase lies in a run, in seconds from its start, and the requests per second asked for at its ends."""

    name: str
    begins: float
    ends: float
    first_rate: float
    last_rate: float
    measured: bool


def lay_out(phases: Sequence[Phase], capacity: float, scale: float = 1.0) -> list[Span]:
    """Return the phases one after the other; ``capacity`` in requests per second, durations times ``scale``.

    Raises:
        ValueError: capacity or scale is not positive.
    """
    if not (capacity > 0 and scale > 0 and math.isfinite(capacity * scale)):
        raise ValueError(f"capacity and scale must be positive, not {capacity:g} and {scale:g}")
    spans, begins = [], 0.0
    for phase in phases:
        ends = begins + phase.seconds * scale
        spans.append(Span(phase.name, begins, ends, phase.start * capacity, phase.end * capacity, phase.measured))
        begins = ends
    return spans


def schedule(spans: Sequence[Span], poisson: bool = False, seed: int = 0) -> list[float]:
    """Return the arrival times in seconds, ascending: evenly spaced at the asked rate, or a Poisson process of it.

    The times are fixed before the first request is sent. A generator that waits for answers before it sends more lets a
    slow server slow the load down, and the requests that would have suffered most are never sent (coordinated
    omission, Gil Tene); here a late answer changes nothing about the next arrival, and latency counts from the
    scheduled time.
    """
    rng = np.random.default_rng(seed)
    times: list[float] = []
    due = float(rng.exponential()) if poisson else 0.0  # in expected arrivals since the span began
    for span in spans:
        length = span.ends - span.begins
        total = (span.first_rate + span.last_rate) / 2 * length
        while due < total:
            times.append(span.begins + _invert(due, span, length))
            due += float(rng.exponential()) if poisson else 1.0
        due -= total
    return times


def _invert(count: float, span: Span, length: float) -> float:
    """Return the seconds into the span by which ``count`` arrivals are expected."""
    slope = (span.last_rate - span.first_rate) / length
    if abs(slope) < 1e-12:
        return count / span.first_rate
    return (math.sqrt(span.first_rate**2 + 2 * slope * count) - span.first_rate) / slope
