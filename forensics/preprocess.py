"""What is done to one image before the networks: decode once, measure, find faces, cut the views."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import simplejpeg

from .alterations import alter_views
from .arrays import Pixels
from .contract import UNCHECKED, ImageFacts
from .decode import Limits, decode_image
from .faces import crop_faces, find_faces
from .known_content.pdq import hash_pixels
from .observation import Observation
from .pixels import to_luma
from .provenance.read import ProvenanceReader
from .resize import shrink
from .signals import measure_image
from .signature import MAX_FACES
from .views import clip_view

#: Longest side (pixels) of the copy that the face finder and the CLIP view are taken from.
VIEWS_SIDE = 512


@dataclass(frozen=True, eq=False)
class Prepared:
    """One prepared image: the record so far, and what the networks see.

    ``view``: CLIP's view [224, 224, 3] uint8. ``crops``: one of that shape per box of the observation. ``altered``: per
    re-encoding of :data:`.alterations.ALTERATIONS` the view and the crops, where they were asked for.
    """

    observation: Observation
    view: Pixels
    crops: list[Pixels]
    altered: tuple[list[Pixels], ...] = ()

    @property
    def alterations(self) -> list[Prepared]:
        """Return the re-encodings as images of their own, with the same observation."""
        return [Prepared(self.observation, views[0], views[1:]) for views in self.altered]


def warm_up() -> None:
    """Prepare a small image, so that the calling thread has loaded the face finder before the first request."""
    prepare(simplejpeg.encode_jpeg(np.zeros((96, 96, 3), np.uint8)))


def shrink_for_views(preview: Pixels) -> Pixels:
    """Return the copy of a preview that face finder and CLIP view are taken from, at most 512 pixels long."""
    return shrink(preview, VIEWS_SIDE)


def prepare(
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008 - frozen value
    provenance: ProvenanceReader | None = None,
    alterations: bool = False,
) -> Prepared:
    """Decode and measure one encoded image; without a reader of ``provenance`` nobody looks where it comes from.

    ``alterations``: cut the views of re-encodings as well.

    Raises:
        ImageError: the image is refused.
    """
    started = time.perf_counter()
    decoded = decode_image(data, limits)
    after_decode = time.perf_counter()
    # Each copy is made from the next larger one: the full-size pixels are read only where they matter themselves.
    small = shrink_for_views(decoded.preview)
    after_shrinking = time.perf_counter()
    measurements = measure_image(decoded)
    after_forensics = time.perf_counter()
    found = find_faces(small, (decoded.width, decoded.height))
    boxes = found[:MAX_FACES]
    crops = crop_faces(decoded, boxes)
    after_faces = time.perf_counter()
    view = clip_view(small)
    after_view = time.perf_counter()
    size = (decoded.width, decoded.height)
    found_provenance = provenance.read(data, small, size) if provenance is not None else UNCHECKED
    after_provenance = time.perf_counter()
    pdq = hash_pixels(small, size)
    done = time.perf_counter()
    seconds = {
        "decode": after_decode - started,
        "shrink": after_shrinking - after_decode,
        "forensics": after_forensics - after_shrinking,
        "faces": after_faces - after_forensics,
        "view": after_view - after_faces,
        "provenance": after_provenance - after_view,
        "hash": done - after_provenance,
    }
    observation = Observation(
        image=ImageFacts(decoded.sha256, decoded.format, decoded.width, decoded.height, decoded.bytes, decoded.frames),
        measurements=measurements,
        boxes=tuple(boxes),
        faces_found=len(found),
        tone=round(float(to_luma(view).std()), 3),
        timings_ms={name: round(value * 1e3, 3) for name, value in seconds.items()},
        provenance=found_provenance,
        pdq=pdq.hex,
        pdq_quality=pdq.quality,
    )
    return Prepared(observation, view, crops, tuple(alter_views(small, crops)) if alterations else ())
