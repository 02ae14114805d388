"""Forensic maps as pictures: what Error Level Analysis and the noise residual see, per pixel."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from veridict.forensics.decode import DecodedImage
from veridict.forensics.measure import error_level_map
from veridict.forensics.pixels import to_luma

Pixels = npt.NDArray[np.uint8]
#: Grey levels of error that reach the top of the colour scale: the same in every picture, so maps can be compared.
FULL_SCALE = 6.0


def render_map(values: npt.NDArray[np.generic], full_scale: float = FULL_SCALE) -> Pixels:
    """Return values [H, W] as RGB uint8 [H, W, 3] in the viridis scale, which colour-blind eyes read too."""
    scaled = np.clip(values.astype(np.float32) * (255.0 / full_scale), 0, 255).astype(np.uint8)
    coloured = cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(coloured[:, :, ::-1], dtype=np.uint8)


def error_level_picture(image: DecodedImage) -> Pixels | None:
    """Return the ELA map smoothed over 8x8 blocks as a picture, or None where ELA does not apply (no JPEG)."""
    if image.format != "JPEG":
        return None
    levels = error_level_map(to_luma(image.pixels)).astype(np.float32)
    return render_map(cv2.blur(levels, (8, 8)))


def mark_faces(pixels: Pixels, boxes: list[tuple[int, int, int, int]], labels: list[str]) -> Pixels:
    """Return a copy with each box [x, y, w, h] drawn and labelled."""
    marked = pixels.copy()
    thickness = max(1, round(max(pixels.shape[:2]) / 300))
    for (x, y, width, height), label in zip(boxes, labels, strict=True):
        cv2.rectangle(marked, (x, y), (x + width, y + height), (255, 196, 0), thickness)
        place = (x + thickness, max(12 * thickness, y - 3 * thickness))
        cv2.putText(marked, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * thickness, (255, 196, 0), thickness)
    return marked
