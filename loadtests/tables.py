"""Turns timed blocks into the benchmark's figures and Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .closed_loop import Block


@dataclass(frozen=True)
class ServingRow:
    """One line of the serving table: latency percentiles in milliseconds, memory in MiB, ``cores`` busy on average.

    ``cpu`` is the CPU time in milliseconds per image; a busy machine changes it less than the rate. ``generator`` is
    the load generator's CPU time in milliseconds per image. None means that the pipeline cannot be measured so.
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
class Comparison:
    """A figure compared with its target: the median over the rounds, and the lowest and highest round.

    ``at_least`` says whether the target is a lower bound (True) or an upper bound (False).
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


def summarise_blocks(
    pipeline: str, image: str, concurrency: int, blocks: Sequence[Block], in_process: bool = False
) -> ServingRow:
    """Return a pipeline's blocks as one row: medians over rounds, percentiles over all requests of all rounds.

    With ``in_process`` the pipeline ran in the generator's process, so that process's CPU time is the pipeline's.
    """
    latencies = np.concatenate([np.asarray(b.latencies) for b in blocks])
    p50, p95, p99 = (float(v) for v in np.percentile(latencies, (50, 95, 99)))
    spent = [b.generator_cpu if in_process else b.server_cpu for b in blocks]
    cores = [cpu / b.seconds for cpu, b in zip(spent, blocks, strict=True) if cpu is not None]
    each = [1e3 * cpu / b.images for cpu, b in zip(spent, blocks, strict=True) if cpu is not None]
    memory = [b.memory for b in blocks if b.memory is not None]
    return ServingRow(
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


def compare_rates(what: str, image: str, ours: Sequence[Block], theirs: Sequence[Block], target: float) -> Comparison:
    """Return our images per second over theirs, round by round.

    Where they have fewer rounds, every round of ours is compared with the median of theirs.
    """
    if len(ours) == len(theirs):
        values = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
    else:
        base = statistics.median(b.rate for b in theirs)
        values = [a.rate / base for a in ours]
    return compare_rounds(what, image, values, target)


def compare_medians(what: str, image: str, ours: Sequence[Block], theirs: Sequence[Block], target: float) -> Comparison:
    """Return our p50 latency minus theirs in milliseconds, round by round; the target is an upper bound."""
    values = [
        statistics.median(a.latencies) - statistics.median(b.latencies) for a, b in zip(ours, theirs, strict=True)
    ]
    return compare_rounds(what, image, values, target, at_least=False, unit=" ms")


def compare_rounds(
    what: str, image: str, values: Sequence[float], target: float, at_least: bool = True, unit: str = ""
) -> Comparison:
    """Return the comparison of a figure, given its value in every round, with a target."""
    return Comparison(what, image, statistics.median(values), min(values), max(values), target, at_least, unit)


def describe_background_load(blocks: Iterable[Block]) -> str:
    """Return a sentence: how many cores other processes kept busy during the blocks."""
    cores = sorted(b.other_cpu / b.seconds for b in blocks)
    return (
        f"Everything else on the machine kept {statistics.median(cores):.2f} cores busy in the median block "
        f"and {cores[-1]:.2f} in the worst one."
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def format_number(value: float | None, digits: int = 1) -> str:
    """Return a number with ``digits`` decimals for a table; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def serving_table(rows: Iterable[ServingRow]) -> str:
    """Return the Markdown table of throughput, latency, CPU time and memory."""
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
            format_number(row.images_per_second),
            format_number(row.p50),
            format_number(row.p95),
            format_number(row.p99),
            str(row.rejected),
            format_number(row.cores, 2),
            format_number(row.cpu),
            format_number(row.rss, 0),
            format_number(row.pss, 0),
            format_number(row.generator, 2),
        )
        for row in rows
    ]
    return markdown_table(header, lines)


def comparison_table(comparisons: Iterable[Comparison]) -> str:
    """Return the Markdown table of comparisons, each with its target and whether the median meets it."""
    header = ("comparison", "image", "median", "lowest to highest round", "target", "met")
    lines = [
        (
            c.what,
            c.image,
            f"{c.value:.2f}{c.unit}",
            f"{c.lowest:.2f} to {c.highest:.2f}",
            f"{'at least' if c.at_least else 'at most'} {c.target:g}{c.unit}",
            "yes" if c.met else "no",
        )
        for c in comparisons
    ]
    return markdown_table(header, lines)
