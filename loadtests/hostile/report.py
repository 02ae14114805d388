"""The results of hostile images and mutants as a Markdown document."""

from __future__ import annotations

from collections.abc import Sequence

from ..machine import describe_machine
from ..tables import format_number, markdown_table
from .live import LiveResult
from .measure import MOST_MIB, MOST_MS, Measured
from .mutant_run import HANG_CPU, MutantResult

_SHOWN = 10


def images_section(measured: Sequence[Measured]) -> str:
    """Return the section on the kinds in process."""
    small = [item for item in measured if not item.large]
    large = [item for item in measured if item.large]
    faults = [f"{item.name}: {item.fault}" for item in measured if item.fault]
    over = [item.name for item in measured if not item.within_limits]
    slowest = sorted(small, key=lambda item: -item.cpu_ms)[:_SHOWN]
    largest = sorted(small, key=lambda item: -item.mib)[:_SHOWN]
    return "\n\n".join(
        [
            "## Every kind in process",
            f"{len(measured)} kinds, {len(faults)} wrong answers, {len(over)} above {MOST_MS:g} ms of CPU time or "
            f"{MOST_MIB:g} MiB. The slowest took {slowest[0].cpu_ms:.0f} ms, the largest held {largest[0].mib:.1f} MiB "
            "beyond what the process had before.",
            *_list("Wrong answers", faults),
            *_list("Above the limits", over),
            "The ten slowest:",
            _table(slowest),
            "The ten largest:",
            _table(largest),
            f"{len(large)} kinds are valid images of 49 million pixels, within the limit of pixels, in small files. "
            "They cost what every image of their size costs:",
            _table(large),
        ]
    )


def list_section(measured: Sequence[Measured]) -> str:
    """Return the section with a line per kind."""
    return "\n\n".join(["## All kinds", _table(measured)])


def live_section(result: LiveResult, own: bool) -> str:
    """Return the section on the kinds that were sent to a server; ``own``: its processes were looked at."""
    processes = " The server's Python processes were the same before and after." if own and not result.faults else ""
    return "\n\n".join(
        [
            "## Every kind to a server",
            f"{result.sent} kinds were sent, eight at a time with two ordinary images. {len(result.faults)} faults; "
            f"{result.neighbours} ordinary images had to get the same verdict as before. {result.repeated} requests "
            f"were sent again after a deadline.{processes}",
            *_list("Faults", result.faults),
        ]
    )


def mutants_section(result: MutantResult, seed: int) -> str:
    """Return the section on mutants."""
    answers = sorted(result.answers.items(), key=lambda item: -item[1])
    return "\n\n".join(
        [
            "## Mutants",
            f"{result.mutants} mutants of seed {seed} in {result.seconds:.0f} s: {len(result.findings)} findings (an "
            f"exception without a code, the end of the process, more than {HANG_CPU:g} s of CPU time, or more than "
            f"{MOST_MIB:g} MiB and 12 bytes per pixel). The slowest took {result.slowest_ms:.0f} ms of CPU time.",
            markdown_table(("answer", "mutants"), [(f"`{name}`", str(count)) for name, count in answers]),
            *_list("Findings", [f"mutant {finding.number}: {finding.what}" for finding in result.findings]),
        ]
    )


def document(sections: Sequence[str], command: str) -> str:
    """Return the whole document."""
    head = f"# Hostile images\n\n`{command}` on {describe_machine()}."
    return "\n\n".join([head, *sections]) + "\n"


def _list(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}:", "\n".join(f"- {line}" for line in lines)] if lines else []


def _table(measured: Sequence[Measured]) -> str:
    rows = [
        (
            item.name,
            f"{item.size:,}",
            f"`{item.answer}`",
            format_number(item.cpu_ms),
            format_number(item.ms),
            format_number(item.mib),
        )
        for item in measured
    ]
    return markdown_table(("kind", "bytes", "answer", "CPU ms", "wall ms", "MiB"), rows)
