"""Decisions as labelled data that ``veridict evaluate`` and ``veridict calibrate`` read: folders and a manifest."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from sqlalchemy import select

from .database import transaction
from .images import ImageFolder
from .schema import Decision, Item
from .store import ReviewStore

#: The columns that :func:`veridict.export.datasets.read_labelled` reads.
COLUMNS = ("file", "split", "source", "kind", "label", "caption", "group")
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_CLASS = {"real": "real", "deepfake": "fake"}
_OPPOSITE = {"real": "fake", "fake": "real"}


@dataclass(frozen=True)
class Exported:
    """What an export holds: images by label, decisions without a label (unsure), and images that retention deleted."""

    real: int
    fake: int
    unsure: int
    deleted: int

    def __str__(self) -> str:
        """Return the sentence for people."""
        return (
            f"{self.real} real and {self.fake} fake images; left out: {self.unsure} unsure, "
            f"{self.deleted} whose image was deleted"
        )


def label_of(decision: Decision, verdict: str) -> str:
    """Return ``real``, ``fake``, or "" for an unsure decision on an item of this verdict (``real``, ``deepfake``)."""
    said = _CLASS[verdict]
    return {"confirm": said, "overturn": _OPPOSITE[said]}.get(decision.kind, "")


def _decided(store: ReviewStore) -> list[tuple[Decision, Item]]:
    with transaction(store.sessions) as session:
        rows = session.execute(
            select(Decision, Item)
            .join(Item, Item.id == Decision.item)
            .where(Decision.active_item.is_not(None))
            .order_by(Item.id)
        )
        return [(decision, item) for decision, item in rows]


def _files(store: ReviewStore, images: ImageFolder, counts: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield (path in the export, contents), the images first."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    log = io.StringIO()
    for decision, item in _decided(store):
        label = label_of(decision, item.verdict)
        answer = json.loads(decision.answer)
        entry: dict[str, Any] = {"sha256": item.sha256, "name": item.name, "label": label, "decision": decision.kind}
        entry |= {"reason": decision.reason, "reviewer": decision.reviewer, "at": decision.at, "answer": answer}
        log.write(json.dumps(entry) + "\n")
        data = images.get(item.sha256) if label else None
        counts[label or "unsure"] += 1
        if label and data is None:
            counts[label] -= 1
            counts["deleted"] += 1
        if data is None:
            continue
        file = f"{label}/{item.sha256}.{_ENDINGS[answer['image']['format']]}"
        source = f"review/{PurePath(item.source).name or 'upload'}"
        writer.writerow({"file": file, "split": "", "source": source, "kind": item.category, "label": label})
        yield file, data
    yield "manifest.csv", table.getvalue().encode()
    yield "decisions.jsonl", log.getvalue().encode()


def write_folder(store: ReviewStore, images: ImageFolder, folder: Path) -> Exported:
    """Write ``real/``, ``fake/``, ``manifest.csv`` and ``decisions.jsonl`` into a new or empty folder.

    Files are named by their sha256. ``decisions.jsonl`` has every decision with its reason and the whole answer, those
    without a label too.

    Raises:
        FileExistsError: the folder is not empty.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    counts = dict.fromkeys(("real", "fake", "unsure", "deleted"), 0)
    for name, data in _files(store, images, counts):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return Exported(**counts)


def zip_bytes(store: ReviewStore, images: ImageFolder) -> bytes:
    """Return the same files as a ZIP archive."""
    counts = dict.fromkeys(("real", "fake", "unsure", "deleted"), 0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # images are compressed already
        for name, data in _files(store, images, counts):
            archive.writestr(name, data)
    return buffer.getvalue()
