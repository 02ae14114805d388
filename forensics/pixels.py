"""Arrays of pixels: what they are called, their windows, their luma, and which way is up."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

#: RGB [H, W, 3] unless said otherwise.
Pixels = npt.NDArray[np.uint8]
#: [H, W]
Luma = npt.NDArray[np.uint8]
#: Left, top, width and height in pixels.
Region = tuple[int, int, int, int]

# EXIF orientations (Exif 2.32, tag 274) by what they do to the stored picture, in this order.
_TURNED = (5, 6, 7, 8)
_MIRRORED = (2, 3, 6, 7)
_FLIPPED = (3, 4, 7, 8)


def cut(pixels: Pixels, region: Region) -> Pixels:
    """Return a view of a region."""
    x, y, width, height = region
    return pixels[y : y + height, x : x + width]


def to_luma(pixels: Pixels) -> Luma:
    """Return the BT.601 luma [H, W] uint8 of RGB pixels [H, W, 3]."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return stored pixels [H, W, C] as they are meant to be seen."""
    if orientation in _TURNED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in _MIRRORED:
        pixels = pixels[:, ::-1]
    if orientation in _FLIPPED:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Return width and height of a stored picture of that size once it stands upright."""
    return (height, width) if orientation in _TURNED else (width, height)


def stored_region(region: Region, width: int, height: int, orientation: int) -> Region:
    """Return where a region of the upright picture, which has that width and height, lies in the stored one."""
    x, y, w, h = region
    if orientation in _FLIPPED:
        y = height - y - h
    if orientation in _MIRRORED:
        x = width - x - w
    return (y, x, h, w) if orientation in _TURNED else (x, y, w, h)
