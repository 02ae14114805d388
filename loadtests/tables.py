"""From timed blocks to the benchmark's tables: rows, ratios over rounds, Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .closed_loop import Block


@dataclass(frozen=True)
class Row:
    """One line of the serving table: latencies in milliseconds, memory in MiB, ``cores`` busy on average.

    ``cpu`` is CPU time in milliseconds per image, which a busy machine changes less than the rate; ``generator``
    is the load generator's own. None: not measurable for this pipeline.
    """

    pipeline: str
    image: str
    concurrency: int
    images_per_second: float
    p50: float
    p95: float
    p99: float
    rejected: int
    cores: float | None
    cpu: float | None
    rss: float | None
    pss: float | None
    generator: float | None


@dataclass(frozen=True)
class Ratio:
    """A comparison made round by round: the median over the rounds, the extremes, and the target it is held to.

    ``at_least`` says on which side of the target is good.
    """

    what: str
    image: str
    value: float
    lowest: float
    highest: float
    target: float
    at_least: bool = True
    unit: str = ""

    @property
    def met(self) -> bool:
        """Return whether the median meets the target."""
        return self.value >= self.target if self.at_least else self.value <= self.target


def summarise(pipeline: str, image: str, concurrency: int, blocks: Sequence[Block], in_process: bool = False) -> Row:
    """Return the row of a pipeline's blocks: medians over rounds, percentiles over all requests of all rounds.

    ``in_process`` says that the computation ran in the generator's own process: its CPU time is the pipeline's.
    """
    latencies = np.concatenate([np.asarray(b.latencies) for b in blocks])
    p50, p95, p99 = (float(v) for v in np.percentile(latencies, (50, 95, 99)))
    spent = [b.generator_cpu if in_process else b.server_cpu for b in blocks]
    cores = [cpu / b.seconds for cpu, b in zip(spent, blocks, strict=True) if cpu is not None]
    each = [1e3 * cpu / b.images for cpu, b in zip(spent, blocks, strict=True) if cpu is not None]
    memory = [b.memory for b in blocks if b.memory is not None]
    return Row(
        pipeline,
        image,
        concurrency,
        statistics.median(b.rate for b in blocks),
        p50,
        p95,
        p99,
        sum(b.rejected for b in blocks),
        statistics.median(cores) if cores else None,
        statistics.median(each) if each else None,
        max(m.rss for m in memory) if memory else None,
        max(m.pss for m in memory) if memory else None,
        None if in_process else 1e3 * statistics.median(b.generator_cpu / b.images for b in blocks),
    )


def compare_rates(what: str, image: str, ours: Sequence[Block], theirs: Sequence[Block], target: float) -> Ratio:
    """Return our images per second over theirs, round by round; fewer rounds of theirs count by their median."""
    if len(ours) == len(theirs):
        values = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
    else:
        base = statistics.median(b.rate for b in theirs)
        values = [a.rate / base for a in ours]
    return _ratio(what, image, values, target)


def compare_medians(what: str, image: str, ours: Sequence[Block], theirs: Sequence[Block], target: float) -> Ratio:
    """Return our p50 latency minus theirs in milliseconds, round by round; the target is an upper bound."""
    values = [
        statistics.median(a.latencies) - statistics.median(b.latencies) for a, b in zip(ours, theirs, strict=True)
    ]
    ratio = _ratio(what, image, values, target)
    return Ratio(what, image, ratio.value, ratio.lowest, ratio.highest, target, at_least=False, unit=" ms")


def _ratio(what: str, image: str, values: Sequence[float], target: float) -> Ratio:
    return Ratio(what, image, statistics.median(values), min(values), max(values), target)


def describe_noise(blocks: Iterable[Block]) -> str:
    """Return in a sentence how busy everything else kept the machine during the blocks."""
    cores = sorted(b.other_cpu / b.seconds for b in blocks)
    return (
        f"Everything else on the machine kept {statistics.median(cores):.2f} cores busy in the median block "
        f"and {cores[-1]:.2f} in the worst one."
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def show(value: float | None, digits: int = 1) -> str:
    """Return a figure for a table; "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def serving_table(rows: Iterable[Row]) -> str:
    """Return the serving table."""
    header = (
        "pipeline",
        "image",
        "concurrency",
        "images/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "rejected",
        "cores busy",
        "CPU ms/image",
        "RSS MiB",
        "PSS MiB",
        "generator ms/image",
    )
    lines = [
        (
            row.pipeline,
            row.image,
            str(row.concurrency),
            show(row.images_per_second),
            show(row.p50),
            show(row.p95),
            show(row.p99),
            str(row.rejected),
            show(row.cores, 2),
            show(row.cpu),
            show(row.rss, 0),
            show(row.pss, 0),
            show(row.generator, 2),
        )
        for row in rows
    ]
    return markdown(header, lines)


def ratio_table(ratios: Iterable[Ratio]) -> str:
    """Return the table of comparisons, each with its target and whether the median meets it."""
    header = ("comparison", "image", "median", "lowest to highest round", "target", "met")
    lines = [
        (
            r.what,
            r.image,
            f"{r.value:.2f}{r.unit}",
            f"{r.lowest:.2f} to {r.highest:.2f}",
            f"{'at least' if r.at_least else 'at most'} {r.target:g}{r.unit}",
            "yes" if r.met else "no",
        )
        for r in ratios
    ]
    return markdown(header, lines)
