"""The result of a load test, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .arrivals import ScheduledPhase
from .generator import LocustStatistics
from .outcomes import Outcome, Reconciliation
from .thresholds import Check, format_checks


@dataclass(frozen=True)
class LoadTestResult:
    """A finished load test: the planned load, the outcome of every request, the figures and the threshold checks."""

    profile: str
    machine: str
    capacity: float
    capacity_measured: bool
    phases: list[ScheduledPhase]
    outcomes: list[Outcome]
    reconciliation: Reconciliation
    figures: dict[str, float | None]
    checks: list[Check]
    locust_statistics: list[LocustStatistics]

    @property
    def passed(self) -> bool:
        """Return whether every threshold held."""
        return all(c.passed for c in self.checks)


def format_result(result: LoadTestResult) -> str:
    """Return the result as text: request counts, the main figures and the thresholds."""
    how = "measured" if result.capacity_measured else "given"
    found = result.reconciliation
    by_kind = ", ".join(f"{count} {kind}" for kind, count in found.counts.items() if count)
    counts = f"{found.sent} sent: {by_kind}; {len(found.lost)} lost, {len(found.duplicated)} duplicated"
    if held_back := result.figures["held_back"]:
        counts += f"; the client's throttle held back {held_back:.0f} of the rejected"
    parts = [f"goodput {result.figures['goodput']:.1f}/s"]
    for name in ("p50", "p95", "p99"):
        value = result.figures[f"{name}_ms"]
        if value is not None:
            parts.append(f"{name} {value:.0f} ms")
    verdict = "PASS" if result.passed else "FAIL"
    return (
        f"`veridict loadtest {result.profile}` on {result.machine}; capacity {result.capacity:.1f}/s ({how})\n\n"
        f"{counts}\nmeasured phase: {', '.join(parts)}\n\n{format_checks(result.checks)}\n\n{verdict}"
    )


def to_document(result: LoadTestResult) -> dict[str, object]:
    """Return the result as a document for JSON, without the single outcomes."""
    return {
        "profile": result.profile,
        "machine": result.machine,
        "capacity": result.capacity,
        "capacity_measured": result.capacity_measured,
        "phases": [asdict(s) for s in result.phases],
        "requests": asdict(result.reconciliation),
        "figures": result.figures,
        "thresholds": [
            {"figure": c.threshold.figure, "bound": str(c.threshold), "measured": c.measured, "passed": c.passed}
            for c in result.checks
        ],
        "locust": [asdict(s) for s in result.locust_statistics],
        "passed": result.passed,
    }
