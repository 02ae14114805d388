"""Local sharpness as a map: the deviation of the Laplacian around each pixel, after Pech-Pacheco et al. (2000)."""

from __future__ import annotations

import time

import cv2
import numpy as np

from veridict.forensics.measure import to_working_size
from veridict.forensics.pixels import to_luma

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from .results import measurement_result

#: Side in pixels of the square around each pixel.
WINDOW = 15


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Measure the image; ``values`` [H, W] >= 0: the Laplacian's standard deviation over 15 x 15 pixels.

    The published measure is the variance. With the variance one sharp edge would leave the rest of the map black.
    """
    started = time.perf_counter()
    laplacian = cv2.Laplacian(to_working_size(to_luma(subject.image.preview)), cv2.CV_32F)
    mean = cv2.blur(laplacian, (WINDOW, WINDOW))
    variance = np.maximum(cv2.blur(laplacian * laplacian, (WINDOW, WINDOW)) - mean * mean, 0.0)
    values = np.sqrt(variance)
    return measurement_result(
        subject, method="sharpness", values=values, unit="grey levels", settings={"window": WINDOW}, started=started
    )
