"""The tables of a review: items, decisions, skips, explanation jobs, files that were read, and files that were refused.

Times are seconds since 1970 (UTC). An item is one image, known by the sha256 of its bytes. Decisions are never changed
or deleted; undoing one marks it.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base of all tables."""


class Item(Base):
    """One image with the detector's whole answer.

    ``queued``: the item is handed out to reviewers. ``urgency``: higher ones are handed out first. ``holder`` has
    the item until ``held_until``. ``image_since``: when the image was stored. ``image_deleted``: when retention
    deleted it; None while it is stored.
    """

    __tablename__ = "review_items"
    __table_args__ = (Index("review_items_order", "open", "queued", "urgency"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(255))
    source: Mapped[str] = mapped_column(String(255))
    answer: Mapped[str] = mapped_column(Text)
    verdict: Mapped[str] = mapped_column(String(16))
    fake_probability: Mapped[float] = mapped_column(Float(53))
    confidence: Mapped[str] = mapped_column(String(16))
    category: Mapped[str] = mapped_column(String(64))
    urgency: Mapped[float] = mapped_column(Float(53))
    queued: Mapped[bool]
    open: Mapped[bool] = mapped_column(default=True)
    added: Mapped[float] = mapped_column(Float(53))
    holder: Mapped[str | None] = mapped_column(String(128), default=None)
    held_until: Mapped[float] = mapped_column(Float(53), default=0.0)
    image_since: Mapped[float] = mapped_column(Float(53), index=True)
    image_deleted: Mapped[float | None] = mapped_column(Float(53), default=None)


class Decision(Base):
    """What one reviewer decided about one item, with the answer that the reviewer saw.

    ``active_item`` is the item's id, and NULL once the decision is undone. It is unique, so the database itself refuses
    a second decision on an item.
    """

    __tablename__ = "review_decisions"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("review_items.id"), index=True)
    active_item: Mapped[int | None] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    reviewer: Mapped[str] = mapped_column(String(128), index=True)
    at: Mapped[float] = mapped_column(Float(53), index=True)
    answer: Mapped[str] = mapped_column(Text)
    undone: Mapped[float | None] = mapped_column(Float(53), default=None)


class Skip(Base):
    """A reviewer passed an item over: that reviewer gets it again after all others."""

    __tablename__ = "review_skips"
    __table_args__ = (UniqueConstraint("item", "reviewer"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("review_items.id"))
    reviewer: Mapped[str] = mapped_column(String(128))
    at: Mapped[float] = mapped_column(Float(53))


class ExplanationJob(Base):
    """A heatmap that was asked for: its method and its job in the queue of explanations."""

    __tablename__ = "review_jobs"
    __table_args__ = (UniqueConstraint("item", "method"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("review_items.id"))
    method: Mapped[str] = mapped_column(String(64))
    job: Mapped[str] = mapped_column(String(255))


class ReadFile(Base):
    """How far a source was read: of a JSON-lines file the offset, of an image file its size and modification time."""

    __tablename__ = "review_files"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    place: Mapped[str] = mapped_column(Text)
    position: Mapped[int] = mapped_column(BigInteger)
    modified: Mapped[int] = mapped_column(BigInteger)


class Refusal(Base):
    """A file or a line of a source that did not become an item, and why."""

    __tablename__ = "review_refusals"

    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[str] = mapped_column(Text)
    code: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)
    at: Mapped[float] = mapped_column(Float(53))
