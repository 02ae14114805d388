"""All that is done to one image before the networks: decode once, measure, find faces, cut the views."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import simplejpeg

from .contract import ImageFacts
from .decode import Limits, decode_image
from .faces import Box, clip_view, crop_faces, find_faces
from .large_jpeg import decode_region
from .measure import Measurement, measure
from .pixels import Pixels, to_luma
from .resize import shrink
from .signature import MAX_FACES

#: Longest side of the copy that face finder and CLIP view are taken from.
VIEWS_SIDE = 512


@dataclass(frozen=True)
class Prepared:
    """One prepared image: facts, measurements, CLIP view [224, 224, 3] uint8, a crop of that shape per box.

    ``faces_found`` counts the faces that are too many to be looked at as well; ``tone`` is the standard deviation of
    the view's luma in grey levels.
    """

    image: ImageFacts
    measurements: dict[str, Measurement]
    view: Pixels
    boxes: list[Box]
    crops: list[Pixels]
    timings_ms: dict[str, float]
    faces_found: int
    tone: float


def warm_up() -> None:
    """Load what the calling thread loads once (face finder, decoder of regions), with a small picture."""
    data = simplejpeg.encode_jpeg(np.zeros((96, 96, 3), np.uint8))
    prepare(data)
    decode_region(data, (0, 0, 8, 8))


def shrink_for_views(preview: Pixels) -> Pixels:
    """Return the copy of a preview that face finder and CLIP view are taken from, at most 512 pixels long."""
    return shrink(preview, VIEWS_SIDE)


def prepare(data: bytes, limits: Limits = Limits()) -> Prepared:  # noqa: B008 - frozen value
    """Decode and measure one encoded image.

    Raises:
        ImageError: the image is refused.
    """
    started = time.perf_counter()
    decoded = decode_image(data, limits)
    after_decode = time.perf_counter()
    # One chain of ever smaller copies: the whole picture is read only where its own pixels matter.
    small = shrink_for_views(decoded.preview)
    after_shrinking = time.perf_counter()
    measurements = measure(decoded)
    after_forensics = time.perf_counter()
    found = find_faces(small, (decoded.width, decoded.height))
    boxes = found[:MAX_FACES]
    crops = crop_faces(decoded, boxes)
    after_faces = time.perf_counter()
    view = clip_view(small)
    done = time.perf_counter()
    timings = {
        "decode": after_decode - started,
        "shrink": after_shrinking - after_decode,
        "forensics": after_forensics - after_shrinking,
        "faces": after_faces - after_forensics,
        "view": done - after_faces,
    }
    facts = ImageFacts(decoded.sha256, decoded.format, decoded.width, decoded.height, decoded.bytes, decoded.frames)
    spent = {k: round(v * 1e3, 3) for k, v in timings.items()}
    return Prepared(facts, measurements, view, boxes, crops, spent, len(found), round(float(to_luma(view).std()), 3))
