"""What became of every request of a load test, and the figures that follow from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .arrivals import Span

#: The one outcome a request has. ``refused`` is the typed answer to a bad file; ``mismatched`` is an answer with
#: another request's id or sha256; ``error`` is what must not happen (no connection, internal failure, ...).
KINDS = ("answered", "refused", "rejected", "deadline", "mismatched", "error")
#: Code of a request that the client did not send, since the server refused most of the last ones.
HELD_BACK = "client.throttled"
_HEALTHY_WINDOWS = 3


@dataclass(frozen=True)
class Request:
    """A request of the plan: its id, when it is due (seconds from the start) and which sample it sends."""

    id: str
    due: float
    sample: int


@dataclass(frozen=True)
class Outcome:
    """What became of a request; times in seconds from the start of the run, ``code`` of the error if there was one."""

    id: str
    due: float
    sent: float
    ended: float
    kind: str
    sample: int
    code: str = ""

    @property
    def latency(self) -> float:
        """Return seconds from when the request was due, not from when the generator got round to sending it."""
        return self.ended - self.due


def to_line(outcome: Outcome) -> str:
    """Return the outcome as a line of a ledger: JSON with a newline."""
    return json.dumps(asdict(outcome)) + "\n"


def read_ledger(path: Path) -> list[Outcome]:
    """Return the outcomes of a ledger; none when it was never written. A last line that is cut short does not count."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [Outcome(**json.loads(line)) for line in lines if line.endswith("\n")]


@dataclass(frozen=True)
class Account:
    """The books of a run: outcomes by kind, requests without one (lost) or with two, and ids never sent (unknown)."""

    sent: int
    counts: dict[str, int]
    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    unknown: tuple[str, ...]


def account(requests: Sequence[Request], outcomes: Sequence[Outcome]) -> Account:
    """Return the books; they balance when nothing is lost, duplicated or unknown."""
    seen = Counter(o.id for o in outcomes)
    planned = {r.id for r in requests}
    found = Counter(o.kind for o in outcomes)
    return Account(
        sent=len(requests),
        counts={kind: found.get(kind, 0) for kind in KINDS},
        lost=tuple(r.id for r in requests if r.id not in seen),
        duplicated=tuple(name for name, times in seen.items() if times > 1),
        unknown=tuple(name for name in seen if name not in planned),
    )


def percentile_ms(seconds: Iterable[float], q: float) -> float | None:
    """Return the percentile in milliseconds, or None of nothing."""
    values = list(seconds)
    return 1e3 * float(np.percentile(values, q)) if values else None


def recovery_seconds(outcomes: Sequence[Outcome], spans: Sequence[Span], window: float = 1.0) -> float | None:
    """Return seconds from the end of the last measured span to recovery, or None (never, or no span follows).

    A window of requests is healthy when every one was answered and their median latency is at most twice that of the
    span before the load rose; recovered is the start of the first of three healthy windows in a row.
    """
    last = max((i for i, span in enumerate(spans) if span.measured), default=-1)
    if last < 1 or last + 1 >= len(spans):
        return None
    before, after = spans[last - 1], spans[-1]
    usual = percentile_ms((o.latency for o in _within(outcomes, before) if o.kind == "answered"), 50)
    if usual is None:
        return None
    healthy = 0
    for number in range(int((after.ends - spans[last].ends) / window)):
        begins = spans[last].ends + number * window
        inside = [o for o in outcomes if begins <= o.due < begins + window]
        median = percentile_ms((o.latency for o in inside), 50)
        good = median is not None and median <= 2 * usual and all(o.kind == "answered" for o in inside)
        healthy = healthy + 1 if good else 0
        if healthy == _HEALTHY_WINDOWS:
            return (number + 1 - _HEALTHY_WINDOWS) * window
    return None


def _within(outcomes: Iterable[Outcome], span: Span) -> list[Outcome]:
    return [o for o in outcomes if span.begins <= o.due < span.ends]


def figures(
    requests: Sequence[Request],
    outcomes: Sequence[Outcome],
    spans: Sequence[Span],
    codes: Sequence[Sequence[str]],
    capacity: float,
    judged: int | None = None,
) -> dict[str, float | None]:
    """Return every figure a threshold can name; None is one that this run does not yield.

    ``codes`` holds the right refusals of each sample; ``judged`` is how many verdicts the server counted meanwhile.
    Latencies and goodput are of the measured spans, the books of the whole run.
    """
    books = account(requests, outcomes)
    measured = [s for s in spans if s.measured]
    inside = [o for s in measured for o in _within(outcomes, s)]
    answered = [o.latency for o in inside if o.kind == "answered"]
    p50, p95, p99 = (percentile_ms(answered, q) for q in (50, 95, 99))
    done = sum(o.kind == "answered" and any(s.begins <= o.ended < s.ends for s in measured) for o in outcomes)
    goodput = done / sum(s.ends - s.begins for s in measured)
    good = [o for o in outcomes if not codes[o.sample]]
    bad = [o for o in outcomes if codes[o.sample]]
    # A request that ended at its deadline may have been judged all the same, so it explains one more verdict.
    explained = books.counts["answered"] + books.counts["mismatched"] + books.counts["deadline"]
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "p99_over_p50": p99 / p50 if p50 and p99 else None,
        "goodput": goodput,
        "goodput_over_capacity": goodput / capacity,
        "answered_share": len(answered) / len(inside) if inside else None,
        # The server's own: what the client holds back, it answers itself.
        "rejection_p99_ms": percentile_ms(
            (o.latency for o in outcomes if o.kind == "rejected" and o.code != HELD_BACK), 99
        ),
        "held_back": float(sum(o.code == HELD_BACK for o in outcomes)),
        "recovery_seconds": recovery_seconds(outcomes, spans),
        "lost": float(len(books.lost)),
        "duplicated": float(len(books.duplicated) + len(books.unknown)),
        "mismatched": float(books.counts["mismatched"]),
        "deadlines": float(books.counts["deadline"]),
        "errors": float(books.counts["error"]),
        "judged_twice": None if judged is None else float(max(0, judged - explained)),
        "wrong_refusals": float(sum(o.kind != "refused" or o.code not in codes[o.sample] for o in bad)),
        "good_unanswered": float(sum(o.kind != "answered" for o in good)),
        "generator_lag_p99_ms": percentile_ms((o.sent - o.due for o in outcomes), 99),
    }
