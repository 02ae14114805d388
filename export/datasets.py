"""Reading labelled images: ``real/`` + ``fake/`` folders at any depth, and CSV manifests."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from veridict.forensics.arrays import Pixels

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif"}
LABELS = {"real": 0, "fake": 1}
_SPLITS = ("train", "val", "cal", "test")


@dataclass(frozen=True)
class Sample:
    """One labelled file; ``source`` names where it comes from, ``split`` is "" when the layout names none.

    ``family`` joins sources that a split must keep together (of one generator or one photographer). ``kind`` is the
    generator, the editor or the content, in the data set's words.
    """

    path: Path
    label: str
    source: str
    split: str
    category: str = ""
    caption: str = ""
    family: str = ""
    kind: str = ""


def find_folders(root: Path, split: str = "") -> list[Sample]:
    """Return every image that lies under a folder named ``real`` or ``fake`` anywhere below ``root``, sorted by path.

    The folder above (skipping a ``train``/``val``/``cal``/``test`` level) names the source; with ``split`` only files
    of that split are returned.

    Raises:
        FileNotFoundError: no such file is found.
    """
    samples = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        parts = path.relative_to(root).parts[:-1]
        at = next((i for i in reversed(range(len(parts))) if parts[i] in LABELS), None)
        if at is None:
            continue
        above = [p for p in parts[:at] if p not in _SPLITS]
        found = next((p for p in parts[:at] if p in _SPLITS), "")
        if split and found != split:
            continue
        samples.append(Sample(path, parts[at], "/".join(above) or root.name, found))
    if not samples:
        wanted = f" of split {split!r}" if split else ""
        raise FileNotFoundError(f"no images{wanted} under real/ or fake/ in {root}")
    return samples


def read_categorised(path: Path, categories: dict[str, str]) -> list[Sample]:
    """Return the rows of a CSV manifest whose ``kind`` maps to a category, in file order.

    Columns: file (relative to the manifest), split, source, kind, label, caption. ``categories`` maps a kind to one of
    the prompt bank's category names. The first caption becomes the caption, or the finer label where there is none.
    """
    samples = []
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            category = categories.get(row["kind"])
            if category is None:
                continue
            finer = row["label"].split("__")[-1].replace("_", " ").replace("-", " ").lower()
            caption = row["caption"].split("|")[0].strip() or finer
            label = row["label"] if row["label"] in LABELS else ""
            samples.append(Sample(path.parent / row["file"], label, row["source"], row["split"], category, caption))
    return samples


def read_labelled(path: Path, sources: Sequence[str] = (), splits: Sequence[str] = ()) -> list[Sample]:
    """Return the rows of a CSV manifest that are labelled real or fake, in file order.

    Columns as for :func:`read_categorised`, and ``group``, the family of the source where it has one. ``sources`` are
    beginnings of source names, ``splits`` names of splits; empty means all.

    Raises:
        ValueError: a beginning fits no source, or no row is left.
    """
    with path.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] in LABELS]
    for wanted in sources:
        if not any(row["source"].startswith(wanted) for row in rows):
            raise ValueError(f"{path} has no labelled source that begins with {wanted!r}")
    samples = [
        Sample(
            path.parent / row["file"],
            row["label"],
            row["source"],
            row["split"],
            family=row.get("group") or row["source"],
            kind=row["kind"],
        )
        for row in rows
        if (not sources or row["source"].startswith(tuple(sources))) and (not splits or row["split"] in splits)
    ]
    if not samples:
        raise ValueError(f"{path} has no labelled image of splits {list(splits)}")
    return samples


def limit_per_source(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """Return the first ``limit`` samples of every source and label, all of them with the limit 0."""
    counts: dict[tuple[str, str], int] = {}
    kept = []
    for sample in samples:
        key = (sample.source, sample.label)
        counts[key] = counts.get(key, 0) + 1
        if not limit or counts[key] <= limit:
            kept.append(sample)
    return kept


def read_image(path: Path, longest: int | None = None) -> Pixels:
    """Return RGB pixels [H, W, 3] uint8, EXIF orientation applied, shrunk so that the longest side is ``longest``.

    Raises:
        ValueError: the file is no image that OpenCV (or, for AVIF, Pillow) reads.
    """
    image = _read_avif(path) if path.suffix.lower() == ".avif" else cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"not a readable image: {path}")
    if longest is not None and max(image.shape[:2]) > longest:
        scale = longest / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[:, :, ::-1])


def _read_avif(path: Path) -> Pixels | None:
    """Return BGR pixels [H, W, 3] as OpenCV does, or None; not every build of OpenCV reads AVIF."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)[:, :, ::-1]
    except (OSError, ValueError):
        return None


def by_source(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Group samples by their source, keeping order."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.source, []).append(sample)
    return groups
