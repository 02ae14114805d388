"""Observing many files in several qualities and keeping the observations on disk, in chunks.

Observing is the long part of a calibration. An interrupted one resumes after its last finished chunk.

A quality is what happened to the file before it arrives: a tier of :mod:`veridict.export.tiers`; ``shrunk-N``, a
smaller copy; or ``random``, a degradation drawn for each file (the same one every time), so that no size, format or
sharpness tells real from fake.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from veridict.forensics.arrays import AnyArray
from veridict.forensics.errors import ImageError
from veridict.forensics.observation import Observation

from ..datasets import Sample
from ..files import replacing
from ..pipeline import InProcessDetector
from ..tiers import TIERS, apply_tier

RANDOM = "random"
#: Beginning of the qualities that shrink a file: the longest side follows.
SHRUNK = "shrunk-"
#: Files observed between two writes to the cache.
CHUNK = 256
_BATCH = 16
#: Part of the name of every kept chunk; chunks of another layout are not read.
_LAYOUT = "observations/2"


def shrink(data: bytes, longest: int) -> bytes:
    """Return the image as a JPEG of quality 90 with the given longest side; it must be larger."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        small = opened.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.BOX)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def degrade_file(data: bytes, seed: int) -> bytes:
    """Return the image as JPEG or WebP after random changes as platforms and people make: size, blur, grey, quality."""
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
    """Return a sample's file in a quality: a tier's name, ``shrunk-N``, or any other name for a degradation."""
    data = sample.path.read_bytes()
    if quality in TIERS:
        return apply_tier(data, quality)
    if quality.startswith(SHRUNK):
        return shrink(data, int(quality.removeprefix(SHRUNK)))
    return degrade_file(data, int.from_bytes(hashlib.sha256(quality.encode() + data).digest()[:6], "big"))


def observe_samples(
    detector: InProcessDetector,
    samples: Sequence[Sample],
    quality: str,
    cache: Path | None = None,
    chunk: int = CHUNK,
) -> list[Observation]:
    """Return an observation per sample.

    ``cache`` is a folder that keeps them, ``chunk`` samples to a file; files that are there are read, not observed
    again. They belong to the networks that they were made with and to the paths of the samples.

    Raises:
        ImageError: an image is refused; the message names the first file of its batch.
    """
    from tqdm import tqdm

    seen: list[Observation] = []
    for start in tqdm(range(0, len(samples), chunk), desc=f"{quality} images", disable=not sys.stderr.isatty()):
        part = samples[start : start + chunk]
        key = [_LAYOUT, detector.identity, *(str(s.path) for s in part)]
        names = hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
        path = None if cache is None else cache / f"{quality}-{start:06d}-{names}.npz"
        if path is not None and path.exists():
            with np.load(path, allow_pickle=False) as stored:
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
            with replacing(path) as partial, partial.open("wb") as stream:
                np.savez(stream, **arrays)
        seen += unpack(arrays)  # the same rounding whether computed now or read
    return seen


def pack(observations: Sequence[Observation]) -> dict[str, AnyArray]:
    """Return observations as two arrays: their wire forms one after the other [bytes], and where each ends [N].

    The networks' outputs are kept in half precision, and timings are not kept.
    """
    data = [_in_half_precision(observation).to_bytes() for observation in observations]
    return {
        "data": np.frombuffer(b"".join(data), np.uint8),
        "ends": np.cumsum([len(part) for part in data], dtype=np.int64),
    }


def unpack(arrays: Mapping[str, AnyArray]) -> list[Observation]:
    """Return the observations that :func:`pack` took.

    Raises:
        ValueError: the bytes are no observations.
    """
    ends = arrays["ends"].tolist()
    data = arrays["data"].tobytes()
    return [Observation.from_bytes(data[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _in_half_precision(observation: Observation) -> Observation:
    assert observation.embedding is not None
    assert observation.class_tokens is not None
    return replace(
        observation,
        embedding=observation.embedding.astype(np.float16).astype(np.float32),
        class_tokens=observation.class_tokens.astype(np.float16),
        timings_ms={},
    )
