"""What a review remembers besides items and decisions: refusals, how far sources were read, jobs, and counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from .database import transaction
from .schema import Decision, ExplanationJob, Item, ReadFile, Refusal
from .store import ReviewStore


@dataclass(frozen=True)
class Counts:
    """How many items wait, are held by reviewers, are decided and lost their image undecided; and refused files."""

    waiting: int
    held: int
    decided: int
    expired: int
    refused: int


def count(store: ReviewStore) -> Counts:
    """Return the present counts; ``held`` is part of ``waiting``."""
    with transaction(store.sessions) as session:
        waiting = (Item.open, Item.queued, Item.image_deleted.is_(None))
        held = (*waiting, Item.holder.is_not(None), Item.held_until >= store.clock())
        numbers = [
            session.scalar(select(func.count()).select_from(Item).where(*where))
            for where in (waiting, held, (~Item.open,), (Item.open, Item.queued, Item.image_deleted.is_not(None)))
        ]
        refused = session.scalar(select(func.count()).select_from(Refusal))
    return Counts(*(int(number or 0) for number in (*numbers, refused)))


def refuse(store: ReviewStore, place: str, code: str, message: str) -> None:
    """Remember a file or line that did not become an item."""
    with transaction(store.sessions) as session:
        session.add(Refusal(place=place, code=code[:64], message=message, at=store.clock()))


def refusals(store: ReviewStore, most: int = 50) -> list[Refusal]:
    """Return the latest refusals, newest first."""
    with transaction(store.sessions) as session:
        return list(session.scalars(select(Refusal).order_by(Refusal.id.desc()).limit(most)))


def position(store: ReviewStore, place: str) -> tuple[int, int] | None:
    """Return (position, modification time) up to which a place was read, or None."""
    with transaction(store.sessions) as session:
        known = session.get(ReadFile, _key(place))
        return None if known is None else (known.position, known.modified)


def positions_below(store: ReviewStore, folder: str) -> dict[str, tuple[int, int]]:
    """Return (position, modification time) of every place below a folder that was read."""
    with transaction(store.sessions) as session:
        rows = session.execute(
            select(ReadFile.place, ReadFile.position, ReadFile.modified).where(
                ReadFile.place.startswith(f"{folder.rstrip('/')}/", autoescape=True)
            )
        )
        return {place: (at, modified) for place, at, modified in rows}


def remember_position(store: ReviewStore, place: str, at: int, modified: int) -> None:
    """Remember how far a place was read."""
    with transaction(store.sessions) as session:
        session.merge(ReadFile(key=_key(place), place=place, position=at, modified=modified))


def _key(place: str) -> str:
    return hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()


def jobs_of(store: ReviewStore, item: int) -> dict[str, str]:
    """Return the explanation jobs of an item, by method, in the order in which they were asked for."""
    with transaction(store.sessions) as session:
        found = session.scalars(select(ExplanationJob).where(ExplanationJob.item == item).order_by(ExplanationJob.id))
        return {each.method: each.job for each in found}


def remember_jobs(store: ReviewStore, item: int, jobs: Mapping[str, str]) -> None:
    """Remember the jobs that were submitted for an item; a method that is known gets the new job."""
    with transaction(store.sessions) as session:
        known = {each.method: each for each in session.scalars(select(ExplanationJob).filter_by(item=item))}
        for method, job in jobs.items():
            if method in known:
                known[method].job = job
            else:
                session.add(ExplanationJob(item=item, method=method, job=job))


def latest_decisions(store: ReviewStore, most: int = 50) -> list[tuple[Decision, Item]]:
    """Return the latest decisions that are not undone, newest first, each with its item."""
    with transaction(store.sessions) as session:
        rows = session.execute(
            select(Decision, Item)
            .join(Item, Item.id == Decision.item)
            .where(Decision.undone.is_(None))
            .order_by(Decision.at.desc(), Decision.id.desc())
            .limit(most)
        )
        return [(decision, item) for decision, item in rows]
