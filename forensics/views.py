"""The view that CLIP sees: flat margins cut off, compressed like an upload to a platform, squeezed to a square.

Both steps make pictures alike that differ only in what happened to the file. A frame or a letterbox would shrink the
picture itself, and a platform compresses whatever it receives: files that were compressed once more are judged better
than untouched ones if the head learns from both. So every image is compressed, in training too.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from .arrays import Pixels
from .faces import Box
from .pixels import cut
from .resize import halve_to, halved
from .signature import CLIP_SIZE

#: JPEG quality of the view, and of the re-encodings by which stability is measured.
QUALITY = 60
#: Largest difference (grey levels, per channel) between the pixels of one flat margin.
_FLAT = 6
#: Smallest share of either side, and smallest number of pixels, that must remain; else nothing is cut off.
_LEAST_SHARE, _LEAST_SIDE = 0.25, 48


def compress(pixels: Pixels) -> Pixels:
    """Return pixels uint8 [H, W, 3] after JPEG compression at :data:`QUALITY` with halved colour resolution."""
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY, colorsubsampling="420")
    return np.asarray(simplejpeg.decode_jpeg(data), dtype=np.uint8)


def content_box(pixels: Pixels) -> Box:
    """Return what remains of pixels uint8 [H, W, 3] without flat margins: letterboxes, frames, plain backgrounds.

    A margin is a run of whole rows or columns at an edge, all of nearly one colour. Margins of different edges may
    differ in colour. Where too little would remain, the whole image is the content.
    """
    height, width = pixels.shape[:2]
    box, before = Box(0, 0, width, height), None
    while box != before and min(box.width, box.height) >= _LEAST_SIDE:  # nested frames take several rounds
        before = box
        top, height_left = _content_lines(cut(pixels, box))
        box = Box(box.x, box.y + top, box.width, height_left)
        left, width_left = _content_lines(cut(pixels, box).swapaxes(0, 1))
        box = Box(box.x + left, box.y, width_left, box.height)
    enough = box.width >= _LEAST_SHARE * width and box.height >= _LEAST_SHARE * height
    return box if enough and min(box.width, box.height) >= _LEAST_SIDE else Box(0, 0, width, height)


def _content_lines(lines: Pixels) -> tuple[int, int]:
    """Return the first of the lines [L, N, 3] between the flat margins, and their number; all if none is between."""
    first, last = _flat_lines(lines), _flat_lines(lines[::-1])
    return (first, len(lines) - first - last) if first + last < len(lines) else (0, len(lines))


def _flat_lines(lines: Pixels) -> int:
    """Return how many of the first lines [L, N, 3] differ together by at most :data:`_FLAT` in every channel."""
    low, high = lines[0].min(axis=0), lines[0].max(axis=0)
    for number, line in enumerate(lines):
        low, high = np.minimum(low, line.min(axis=0)), np.maximum(high, line.max(axis=0))
        if (high - low > _FLAT).any():  # no overflow: high is never below low
            return number
    return len(lines)


def clip_view(pixels: Pixels) -> Pixels:
    """Return the content of an image resized to [224, 224, 3] uint8 without keeping its proportions, as CLIP sees it.

    A centre crop would miss manipulations near the sides of an image. Bilinear interpolation to twice the size followed
    by 2x2 averages takes half the time of area averaging by the same factor.
    """
    content = compress(cut(pixels, content_box(pixels)))
    double = (2 * CLIP_SIZE, 2 * CLIP_SIZE)
    content = cv2.resize(halve_to(content, 2 * CLIP_SIZE), double, interpolation=cv2.INTER_LINEAR)
    return halved(np.asarray(content, dtype=np.uint8))
