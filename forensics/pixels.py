"""Operations on arrays of pixels: regions, luma, and EXIF orientation."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from .arrays import Pixels

#: Brightness [H, W], 0..255.
Luma = Pixels
#: Left, top, width and height in pixels.
Region = tuple[int, int, int, int]
#: The element type of pixels or of values per pixel.
Element = TypeVar("Element", bound=np.generic)

# What each EXIF orientation (Exif 2.32, tag 274) requires of the stored image. The steps are applied in this order.
_TURNED = (5, 6, 7, 8)
_MIRRORED = (2, 3, 6, 7)
_FLIPPED = (3, 4, 7, 8)


def cut(pixels: Pixels, region: Region) -> Pixels:
    """Return a view of a region."""
    x, y, width, height = region
    return pixels[y : y + height, x : x + width]


def to_luma(pixels: Pixels) -> Luma:
    """Return the BT.601 luma [H, W] of RGB pixels [H, W, 3]."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def upright(pixels: npt.NDArray[Element], orientation: int) -> npt.NDArray[Element]:
    """Return stored pixels or values per pixel [H, W, ...] the way up that their EXIF orientation (1 to 8) asks for."""
    if orientation in _TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in _MIRRORED:
        pixels = pixels[:, ::-1]
    if orientation in _FLIPPED:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def as_stored(pixels: Pixels, orientation: int) -> Pixels:
    """Return a view of upright pixels [H, W, ...] as they are stored: the inverse of :func:`upright`."""
    if orientation in _FLIPPED:
        pixels = pixels[::-1]
    if orientation in _MIRRORED:
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if orientation in _TURNED else pixels
