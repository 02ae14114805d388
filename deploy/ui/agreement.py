"""How often reviewers agree with the detector: over all decisions, by category, by confidence and by day."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select

from .database import transaction
from .schema import Decision, Item
from .store import ReviewStore

#: The 97.5th percentile of the normal distribution, for intervals of 95%.
_Z = 1.959964


@dataclass(frozen=True)
class Agreement:
    """The decisions of one group."""

    group: str
    confirmed: int
    overturned: int
    unsure: int

    @property
    def share(self) -> float | None:
        """Return the share of confirmed among confirmed and overturned, 0..1; None when there are none."""
        total = self.confirmed + self.overturned
        return self.confirmed / total if total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95% interval of :attr:`share` (Wilson 1927)."""
        total, share = self.confirmed + self.overturned, self.share
        if share is None:
            return None
        spread = _Z * math.sqrt(share * (1 - share) / total + _Z * _Z / (4 * total * total))
        middle, scale = share + _Z * _Z / (2 * total), 1 + _Z * _Z / total
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


@dataclass(frozen=True)
class Figures:
    """Agreement over all decisions that are not undone, and by group; ``by_day`` is in order of time (UTC)."""

    overall: Agreement
    by_verdict: list[Agreement]
    by_category: list[Agreement]
    by_confidence: list[Agreement]
    by_day: list[Agreement]


def figures(store: ReviewStore) -> Figures:
    """Return the present figures."""
    with transaction(store.sessions) as session:
        rows = session.execute(
            select(Decision.kind, Decision.at, Item.verdict, Item.category, Item.confidence)
            .join(Item, Item.id == Decision.item)
            .where(Decision.active_item.is_not(None))
        ).all()
    kinds: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(4)]
    everything: Counter[str] = Counter()
    for kind, at, verdict, category, confidence in rows:
        everything[kind] += 1
        day = datetime.fromtimestamp(at, UTC).date().isoformat()
        for groups, group in zip(kinds, (verdict, category, confidence, day), strict=True):
            groups[group][kind] += 1
    return Figures(_agreement("all", everything), *([_agreement(g, c[g]) for g in sorted(c)] for c in kinds))


def _agreement(group: str, counts: Counter[str]) -> Agreement:
    return Agreement(group, counts["confirm"], counts["overturn"], counts["unsure"])
