"""Arrival times of a load test: profiles as data, with rates in multiples of the server's capacity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Phase:
    """A phase of a profile, ``seconds`` long: its arrival rate goes linearly from ``start`` to ``end`` times capacity.

    The figures of a run come from its ``measured`` phases; the others warm up or show the recovery.
    """

    name: str
    seconds: float
    start: float
    end: float
    measured: bool = False


@dataclass(frozen=True)
class Profile:
    """A load test: what it is for, its phases, and the name of the sample set that it sends (see :mod:`.payloads`)."""

    summary: str
    phases: tuple[Phase, ...]
    samples: str = "photo"


def _constant(name: str, seconds: float, factor: float, measured: bool = False) -> Phase:
    return Phase(name, seconds, factor, factor, measured)


#: Profile names as the command line takes them. Durations are multiplied by ``--scale``.
PROFILES = {
    "steady": Profile(
        "80% of capacity for a minute", (_constant("warm-up", 10, 0.5), _constant("steady", 60, 0.8, measured=True))
    ),
    "ramp": Profile(
        "from a tenth of capacity to full capacity in a minute",
        (Phase("ramp", 60, 0.1, 1.0, True), _constant("after", 15, 0.5)),
    ),
    "spike": Profile(
        "three times capacity for five seconds",
        (_constant("before", 15, 0.5), _constant("spike", 5, 3.0, measured=True), _constant("after", 25, 0.5)),
    ),
    "overload": Profile(
        "twice capacity for two minutes",
        (_constant("before", 15, 0.5), _constant("overload", 120, 2.0, measured=True), _constant("after", 25, 0.5)),
    ),
    "mixed-sizes": Profile(
        "70% of capacity, from 320x240 to 12 megapixels",
        (_constant("warm-up", 10, 0.5), _constant("mixed", 60, 0.7, measured=True)),
        samples="sizes",
    ),
    "mixed-bad-input": Profile(
        "70% of capacity, every fourth file damaged or of a wrong kind",
        (_constant("warm-up", 10, 0.5), _constant("mixed", 45, 0.7, measured=True)),
        samples="damaged",
    ),
}


@dataclass(frozen=True)
class ScheduledPhase:
    """A phase of a run: begin and end in seconds from the run's start, and the arrival rates per second at both."""

    name: str
    begins: float
    ends: float
    first_rate: float
    last_rate: float
    measured: bool


def schedule_phases(phases: Sequence[Phase], capacity: float, scale: float = 1.0) -> list[ScheduledPhase]:
    """Return the phases one after the other for a ``capacity`` in requests per second, durations times ``scale``.

    Raises:
        ValueError: capacity or scale is not positive.
    """
    if not (capacity > 0 and scale > 0 and math.isfinite(capacity * scale)):
        raise ValueError(f"capacity and scale must be positive, not {capacity:g} and {scale:g}")
    scheduled, begins = [], 0.0
    for phase in phases:
        ends = begins + phase.seconds * scale
        rates = phase.start * capacity, phase.end * capacity
        scheduled.append(ScheduledPhase(phase.name, begins, ends, *rates, phase.measured))
        begins = ends
    return scheduled


def arrival_times(phases: Sequence[ScheduledPhase], poisson: bool = False, seed: int = 0) -> list[float]:
    """Return the arrival times in seconds, ascending: evenly spaced at the arrival rate, or as a Poisson process.

    All times are fixed before the first request is sent (open loop). A generator that waits for answers sends less when
    the server is slow, so the requests that would have suffered most are never sent (coordinated omission, Gil Tene).
    Here a late answer does not delay the next arrival, and latency counts from the scheduled time.
    """
    rng = np.random.default_rng(seed)
    times: list[float] = []
    due = float(rng.exponential()) if poisson else 0.0  # in expected arrivals since the phase began
    for phase in phases:
        length = phase.ends - phase.begins
        total = (phase.first_rate + phase.last_rate) / 2 * length
        while due < total:
            times.append(phase.begins + _seconds_until(due, phase, length))
            due += float(rng.exponential()) if poisson else 1.0
        due -= total
    return times


def _seconds_until(count: float, phase: ScheduledPhase, length: float) -> float:
    """Return the seconds from the phase's begin until ``count`` arrivals are expected."""
    slope = (phase.last_rate - phase.first_rate) / length
    if abs(slope) < 1e-12:
        return count / phase.first_rate
    return (math.sqrt(phase.first_rate**2 + 2 * slope * count) - phase.first_rate) / slope
