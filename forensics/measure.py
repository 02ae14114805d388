"""The three forensic measurements: Error Level Analysis, blur score and noise residual.

Each takes the decoded image and returns a :class:`Measurement`; the maps show the same quantity per pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

from .decode import DecodedImage
from .pixels import Luma, to_luma

#: Quality of ELA's re-compression (Krawetz 2007 uses 95 down to 75; 90 keeps 40..95 uploads apart).
ELA_QUALITY = 90
#: Longest side at which blur and noise are measured, so that their values mean the same at 1 and 50 megapixels.
WORKING_SIDE = 1024
#: ELA looks at the original pixels (resizing would destroy what it measures) within a central window of this side.
ELA_WINDOW = 768
#: Below this shortest side the three values say more about the size than about the picture.
MIN_SIDE = 64


@dataclass(frozen=True)
class Measurement:
    """The raw value of one signal, or None and the reason why it does not apply."""

    value: float | None
    why_not: str = ""


def to_working_size(luma: Luma) -> Luma:
    """Return the luma shrunk by area averaging to at most :data:`WORKING_SIDE` on its longest side."""
    longest = max(luma.shape)
    if longest <= WORKING_SIDE:
        return luma
    scale = WORKING_SIDE / longest
    size = (max(1, round(luma.shape[1] * scale)), max(1, round(luma.shape[0] * scale)))
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def error_level_map(luma: Luma, quality: int = ELA_QUALITY) -> Luma:
    """Return |luma - luma recompressed at ``quality``| [H, W] uint8 (Krawetz 2007, on luma only)."""
    grey = np.ascontiguousarray(luma)[:, :, None]
    again = simplejpeg.decode_jpeg(
        simplejpeg.encode_jpeg(grey, quality=quality, colorspace="GRAY", colorsubsampling="GRAY"), colorspace="GRAY"
    )
    return np.asarray(cv2.absdiff(luma, again[:, :, 0]), dtype=np.uint8)


def noise_residual_map(luma: Luma) -> Luma:
    """Return |luma - 3x3 median| [H, W] uint8, the part of the picture that its neighbourhood does not explain."""
    return np.asarray(cv2.absdiff(luma, cv2.medianBlur(luma, 3)), dtype=np.uint8)


def measure_error_level(image: DecodedImage) -> Measurement:
    """Return the mean error level (grey levels, 0..255) of the central window; only a JPEG has a history to compare."""
    if image.format != "JPEG":
        return Measurement(None, f"a {image.format} file carries no JPEG compression history")
    if min(image.width, image.height) < MIN_SIDE:
        return Measurement(None, f"the shortest side is below {MIN_SIDE} pixels")
    # The window starts on the 8x8 grid of the file's own blocks.
    left, top = (max(0, (side - ELA_WINDOW) // 2) // 8 * 8 for side in (image.width, image.height))
    window = (left, top, min(ELA_WINDOW, image.width), min(ELA_WINDOW, image.height))
    return Measurement(cv2.mean(error_level_map(image.source.luma(window)))[0])


def measure_blur(working: Luma) -> Measurement:
    """Return the variance of the Laplacian (Pech-Pacheco et al. 2000) of the working-size luma; low means blurred."""
    if min(working.shape) < MIN_SIDE:
        return Measurement(None, f"the shortest side is below {MIN_SIDE} pixels")
    deviation = cv2.meanStdDev(cv2.Laplacian(working, cv2.CV_16S))[1]
    return Measurement(float(deviation[0, 0]) ** 2)


def measure_noise(working: Luma) -> Measurement:
    """Return the mean noise residual (grey levels, 0..255) of the working-size luma."""
    if min(working.shape) < MIN_SIDE:
        return Measurement(None, f"the shortest side is below {MIN_SIDE} pixels")
    return Measurement(cv2.mean(noise_residual_map(working))[0])


def measure(image: DecodedImage) -> dict[str, Measurement]:
    """Return every forensic signal of an image by name: ``ela``, ``blur`` and ``noise``."""
    working = to_working_size(to_luma(image.preview))
    signals: dict[str, Callable[[], Measurement]] = {
        "ela": lambda: measure_error_level(image),
        "blur": lambda: measure_blur(working),
        "noise": lambda: measure_noise(working),
    }
    return {name: take() for name, take in signals.items()}
