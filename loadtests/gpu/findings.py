"""What ``veridict gpu-check`` finds, and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from veridict.export.convert.engines import Engine
from veridict.export.convert.parity import Parity

from ..machine import describe_machine
from ..tables import Row, markdown, serving_table, show
from .matrix_rate import MatrixRate, tflops

_LONGEST = 300
_HOW_MEASURED = (
    "Random pixels that lie on the device already; copies to and from it are not timed. images/s and TFLOP/s are of "
    "batches back to back, by CUDA events; latency is of a batch alone, from its start by the host to its end. TFLOP/s "
    "counts two operations per multiply-add of matrix products and convolutions. A text counts as an image."
)


@dataclass(frozen=True)
class Gpu:
    """What ``nvidia-smi`` says of one GPU."""

    name: str
    compute_capability: str
    driver: str
    memory: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.name}, compute capability {self.compute_capability}, driver {self.driver}, {self.memory}"


@dataclass(frozen=True)
class Outcome:
    """How a step went; ``failed`` also where it was not run because a step it needs failed."""

    step: str
    outcome: str
    seconds: float
    failed: bool = False
    skipped: bool = False


@dataclass(frozen=True)
class EngineRate:
    """One engine at one batch size: milliseconds per batch back to back, and latencies of a batch alone.

    ``flops`` are the operations of one batch.
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
        """Return the rate of batches that run back to back."""
        return 1e3 * self.batch / self.milliseconds

    @property
    def tflops(self) -> float:
        """Return 10^12 operations per second, back to back."""
        return tflops(self.flops, self.milliseconds)


@dataclass
class Findings:
    """What the steps found so far."""

    gpus: list[Gpu]
    matrix: list[MatrixRate] = field(default_factory=list)
    parities: list[Parity] = field(default_factory=list)
    engines: list[Engine] = field(default_factory=list)
    rates: list[EngineRate] = field(default_factory=list)
    served: list[Row] = field(default_factory=list)


def share(rate: EngineRate, matrix: Sequence[MatrixRate]) -> float | None:
    """Return what part of the chip's matrix rate at the same precision an engine reaches; None if that is unknown."""
    found = [m.tflops for m in matrix if m.precision == rate.precision and m.tflops > 0]
    return rate.tflops / found[0] if found else None


def to_markdown(command: str, findings: Findings, outcomes: Sequence[Outcome], versions: str) -> str:
    """Return the report: the steps first, then every table there is something to put in."""
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    cells = [(o.step, cell(o.outcome), show(o.seconds)) for o in outcomes]
    parts = [
        "# GPU check",
        f"`{command}`, {today}.\n\nMachine: {describe_machine()}.\n\nGPU: {'; '.join(map(str, findings.gpus))}.\n\n"
        f"Versions: {versions}.",
        markdown(("step", "outcome", "seconds"), cells),
    ]
    if findings.parities:
        parts += ["## Parity of the engines to PyTorch in fp32", parity_table(findings.parities)]
    if findings.rates:
        parts += ["## Engines", _HOW_MEASURED, rate_table(findings.rates, findings.matrix)]
    if findings.served:
        parts += ["## Served, through the client library", serving_table(findings.served)]
    return "\n\n".join(parts) + "\n"


def cell(text: str) -> str:
    """Return a text that fits a table's cell: one line without bars, cut where a server's log would follow."""
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 4] + " ..."


def parity_table(parities: Sequence[Parity]) -> str:
    """Return the Markdown table of parities."""
    lines = [
        (p.model, p.output, p.precision, f"{p.lowest_cosine:.6f}", f"{p.agreement:.1%}", str(p.rows)) for p in parities
    ]
    return markdown(("network", "output", "precision", "lowest cosine", "same decision", "inputs"), lines)


def rate_table(rates: Sequence[EngineRate], matrix: Sequence[MatrixRate]) -> str:
    """Return the Markdown table of engines; "-" where the chip's rate is unknown."""
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
        part = share(r, matrix)
        of_chip = "-" if part is None else f"{part:.1%}"
        figures = (show(r.images_per_second, 0), show(r.p50, 2), show(r.p99, 2), show(r.tflops, 2), of_chip)
        lines.append((r.network, r.precision, str(r.batch), *figures))
    return markdown(header, lines)
