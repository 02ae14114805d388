"""The forensic measurements: Error Level Analysis, blur score and noise residual, and their maps per pixel.

:mod:`.signals` lists the measurements and says what each one takes.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from .decode import DecodedImage
from .observation import Measurement
from .pixels import Luma

#: Quality of ELA's re-compression (Krawetz 2007 uses 95 down to 75; 90 keeps 40..95 uploads apart).
ELA_QUALITY = 90
#: Longest side (pixels) at which blur and noise are measured, so that values at 1 and 50 megapixels are comparable.
WORKING_SIDE = 1024
#: ELA reads the original pixels, since resizing would destroy the compression history, in a central window of this
#: side (pixels).
ELA_WINDOW = 768
#: Shortest side (pixels) of an image that is measured: below it the values depend on the size more than on the content.
MIN_SIDE = 64


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
    """Return |luma - 3x3 median| [H, W] uint8, the part of a pixel that its neighbourhood does not explain."""
    return np.asarray(cv2.absdiff(luma, cv2.medianBlur(luma, 3)), dtype=np.uint8)


def measure_error_level(image: DecodedImage) -> Measurement:
    """Return the mean error level (grey levels, 0..255) of the central window; only a JPEG has a history to compare."""
    if image.format != "JPEG":
        return Measurement(None, f"a {image.format} file carries no JPEG compression history")
    if min(image.width, image.height) < MIN_SIDE:
        return Measurement(None, f"the shortest side is below {MIN_SIDE} pixels")
    # The stored pixels are measured: turning by EXIF orientation would move the 8x8 grid of the file's JPEG blocks.
    height, width = image.stored.shape[:2]
    left, top = (max(0, (side - ELA_WINDOW) // 2) // 8 * 8 for side in (width, height))
    window = (left, top, min(ELA_WINDOW, width), min(ELA_WINDOW, height))
    return Measurement(cv2.mean(error_level_map(image.stored_luma(window)))[0])


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
