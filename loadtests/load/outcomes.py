"""The outcome of every request of a load test, and the figures computed from the outcomes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .arrivals import ScheduledPhase

#: The outcomes; a request has exactly one. ``refused``: the error code for an invalid file. ``rejected``: overload.
#: ``mismatched``: an answer with another request's id or sha256. ``error``: what must not happen (no connection,
#: internal failure, ...).
OUTCOME_KINDS = ("answered", "refused", "rejected", "deadline", "mismatched", "error")
#: Code of a request that the client's throttle did not send, since the server had rejected most of the previous ones.
HELD_BACK = "client.throttled"
#: Consecutive healthy windows that count as recovered.
_HEALTHY_WINDOWS = 3


@dataclass(frozen=True)
class Request:
    """A planned request: its id, when it is due (seconds from the start) and the index of the sample it sends."""

    id: str
    due: float
    sample: int


@dataclass(frozen=True)
class Outcome:
    """The outcome of a request; times are seconds from the start of the run, ``code`` is that of an error, else ""."""

    id: str
    due: float
    sent: float
    ended: float
    kind: str
    sample: int
    code: str = ""

    @property
    def latency(self) -> float:
        """Return the seconds from when the request was due, which includes the generator's own lag."""
        return self.ended - self.due


def to_json_line(outcome: Outcome) -> str:
    """Return the outcome as a line of JSON."""
    return json.dumps(asdict(outcome)) + "\n"


def read_outcomes(path: Path) -> list[Outcome]:
    """Return the outcomes of a JSON-lines file: none if it does not exist; an incomplete last line is ignored."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [Outcome(**json.loads(line)) for line in lines if line.endswith("\n")]


@dataclass(frozen=True)
class Reconciliation:
    """Planned requests compared with outcomes.

    ``counts`` has the outcomes by kind. ``lost`` are ids without an outcome, ``duplicated`` ids with several, and
    ``unknown`` ids that were not planned.
    """

    sent: int
    counts: dict[str, int]
    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    unknown: tuple[str, ...]


def reconcile(requests: Sequence[Request], outcomes: Sequence[Outcome]) -> Reconciliation:
    """Compare the planned requests with the outcomes."""
    seen = Counter(o.id for o in outcomes)
    planned = {r.id for r in requests}
    by_kind = Counter(o.kind for o in outcomes)
    return Reconciliation(
        sent=len(requests),
        counts={kind: by_kind.get(kind, 0) for kind in OUTCOME_KINDS},
        lost=tuple(r.id for r in requests if r.id not in seen),
        duplicated=tuple(name for name, times in seen.items() if times > 1),
        unknown=tuple(name for name in seen if name not in planned),
    )


def percentile_ms(seconds: Iterable[float], q: float) -> float | None:
    """Return the ``q``-th percentile in milliseconds; None without values."""
    values = list(seconds)
    return 1e3 * float(np.percentile(values, q)) if values else None


def recovery_seconds(
    outcomes: Sequence[Outcome], phases: Sequence[ScheduledPhase], window: float = 1.0
) -> float | None:
    """Return the seconds from the end of the last measured phase to recovery; None if never, or if no phase follows.

    A window of requests is healthy when all are answered and their median latency is at most twice that of the phase
    before the load rose. Recovery is the start of the first of three consecutive healthy windows.
    """
    last = max((i for i, phase in enumerate(phases) if phase.measured), default=-1)
    if last < 1 or last + 1 >= len(phases):
        return None
    before, after = phases[last - 1], phases[-1]
    usual = percentile_ms((o.latency for o in _due_within(outcomes, before) if o.kind == "answered"), 50)
    if usual is None:
        return None
    healthy = 0
    for number in range(int((after.ends - phases[last].ends) / window)):
        begins = phases[last].ends + number * window
        inside = [o for o in outcomes if begins <= o.due < begins + window]
        median = percentile_ms((o.latency for o in inside), 50)
        good = median is not None and median <= 2 * usual and all(o.kind == "answered" for o in inside)
        healthy = healthy + 1 if good else 0
        if healthy == _HEALTHY_WINDOWS:
            return (number + 1 - _HEALTHY_WINDOWS) * window
    return None


def _due_within(outcomes: Iterable[Outcome], phase: ScheduledPhase) -> list[Outcome]:
    return [o for o in outcomes if phase.begins <= o.due < phase.ends]


def compute_figures(
    requests: Sequence[Request],
    outcomes: Sequence[Outcome],
    phases: Sequence[ScheduledPhase],
    expected_codes: Sequence[Sequence[str]],
    capacity: float,
    judged: int | None = None,
) -> dict[str, float | None]:
    """Return every figure that a threshold can name; None for a figure that this run does not yield.

    ``expected_codes`` has the correct error codes of each sample, none for a valid image; ``judged`` is the number of
    verdicts that the server counted during the run. Latencies and goodput are of the measured phases, the other figures
    of the whole run.
    """
    found = reconcile(requests, outcomes)
    measured = [p for p in phases if p.measured]
    inside = [o for p in measured for o in _due_within(outcomes, p)]
    answered = [o.latency for o in inside if o.kind == "answered"]
    p50, p95, p99 = (percentile_ms(answered, q) for q in (50, 95, 99))
    done = sum(o.kind == "answered" and any(p.begins <= o.ended < p.ends for p in measured) for o in outcomes)
    goodput = done / sum(p.ends - p.begins for p in measured)
    valid = [o for o in outcomes if not expected_codes[o.sample]]
    invalid = [o for o in outcomes if expected_codes[o.sample]]
    # The server may have judged a request that exceeded its deadline, so such a request accounts for one verdict.
    accounted = found.counts["answered"] + found.counts["mismatched"] + found.counts["deadline"]
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "p99_over_p50": p99 / p50 if p50 and p99 else None,
        "goodput": goodput,
        "goodput_over_capacity": goodput / capacity,
        "answered_share": len(answered) / len(inside) if inside else None,
        # Rejections by the server only: what the client's throttle holds back is answered by the client.
        "rejection_p99_ms": percentile_ms(
            (o.latency for o in outcomes if o.kind == "rejected" and o.code != HELD_BACK), 99
        ),
        "held_back": float(sum(o.code == HELD_BACK for o in outcomes)),
        "recovery_seconds": recovery_seconds(outcomes, phases),
        "lost": float(len(found.lost)),
        "duplicated": float(len(found.duplicated) + len(found.unknown)),
        "mismatched": float(found.counts["mismatched"]),
        "deadlines": float(found.counts["deadline"]),
        "errors": float(found.counts["error"]),
        "judged_twice": None if judged is None else float(max(0, judged - accounted)),
        "wrong_refusals": float(sum(o.kind != "refused" or o.code not in expected_codes[o.sample] for o in invalid)),
        "good_unanswered": float(sum(o.kind != "answered" for o in valid)),
        "generator_lag_p99_ms": percentile_ms((o.sent - o.due for o in outcomes), 99),
    }


def figure_names() -> list[str]:
    """Return the names of all figures."""
    phase = ScheduledPhase("", 0.0, 1.0, 1.0, 1.0, True)
    return list(compute_figures([], [], [phase], [], 1.0))
