"""The findings of ``veridict gpu-check`` and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from veridict.export.convert.engines import Engine
from veridict.export.convert.parity import Parity

from ..machine import describe_machine
from ..tables import ServingRow, format_number, markdown_table, serving_table
from .matrix_rate import MatrixRate, tflops

#: Longest text of a table cell in characters: an error message may contain a server's log.
_LONGEST = 300
_HOW_MEASURED = (
    "Random pixels that are on the device already; copies to and from it are not timed. images/s and TFLOP/s are of "
    "batches back to back, by CUDA events; latency is of a single batch, from its launch by the host to its end. "
    "TFLOP/s counts two operations per multiply-add of matrix products and convolutions. A text counts as an image."
)


@dataclass(frozen=True)
class Gpu:
    """One GPU as ``nvidia-smi`` describes it."""

    name: str
    compute_capability: str
    driver: str
    memory: str

    def __str__(self) -> str:
        """Return the GPU in words."""
        return f"{self.name}, compute capability {self.compute_capability}, driver {self.driver}, {self.memory}"


@dataclass(frozen=True)
class StepOutcome:
    """The outcome of a step; ``failed`` is also True if it was not run because a step that it needs failed."""

    step: str
    outcome: str
    seconds: float
    failed: bool = False
    skipped: bool = False


@dataclass(frozen=True)
class EngineRate:
    """One engine at one batch size.

    ``milliseconds`` is the time per batch back to back; ``p50`` and ``p99`` are the latencies of single batches in
    milliseconds; ``flops`` is the number of operations of one batch.
    """

    network: str
    precision: str
    batch: int
    milliseconds: float
    p50: float
    p99: float
    flops: int

    @property
    def images_per_second(self) -> float:
        """Return the throughput of batches back to back."""
        return 1e3 * self.batch / self.milliseconds

    @property
    def tflops(self) -> float:
        """Return 10^12 operations per second of batches back to back."""
        return tflops(self.flops, self.milliseconds)


@dataclass
class Findings:
    """The results of the steps so far."""

    gpus: list[Gpu]
    matrix: list[MatrixRate] = field(default_factory=list)
    parities: list[Parity] = field(default_factory=list)
    engines: list[Engine] = field(default_factory=list)
    rates: list[EngineRate] = field(default_factory=list)
    served: list[ServingRow] = field(default_factory=list)


def matrix_rate_share(rate: EngineRate, matrix: Sequence[MatrixRate]) -> float | None:
    """Return an engine's rate over the GPU's matrix rate at the same precision; None if the latter is unknown."""
    found = [m.tflops for m in matrix if m.precision == rate.precision and m.tflops > 0]
    return rate.tflops / found[0] if found else None


def to_markdown(command: str, findings: Findings, outcomes: Sequence[StepOutcome], versions: str) -> str:
    """Return the report: the steps first, then every table that has rows."""
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    cells = [(o.step, table_cell(o.outcome), format_number(o.seconds)) for o in outcomes]
    parts = [
        "# GPU check",
        f"`{command}`, {today}.\n\nMachine: {describe_machine()}.\n\nGPU: {'; '.join(map(str, findings.gpus))}.\n\n"
        f"Versions: {versions}.",
        markdown_table(("step", "outcome", "seconds"), cells),
    ]
    if findings.parities:
        parts += ["## Parity of the engines to PyTorch in fp32", parity_table(findings.parities)]
    if findings.rates:
        parts += ["## Engines", _HOW_MEASURED, rate_table(findings.rates, findings.matrix)]
    if findings.served:
        parts += ["## TritonPipeline, through the client library", serving_table(findings.served)]
    return "\n\n".join(parts) + "\n"


def table_cell(text: str) -> str:
    """Return a text that fits a table cell: one line without bars, cut to 300 characters."""
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 4] + " ..."


def parity_table(parities: Sequence[Parity]) -> str:
    """Return the Markdown table of parities."""
    lines = [
        (p.model, p.output, p.precision, f"{p.lowest_cosine:.6f}", f"{p.agreement:.1%}", str(p.rows)) for p in parities
    ]
    return markdown_table(("network", "output", "precision", "lowest cosine", "same decision", "inputs"), lines)


def rate_table(rates: Sequence[EngineRate], matrix: Sequence[MatrixRate]) -> str:
    """Return the Markdown table of engines; "-" where the GPU's matrix rate is unknown."""
    header = (
        "network",
        "precision",
        "batch",
        "images/s",
        "latency p50 ms",
        "latency p99 ms",
        "TFLOP/s",
        "share of matrix rate",
    )
    lines = []
    for r in rates:
        share = matrix_rate_share(r, matrix)
        of_matrix_rate = "-" if share is None else f"{share:.1%}"
        figures = (
            format_number(r.images_per_second, 0),
            format_number(r.p50, 2),
            format_number(r.p99, 2),
            format_number(r.tflops, 2),
            of_matrix_rate,
        )
        lines.append((r.network, r.precision, str(r.batch), *figures))
    return markdown_table(header, lines)
