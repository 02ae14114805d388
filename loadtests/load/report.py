"""A load test as one HTML file: thresholds, latency and outcomes over time. It has no script and loads nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from veridict.explain.reports.html import render_template

from .outcomes import OUTCOME_KINDS, Outcome, percentile_ms
from .result import LoadTestResult

TEMPLATE = Path(__file__).parent / "report.html"
#: The plot area in SVG units, without the axis labels.
WIDTH, HEIGHT = 900.0, 220.0
_MAX_BINS = 180
COLOURS = {
    "answered": "#2166ac",
    "refused": "#92c5de",
    "rejected": "#f4a582",
    "deadline": "#b2182b",
    "mismatched": "#762a83",
    "error": "#1c2430",
}
#: Line of the latency plot -> outcome, percentile of its latencies, colour.
_SERIES = {
    "p50 of verdicts": ("answered", 50, "#4393c3"),
    "p99 of verdicts": ("answered", 99, "#053061"),
    "p99 of rejections": ("rejected", 99, "#d6604d"),
}
#: The steps of a scale, times a power of ten.
_STEPS = (1, 2, 5, 10)


def bin_width(seconds: float) -> float:
    """Return a round number of seconds, at least 0.1, that divides a run into at most 180 bins."""
    smallest = seconds / _MAX_BINS
    power = 10.0 ** math.floor(math.log10(smallest)) if smallest > 0 else 0.1
    return max(0.1, next(s * power for s in _STEPS if s * power >= smallest * (1 - 1e-9)))


def ticks(top: float, most: int = 6) -> list[float]:
    """Return round numbers from 0 up to ``top``, at most ``most`` + 1 of them."""
    power = 10.0 ** math.floor(math.log10(top / most))
    step = next(s * power for s in _STEPS if s * power * most >= top * (1 - 1e-9))
    return [step * i for i in range(int(top / step + 1e-9) + 1)]


def latency_lines(outcomes: Sequence[Outcome], seconds: float, width: float) -> dict[str, Any]:
    """Return the lines and labels of the latency plot: milliseconds on a logarithmic axis, per bin of due time."""
    bins = math.ceil(seconds / width)
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in _SERIES}
    for number in range(bins):
        inside = [o for o in outcomes if number * width <= o.due < (number + 1) * width]
        for name, (kind, q, _) in _SERIES.items():
            value = percentile_ms((o.latency for o in inside if o.kind == kind), q)
            if value is not None:
                points[name].append(((number + 0.5) * width, max(value, 0.1)))
    values = [value for line in points.values() for _, value in line] or [1.0, 10.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    scale = HEIGHT / max(1, high - low)
    lines = {
        name: " ".join(f"{WIDTH * t / seconds:.1f},{HEIGHT - (math.log10(v) - low) * scale:.1f}" for t, v in line)
        for name, line in points.items()
    }
    labels = [(HEIGHT - (power - low) * scale, f"{10.0**power:g}") for power in range(low, high + 1)]
    return {"lines": lines, "labels": labels}


def outcome_bars(outcomes: Sequence[Outcome], seconds: float, width: float) -> dict[str, Any]:
    """Return the stacked bars and labels of the outcome plot: requests per second by outcome, per bin of due time."""
    bins = math.ceil(seconds / width)
    counts = [dict.fromkeys(OUTCOME_KINDS, 0) for _ in range(bins)]
    for o in outcomes:
        counts[min(bins - 1, int(o.due / width))][o.kind] += 1
    marks = ticks(max([sum(c.values()) for c in counts] + [1]) / width)
    top = max(marks[-1], max(sum(c.values()) for c in counts) / width)
    bars = []
    for number, count in enumerate(counts):
        base = HEIGHT
        for kind in OUTCOME_KINDS:
            height = HEIGHT * count[kind] / width / top
            base -= height
            if count[kind]:
                left = WIDTH * number * width / seconds
                bars.append({"x": left, "y": base, "w": WIDTH * width / seconds, "h": height, "colour": COLOURS[kind]})
    return {"bars": bars, "labels": [(HEIGHT - HEIGHT * m / top, f"{m:g}") for m in marks]}


def render_report(result: LoadTestResult) -> str:
    """Return the result as an HTML document.

    Raises:
        ImportError: jinja2 is not installed.
    """
    seconds = result.phases[-1].ends
    width = bin_width(seconds)
    return render_template(
        TEMPLATE,
        result=result,
        width=WIDTH,
        height=HEIGHT,
        bin=width,
        latency=latency_lines(result.outcomes, seconds, width),
        outcomes=outcome_bars(result.outcomes, seconds, width),
        colours=COLOURS,
        line_colours={name: colour for name, (_, _, colour) in _SERIES.items()},
        times=[(WIDTH * t / seconds, f"{t:g}") for t in ticks(seconds, 10)],
        phases=[(WIDTH * p.begins / seconds, WIDTH * (p.ends - p.begins) / seconds, p) for p in result.phases],
    )
