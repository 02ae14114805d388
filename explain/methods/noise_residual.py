"""The noise residual as a map: the difference from a 3 x 3 median, averaged locally."""

from __future__ import annotations

import time

import cv2
import numpy as np

from veridict.forensics.measure import noise_residual_map, to_working_size
from veridict.forensics.pixels import to_luma

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from .results import measurement_result

#: Side of the averaged squares in pixels.
WINDOW = 9


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Measure the image; ``values`` [H, W] >= 0 in grey levels: the residual's mean over 9 x 9 pixels."""
    started = time.perf_counter()
    residual = noise_residual_map(to_working_size(to_luma(subject.image.preview))).astype(np.float32)
    values = cv2.blur(residual, (WINDOW, WINDOW))
    return measurement_result(
        subject, method="noise", values=values, unit="grey levels", settings={"window": WINDOW}, started=started
    )
