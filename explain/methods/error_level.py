"""Error Level Analysis (Krawetz 2007) as a map: what one more JPEG compression changes."""

from __future__ import annotations

import time

import cv2
import numpy as np
import numpy.typing as npt

from veridict.forensics.measure import ELA_QUALITY, error_level_map
from veridict.forensics.pixels import to_luma

from ..attribution import Attribution, Budget, Cancellation
from ..errors import ExplainError
from ..models import FORENSICS_VERSION, Models
from ..subject import Subject

#: Longest side of a stored forensic map; a finer one shows nothing more to the eye.
MAP_SIDE = 1024


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Measure the picture; ``values`` [H, W] >= 0 in grey levels, averaged over 8 x 8 pixels, longest side <= 1024.

    Raises:
        ExplainError: ``explain.not_applicable`` for a file that is no JPEG: it has no compression history.
    """
    started = time.perf_counter()
    if subject.image.format != "JPEG":
        raise ExplainError("explain.not_applicable", f"a {subject.image.format} file was never a JPEG")
    levels = error_level_map(to_luma(subject.image.pixels)).astype(np.float32)
    smoothed = cv2.blur(levels, (8, 8))
    return measured(subject, "ela", smoothed, "grey levels", {"quality": ELA_QUALITY, "window": 8}, started)


def measured(
    subject: Subject,
    method: str,
    values: npt.NDArray[np.generic],
    unit: str,
    settings: dict[str, object],
    started: float,
) -> Attribution:
    """Return a forensic map as a result, shrunk to :data:`MAP_SIDE` by area averaging."""
    shrink = min(1.0, MAP_SIDE / max(values.shape))
    if shrink < 1.0:
        size = (max(1, round(values.shape[1] * shrink)), max(1, round(values.shape[0] * shrink)))
        values = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return Attribution(
        method=method,
        kind="measurement",
        values=np.ascontiguousarray(values, dtype=np.float32),
        unit=unit,
        region=subject.whole_region,
        score=None,
        settings=dict(settings),
        quality={},
        seconds=time.perf_counter() - started,
        model="forensics",
        model_version=FORENSICS_VERSION,
    )
