"""Smaller copies of an image, made by 2x2 averages as far as possible.

Averaging by whole steps is several times faster than by fractions.
"""

from __future__ import annotations

import cv2
import numpy as np

from .arrays import Pixels

#: Least longest side (pixels) of the preview. ELA and face crops read the full-size pixels, all else the preview.
PREVIEW_SIDE = 960


def halved(pixels: Pixels) -> Pixels:
    """Return the 2x2 averages [H // 2, W // 2, 3] of pixels [H, W, 3]; the last line of an odd side is dropped."""
    rows, columns = pixels.shape[0] // 2, pixels.shape[1] // 2
    whole = pixels[: 2 * rows, : 2 * columns]
    return np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def halve_to(pixels: Pixels, side: int) -> Pixels:
    """Return the pixels [H, W, 3] halved while the longest side keeps at least ``side`` pixels."""
    while max(pixels.shape[:2]) >= 2 * side and min(pixels.shape[:2]) >= 2:
        pixels = halved(pixels)
    return pixels


def to_preview(pixels: Pixels) -> Pixels:
    """Return the pixels [H, W, 3] halved while the longest side keeps at least :data:`PREVIEW_SIDE` pixels."""
    return halve_to(pixels, PREVIEW_SIDE)


def shrink(pixels: Pixels, longest: int) -> Pixels:
    """Return the pixels [H, W, 3] with a longer side of at most ``longest``: halved, then interpolated.

    After halving the remaining factor is below two. For such factors bilinear interpolation uses every pixel and takes
    a fifth of the time of area averaging.
    """
    pixels = halve_to(pixels, longest)
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1.0:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
