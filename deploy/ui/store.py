"""Items and decisions: each item is held by one reviewer at a time, and each decision is stored once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from veridict.forensics.contract import Verdict

from .database import transaction
from .schema import Decision, Item, Skip
from .urgency import needs_review, urgency

Kind = Literal["confirm", "overturn", "unsure"]
KINDS: tuple[Kind, ...] = ("confirm", "overturn", "unsure")
#: Seconds for which an item is held after the reviewer's page was last heard from.
LEASE = 300.0
#: Longest name of a reviewer, and longest reason, in characters.
LONGEST_NAME, LONGEST_REASON = 128, 4000


class ReviewError(Exception):
    """A decision was not stored, and nothing was changed. ``code`` is stable; the message is a sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        """Build from a code (``review.*``) and a sentence."""
        super().__init__(message)
        self.code, self.message = code, message


def reviewer_name(text: str) -> str:
    """Return the name without spaces around it.

    Raises:
        ReviewError: ``review.name`` when it is empty, too long or has control characters.
    """
    name = text.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ReviewError("review.name", f"a reviewer's name has 1 to {LONGEST_NAME} printable characters")
    return name


class ReviewStore:
    """What reviewers work on; processes and threads may share one database.

    A reviewer holds at most one item by lease. Until ``lease`` seconds after its last renewal nobody else gets it.
    """

    def __init__(
        self, sessions: sessionmaker[Session], lease: float = LEASE, clock: Callable[[], float] = time.time
    ) -> None:
        """Take sessions of :func:`~.database.open_database`; ``clock`` gives seconds since 1970."""
        self.sessions, self.lease, self.clock = sessions, lease, clock

    def add(
        self, verdict: Verdict, name: str, source: str, *, queued: bool | None = None, document: str = ""
    ) -> tuple[Item, bool]:
        """Return the item of an answer, and whether it is new. The image must be stored already.

        An image that is known keeps its first answer. ``queued``: whether the item is handed out; None: when the
        confidence of the answer is low. A known item is queued when a later source asks for it. ``document``: the
        answer as it came, with the fields that this version does not know.
        """
        wanted = needs_review(verdict) if queued is None else queued
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)[-255:]
        item = Item(
            sha256=verdict.image.sha256,
            name=shown,
            source=source[-255:],
            answer=document or verdict.to_json(),
            verdict=verdict.verdict,
            fake_probability=verdict.fake_probability,
            confidence=verdict.confidence,
            category=verdict.category.label,
            urgency=urgency(verdict),
            queued=wanted,
            open=True,
            added=self.clock(),
            image_since=self.clock(),
        )
        try:
            with transaction(self.sessions) as session:
                session.add(item)
            return item, True
        except IntegrityError:
            with transaction(self.sessions) as session:
                known = session.scalars(select(Item).where(Item.sha256 == verdict.image.sha256)).one()
                known.queued = known.queued or wanted
                if known.image_deleted is not None:
                    known.image_deleted, known.image_since = None, self.clock()
            return known, False

    def claim(self, reviewer: str) -> Item | None:
        """Return the item that the reviewer holds, or else the most urgent free one, held from now on; None: no item.

        Items that the reviewer skipped come last. Items whose image retention has deleted are not handed out.
        """
        with transaction(self.sessions) as session:
            held = session.scalars(
                select(Item).where(Item.open, Item.holder == reviewer, Item.image_deleted.is_(None)).limit(1)
            ).first()
            if held is not None and self._hold(session, held.id, reviewer):
                return held
            skipped = and_(Skip.item == Item.id, Skip.reviewer == reviewer)
            while True:
                candidate = session.scalars(
                    select(Item)
                    .outerjoin(Skip, skipped)
                    .where(Item.open, Item.queued, Item.image_deleted.is_(None), self._free(reviewer))
                    .order_by(func.coalesce(Skip.at, 0.0), Item.urgency.desc(), Item.id)
                    .limit(1)
                ).first()
                if candidate is None:
                    return None
                if self._hold(session, candidate.id, reviewer):
                    return candidate

    def claim_item(self, item: int, reviewer: str) -> bool:
        """Hold this item; return whether the reviewer has it now: it is open, and nobody else holds it."""
        with transaction(self.sessions) as session:
            return self._hold(session, item, reviewer)

    def _free(self, reviewer: str) -> ColumnElement[bool]:
        return or_(Item.holder.is_(None), Item.holder == reviewer, Item.held_until < self.clock())

    def _hold(self, session: Session, item: int, reviewer: str) -> bool:
        """Take or renew the lease in one statement: of two processes only one changes the row."""
        now = self.clock()
        changed = session.execute(
            update(Item)
            .where(Item.id == item, Item.open, self._free(reviewer))
            .values(holder=reviewer, held_until=now + self.lease)
            .execution_options(synchronize_session=False)
        )
        if not changed.rowcount:  # type: ignore[attr-defined]
            return False
        session.execute(  # a reviewer holds one item
            update(Item)
            .where(Item.holder == reviewer, Item.id != item)
            .values(holder=None, held_until=0.0)
            .execution_options(synchronize_session=False)
        )
        return True

    def skip(self, item: int, reviewer: str) -> None:
        """Give the item back undecided; this reviewer gets it again after all others."""
        with transaction(self.sessions) as session:
            known = session.scalars(select(Skip).where(Skip.item == item, Skip.reviewer == reviewer)).first()
            if known is None:
                session.add(Skip(item=item, reviewer=reviewer, at=self.clock()))
            else:
                known.at = self.clock()
            self._release(session, item, reviewer)

    def release(self, item: int, reviewer: str) -> None:
        """Give the item back."""
        with transaction(self.sessions) as session:
            self._release(session, item, reviewer)

    def _release(self, session: Session, item: int, reviewer: str) -> None:
        session.execute(
            update(Item)
            .where(Item.id == item, Item.holder == reviewer)
            .values(holder=None, held_until=0.0)
            .execution_options(synchronize_session=False)
        )

    def decide(self, item: int, reviewer: str, kind: Kind, reason: str = "") -> Decision:
        """Store a decision with the item's whole answer; when this returns, it is in the database.

        Raises:
            ReviewError: ``review.decided``: somebody decided before. ``review.held``: another reviewer holds the item.
                ``review.reason``: the reason is too long. ``review.unknown``: there is no such item or kind.
        """
        if kind not in KINDS:
            raise ReviewError("review.unknown", f"a decision is {', '.join(KINDS)}, not {kind!r}")
        if len(reason) > LONGEST_REASON:
            raise ReviewError("review.reason", f"a reason has at most {LONGEST_REASON} characters")
        try:
            with transaction(self.sessions) as session:
                found = session.get(Item, item)
                if found is None:
                    raise ReviewError("review.unknown", "there is no such item")
                if not self._hold(session, item, reviewer):
                    raise self._why_not(session, found)
                decision = Decision(
                    item=item,
                    active_item=item,
                    kind=kind,
                    reason=reason.strip(),
                    reviewer=reviewer,
                    at=self.clock(),
                    answer=found.answer,
                )
                session.add(decision)
                session.execute(update(Item).where(Item.id == item).values(open=False, holder=None, held_until=0.0))
            return decision
        except IntegrityError:
            raise ReviewError("review.decided", "this item was decided in the meantime") from None

    @staticmethod
    def _why_not(session: Session, item: Item) -> ReviewError:
        decision = session.scalars(select(Decision).where(Decision.active_item == item.id)).first()
        if decision is not None:
            return ReviewError("review.decided", f"{decision.reviewer} decided this item before: {decision.kind}")
        return ReviewError("review.held", f"{item.holder} is working on this item")

    def undo(self, reviewer: str) -> Item | None:
        """Undo the reviewer's last decision and hold its item again; None when there is nothing to undo."""
        with transaction(self.sessions) as session:
            last = session.scalars(
                select(Decision)
                .where(Decision.reviewer == reviewer, Decision.undone.is_(None))
                .order_by(Decision.at.desc(), Decision.id.desc())
                .limit(1)
            ).first()
            if last is None:
                return None
            last.active_item, last.undone = None, self.clock()
            session.flush()
            session.execute(update(Item).where(Item.id == last.item).values(open=True))
            self._hold(session, last.item, reviewer)
            return session.get_one(Item, last.item, populate_existing=True)

    def get(self, item: int) -> Item | None:
        """Return one item, or None."""
        with transaction(self.sessions) as session:
            return session.get(Item, item)

    def decision_on(self, item: int) -> Decision | None:
        """Return the decision on an item that is not undone, or None."""
        with transaction(self.sessions) as session:
            return session.scalars(select(Decision).where(Decision.active_item == item)).first()
