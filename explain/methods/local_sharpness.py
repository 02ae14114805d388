"""Local sharpness as a map: the variance of the Laplacian (Pech-Pacheco et al. 2000) around each pixel."""

from __future__ import annotations

import time

import cv2
import numpy as np

from veridict.forensics.measure import to_working_size
from veridict.forensics.pixels import to_luma

from ..attribution import Attribution, Budget, Cancellation
from ..models import Models
from ..subject import Subject
from .error_level import measured

WINDOW = 15


def attribute(subject: Subject, models: Models, budget: Budget, cancellation: Cancellation) -> Attribution:
    """Measure the picture; ``values`` [H, W] >= 0: the Laplacian's standard deviation over 15 x 15 pixels.

    The deviation and not the variance, so that one sharp edge does not leave the rest of the map black.
    """
    started = time.perf_counter()
    laplacian = cv2.Laplacian(to_working_size(to_luma(subject.image.preview)), cv2.CV_32F)
    mean = cv2.blur(laplacian, (WINDOW, WINDOW))
    variance = np.maximum(cv2.blur(laplacian * laplacian, (WINDOW, WINDOW)) - mean * mean, 0.0)
    return measured(subject, "sharpness", np.sqrt(variance), "grey levels", {"window": WINDOW}, started)
