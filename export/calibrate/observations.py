"""Observing many files in several qualities, kept on disk: calibration's long part, which goes on where it was ended.

A quality is what happened to the file before it arrives: a tier of :mod:`.tiers`, or ``random``, a degradation drawn
anew for every file (and the same every time) so that no size, format or sharpness tells real from fake.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.forensics.calibration import FORENSIC
from veridict.forensics.contract import ImageFacts
from veridict.forensics.errors import ImageError
from veridict.forensics.fusion import Observation
from veridict.forensics.measure import Measurement
from veridict.forensics.signature import MAX_FACES

from ..datasets import Sample
from ..pipeline import InProcessDetector
from ..tiers import TIERS, apply_tier

RANDOM = "random"
_CHUNK = 256
_BATCH = 16


def degrade_file(data: bytes, seed: int) -> bytes:
    """Return the picture as a JPEG or WebP after what platforms and people do: smaller, enlarged again, soft, grey."""
    from PIL import Image, ImageFilter, ImageOps

    filters = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX]
    rng = np.random.default_rng(seed)
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    width, height = image.size
    if rng.random() < 0.75:
        factor = rng.uniform(0.35, 1.0)
        size = (max(48, round(width * factor)), max(48, round(height * factor)))
        image = image.resize(size, filters[rng.integers(4)])
        if rng.random() < 0.35:
            image = image.resize((width, height), filters[rng.integers(3)])
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))
    if rng.random() < 0.05:
        image = image.convert("L").convert("RGB")
    buffer = io.BytesIO()
    if rng.random() < 0.75:
        image.save(buffer, "JPEG", quality=int(rng.integers(30, 96)), subsampling=int(rng.choice([0, 2])))
    else:
        image.save(buffer, "WEBP", quality=int(rng.integers(30, 91)))
    return buffer.getvalue()


def read_quality(sample: Sample, quality: str) -> bytes:
    """Return a sample's file in a quality: a tier's name, or ``random``."""
    data = sample.path.read_bytes()
    if quality in TIERS:
        return apply_tier(data, quality)
    return degrade_file(data, int.from_bytes(hashlib.sha256(quality.encode() + data).digest()[:6], "big"))


def observe_samples(
    detector: InProcessDetector, samples: Sequence[Sample], quality: str, cache: Path | None = None
) -> list[Observation]:
    """Return an observation per sample; ``cache`` is a folder that keeps them, in chunks, and is read first.

    Raises:
        ImageError: a picture is refused; the message names the file.
    """
    from tqdm import tqdm

    seen: list[Observation] = []
    chunks = range(0, len(samples), _CHUNK)
    for start in tqdm(chunks, desc=f"{quality} pictures", disable=not sys.stderr.isatty()):
        part = samples[start : start + _CHUNK]
        names = hashlib.sha256("\n".join(str(s.path) for s in part).encode()).hexdigest()[:16]
        path = None if cache is None else cache / f"{quality}-{start:06d}-{names}.npz"
        if path is not None and path.exists():
            with np.load(path) as stored:
                seen += unpack({name: stored[name] for name in stored.files})
            continue
        found = []
        for first in range(0, len(part), _BATCH):
            group = part[first : first + _BATCH]
            try:
                found += detector.observe([read_quality(s, quality) for s in group])
            except ImageError as error:
                raise ImageError(
                    error.code, f"{error} ({group[0].path} or one of the {len(group) - 1} after it)"
                ) from None
        arrays = pack(found)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            with partial.open("wb") as stream:
                np.savez(stream, **arrays)
            partial.replace(path)
        seen += unpack(arrays)  # rounded alike whether they are computed or read
    return seen


def pack(seen: Sequence[Observation]) -> dict[str, npt.NDArray[Any]]:
    """Return observations as arrays, one row each; networks' outputs in half precision."""

    def padded(values: Sequence[Any], width: int) -> npt.NDArray[np.float32]:
        rows = np.full((MAX_FACES, width), np.nan, np.float32)
        if len(values):
            rows[: len(values)] = np.asarray(values, np.float32).reshape(len(values), width)
        return rows

    facts = [o.image for o in seen]
    return {
        "sha256": np.array([f.sha256 for f in facts]),
        "format": np.array([f.format for f in facts]),
        "size": np.array([(f.width, f.height, f.bytes, f.frames) for f in facts], np.int64),
        "measured": np.array([[_number(o.measurements[name].value) for name in FORENSIC] for o in seen], np.float64),
        "embedding": np.stack([o.embedding for o in seen]).astype(np.float16),
        "intermediates": np.stack([_tokens(o) for o in seen]).astype(np.float16),
        "boxes": np.stack([padded(o.boxes, 4) for o in seen]),
        "faces": np.stack([padded(o.face_logits, 1)[:, 0] for o in seen]),
        "found": np.array([o.faces_found for o in seen], np.int64),
        "tone": np.array([o.tone for o in seen], np.float64),
    }


def unpack(arrays: dict[str, npt.NDArray[Any]]) -> list[Observation]:
    """Return the observations that :func:`pack` took; timings and reasons are not kept."""
    seen = []
    for row in range(len(arrays["tone"])):
        width, height, size, frames = (int(v) for v in arrays["size"][row])
        faces = arrays["faces"][row]
        count = int((~np.isnan(faces)).sum())
        seen.append(
            Observation(
                request_id="",
                image=ImageFacts(str(arrays["sha256"][row]), str(arrays["format"][row]), width, height, size, frames),
                measurements={
                    name: Measurement(None, "not kept") if v != v else Measurement(float(v))
                    for name, v in zip(FORENSIC, arrays["measured"][row], strict=True)
                },
                embedding=arrays["embedding"][row].astype(np.float32),
                boxes=[_box(box) for box in arrays["boxes"][row][:count]],
                face_logits=[float(v) for v in faces[:count]],
                timings_ms={},
                intermediates=arrays["intermediates"][row],
                faces_found=int(arrays["found"][row]),
                tone=float(arrays["tone"][row]),
            )
        )
    return seen


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _tokens(seen: Observation) -> npt.NDArray[np.floating[Any]]:
    assert seen.intermediates is not None
    return seen.intermediates


def _box(values: npt.NDArray[np.float32]) -> tuple[int, int, int, int]:
    x, y, width, height = (int(v) for v in values)
    return x, y, width, height
