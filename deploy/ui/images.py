"""The images of a review on the server's disk, and their deletion when the retention time is over."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sqlalchemy import select

from ..durable_files import write_durably
from .database import transaction
from .schema import ExplanationJob, Item
from .store import ReviewStore

_SHA = re.compile(r"[0-9a-f]{64}")
DAY = 86400.0


class ImageFolder:
    """Encoded images by the sha256 of their bytes; no name that a user gives becomes part of a path."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; it is created when the first image is stored, readable by this user alone."""
        self.folder = folder

    def _path(self, sha256: str) -> Path:
        if not _SHA.fullmatch(sha256):
            raise ValueError("not a sha256")
        return self.folder / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Store an image completely or not at all, and return its sha256; its retention time begins now."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._path(sha256), data)
        return sha256

    def get(self, sha256: str) -> bytes | None:
        """Return an image, or None when it is not stored (any more).

        Raises:
            ValueError: the name is no sha256.
        """
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, sha256: str) -> None:
        """Delete an image; nothing happens when it is not stored."""
        self._path(sha256).unlink(missing_ok=True)

    def older_than(self, moment: float) -> list[Path]:
        """Return the files, unfinished ones too, that were written before a moment (seconds since 1970)."""
        return [path for path in self.folder.glob("??/*") if path.is_file() and path.stat().st_mtime < moment]


def delete_expired(store: ReviewStore, images: ImageFolder, keep_days: float, explanations: str = "") -> int:
    """Delete every image that was stored more than ``keep_days`` days ago; return how many items lost theirs.

    Its heatmaps go too: they and a copy of the image lie in the store of ``explanations`` (a folder or fsspec URL).
    Decisions and answers stay. An item that nobody decided is no longer handed out.
    """
    moment = store.clock() - keep_days * DAY
    with transaction(store.sessions) as session:
        expired = list(session.scalars(select(Item).where(Item.image_deleted.is_(None), Item.image_since < moment)))
    for item in expired:
        images.delete(item.sha256)
        with transaction(store.sessions) as session:
            explained = session.scalars(select(ExplanationJob).where(ExplanationJob.item == item.id)).all()
            if explained:
                _delete_explanations(explanations, item.sha256)
            for job in explained:
                session.delete(job)
            session.get_one(Item, item.id).image_deleted = store.clock()
    for path in images.older_than(moment):  # files of no item
        path.unlink(missing_ok=True)
    return len(expired)


def _delete_explanations(url: str, sha256: str) -> None:
    if not url:
        return
    import fsspec

    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    for place in (f"{root}/images/{sha256}", f"{root}/results/{sha256}"):
        if files.exists(place):
            files.rm(place, recursive=True)
