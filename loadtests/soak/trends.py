"""What grew during a run: slopes by Theil and Sen, which a few odd samples do not move.

The Theil-Sen slope is the median of the slopes between all pairs of points (Sen 1968); up to 29% of the points may be
arbitrarily wrong. Least squares would let one pause of the machine decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import theilslopes

from ..load.outcomes import Outcome, percentile_ms
from .sampling import Sample

#: Latencies are compared in so many windows of the measured time.
WINDOWS = 30
#: A window shorter than this has too few requests for a 99th percentile.
_SHORTEST_WINDOW = 10.0


@dataclass(frozen=True)
class Trend:
    """A straight line through points over seconds: ``start`` + ``slope`` x seconds; 95% interval of the slope."""

    slope: float
    start: float
    low: float
    high: float

    def at(self, seconds: float) -> float:
        """Return the line's value."""
        return self.start + self.slope * seconds


def find_trend(seconds: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Return the Theil-Sen line through points; None for fewer than three."""
    if len(seconds) < 3:
        return None
    slope, start, low, high = theilslopes(values, seconds)
    return Trend(float(slope), float(start), float(low), float(high))


@dataclass(frozen=True)
class Window:
    """The latencies in ms of the verdicts whose requests were due in a part of the run; ``middle`` in seconds."""

    middle: float
    p50: float
    p99: float


def latency_windows(outcomes: Sequence[Outcome], begins: float, ends: float) -> list[Window]:
    """Return the latencies per window; a window without a verdict is left out."""
    count = max(1, min(WINDOWS, int((ends - begins) / _SHORTEST_WINDOW)))
    width = (ends - begins) / count
    inside: list[list[float]] = [[] for _ in range(count)]
    for outcome in outcomes:
        if outcome.kind == "answered" and begins <= outcome.due < ends:
            inside[min(count - 1, int((outcome.due - begins) / width))].append(outcome.latency)
    windows = []
    for number, latencies in enumerate(inside):
        p50, p99 = percentile_ms(latencies, 50), percentile_ms(latencies, 99)
        if p50 is not None and p99 is not None:
            windows.append(Window(begins + (number + 0.5) * width, p50, p99))
    return windows


def growth_figures(
    samples: Sequence[Sample], windows: Sequence[Window], rate: float, seconds: float
) -> dict[str, float | None]:
    """Return the figures of growth for a measured time of ``seconds`` with ``rate`` requests per second.

    Memory: MB per 1,000 requests, with the ends of the 95% interval. Growth over the measured time: of resident and
    shared memory in MB, of regions, processes and handles in number. ``p99_drift``: growth of the 99th percentile over
    the measured time, divided by its value at the beginning.
    """
    times = [sample.seconds for sample in samples]

    def trend(name: str) -> Trend | None:
        return find_trend(times, [getattr(sample, name) for sample in samples])

    figures: dict[str, float | None] = {}
    for name in ("rss", "pss"):
        line = trend(name)
        for part in ("slope", "low", "high"):
            suffix = "" if part == "slope" else f"_{part}"
            figures[f"{name}_mb_per_1000{suffix}"] = 1000 * getattr(line, part) / rate if line is not None else None
    for name in ("rss", "shared_memory", "regions", "processes", "handles"):
        line = trend(name)
        figures[f"{name}_growth"] = line.slope * seconds if line is not None else None
    late = find_trend([window.middle for window in windows], [window.p99 for window in windows])
    first = late.at(windows[0].middle) if late is not None else 0.0
    figures["p99_drift"] = late.slope * seconds / first if late is not None and first > 0 else None
    return figures
