"""Error Level Analysis (Krawetz 2007) as a map: what one more JPEG compression changes."""

from __future__ import annotations

import time

import cv2
import numpy as np

from veridict.forensics.arrays import Float32Array
from veridict.forensics.decode import DecodedImage
from veridict.forensics.measure import ELA_QUALITY, error_level_map
from veridict.forensics.pixels import to_luma, upright

from ..attribution import Attribution, Budget, Cancellation
from ..errors import ExplainError
from ..models import Models
from ..subject import Subject
from .results import measurement_result

#: Side of the averaged squares in pixels: one JPEG block.
WINDOW = 8


def error_levels(image: DecodedImage) -> Float32Array:
    """Return the error levels [H, W] >= 0 in grey levels, averaged over 8 x 8 pixels. The file must be a JPEG.

    The levels are measured on the stored pixels, where the file's JPEG blocks lie, and turned upright afterwards.
    """
    levels = error_level_map(to_luma(image.stored)).astype(np.float32)
    return upright(np.asarray(cv2.blur(levels, (WINDOW, WINDOW)), dtype=np.float32), image.orientation)


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Measure the image; ``values`` [H, W] >= 0 in grey levels, averaged over 8 x 8 pixels, longest side <= 1024.

    Raises:
        ExplainError: ``explain.not_applicable`` if the file is no JPEG: it has no compression history.
    """
    started = time.perf_counter()
    if subject.image.format != "JPEG":
        raise ExplainError("explain.not_applicable", f"a {subject.image.format} file was never a JPEG")
    return measurement_result(
        subject,
        method="ela",
        values=error_levels(subject.image),
        unit="grey levels",
        settings={"quality": ELA_QUALITY, "window": WINDOW},
        started=started,
    )
