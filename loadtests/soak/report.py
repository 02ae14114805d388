"""The result of a soak run: a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..load.thresholds import format_checks
from ..tables import markdown_table
from .trends import find_trend

if TYPE_CHECKING:
    from .cli import SoakResult

#: Shown as what was gained, since a leak is small beside what the networks need.
_MEMORY = "memory of all processes since the warm-up, MB"
#: Panel of the plot -> its lines: label, attribute of a sample, colour.
_PANELS: dict[str, Sequence[tuple[str, str, str]]] = {
    _MEMORY: (("resident", "rss", "#2166ac"), ("proportional", "pss", "#92c5de")),
    "shared memory, MB": (("regions of the server", "shared_memory", "#1b7837"),),
    "handles": (("file descriptors", "handles", "#762a83"), ("processes", "processes", "#c2a5cf")),
}


def format_result(result: SoakResult) -> str:
    """Return the result as Markdown: the command, the load, what was held at the beginning and the end, the checks."""
    counts = ", ".join(f"{count} {kind}" for kind, count in result.counts.items())
    inside = result.measured
    rows = []
    for label, name in (
        ("resident memory, MB", "rss"),
        ("proportional memory, MB", "pss"),
        ("shared memory, MB", "shared_memory"),
        ("regions of shared memory", "regions"),
        ("processes", "processes"),
        ("file descriptors", "handles"),
    ):
        values = [getattr(sample, name) for sample in inside]
        if values:
            rows.append((label, f"{values[0]:.0f}", f"{values[-1]:.0f}", f"{min(values):.0f}", f"{max(values):.0f}"))
    held = markdown_table(("held by the server", "first", "last", "least", "most"), rows)
    figures = result.figures
    between = f"{_shown(figures['rss_mb_per_1000_low'])} to {_shown(figures['rss_mb_per_1000_high'])}"
    return (
        f"`{result.command}` on {result.machine}; capacity {result.capacity:.1f}/s, load {result.rate:.1f}/s\n\n"
        f"{result.sent} sent: {counts}; measured for {result.seconds:.0f} s after {result.warm_up:.0f} s of warm-up\n\n"
        f"resident memory: {_shown(figures['rss_mb_per_1000'])} MB per 1,000 requests (95% interval {between})\n\n"
        f"latency: p50 {_shown(figures['p50_ms'])} ms, p99 {_shown(figures['p99_ms'])} ms, "
        f"drift of p99 {_percent(figures['p99_drift'])}\n\n"
        f"{held}\n\n{format_checks(result.checks)}\n\n{'PASS' if result.passed else 'FAIL'}"
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}%"


def draw_plot(result: SoakResult, path: Path) -> None:
    """Write the plot as PNG: memory, shared memory, handles and latency over the minutes of the run.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 11), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True)
    ends = result.warm_up + result.seconds
    shown = [sample for sample in result.samples if sample.seconds <= ends]
    minutes = [sample.seconds / 60 for sample in shown]
    for axis, (title, lines) in zip(axes, _PANELS.items(), strict=False):
        for label, name, colour in lines:
            measured = [getattr(sample, name) for sample in result.measured]
            base = measured[0] if title == _MEMORY and measured else 0.0
            shown_label = f"{label}, {base:.0f} MB" if base else label
            axis.plot(minutes, [getattr(sample, name) - base for sample in shown], color=colour, label=shown_label)
            trend = find_trend([sample.seconds for sample in result.measured], measured)
            if trend is not None:
                both = (result.warm_up, ends)
                axis.plot([t / 60 for t in both], [trend.at(t) - base for t in both], color=colour, linestyle="--")
        _finish(axis, title, result.warm_up)
        if title != _MEMORY:
            axis.set_ylim(bottom=0)
    middles = [window.middle / 60 for window in result.windows]
    axes[3].plot(middles, [window.p50 for window in result.windows], color="#4393c3", label="p50")
    axes[3].plot(middles, [window.p99 for window in result.windows], color="#053061", label="p99")
    _finish(axes[3], "latency of verdicts, ms", result.warm_up)
    axes[3].set_ylim(bottom=0)
    axes[3].set_xlabel("minutes from the start; shaded: warm-up; dashed: Theil-Sen line")
    figure.suptitle(f"{result.command}: {result.rate:.1f} requests/s, {result.sent} requests")
    figure.savefig(path, dpi=90)


def _finish(axis: Any, title: str, warm_up: float) -> None:
    axis.axvspan(0, warm_up / 60, color="#f0f0f0")
    axis.set_title(title, loc="left", fontsize=10)
    axis.grid(color="#e5e5e5")
    axis.legend(loc="lower right", fontsize=8)
