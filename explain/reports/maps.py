"""Error Level Analysis maps as images, and images with their faces marked."""

from __future__ import annotations

import cv2
import numpy as np

from veridict.forensics.arrays import AnyArray, Pixels
from veridict.forensics.decode import DecodedImage

from ..methods.error_level import error_levels
from .colours import colour_table

#: Grey levels of error that reach the top of the colour scale: the same in every image, so that maps can be compared.
FULL_SCALE = 6.0
_YELLOW = (255, 196, 0)


def render_map(values: AnyArray, full_scale: float = FULL_SCALE) -> Pixels:
    """Return values [H, W] as RGB uint8 [H, W, 3]; 0 has the darkest colour, ``full_scale`` and more the lightest."""
    scaled = np.clip(values.astype(np.float32) * (255.0 / full_scale), 0, 255).astype(np.uint8)
    return colour_table("measurement")[scaled]


def error_level_image(image: DecodedImage) -> Pixels | None:
    """Return the Error Level Analysis map as an RGB image, or None where it does not apply: the file is no JPEG."""
    return render_map(error_levels(image)) if image.format == "JPEG" else None


def mark_faces(pixels: Pixels, boxes: list[tuple[int, int, int, int]], labels: list[str]) -> Pixels:
    """Return a copy with each box [x, y, width, height] drawn and labelled."""
    marked = pixels.copy()
    thickness = max(1, round(max(pixels.shape[:2]) / 300))
    for (x, y, width, height), label in zip(boxes, labels, strict=True):
        cv2.rectangle(marked, (x, y), (x + width, y + height), _YELLOW, thickness)
        place = (x + thickness, max(12 * thickness, y - 3 * thickness))
        cv2.putText(marked, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * thickness, _YELLOW, thickness)
    return marked
