"""Face detection and the crops that the face CNN sees. A better face finder replaces ``find_faces``.

The face finder is YuNet (Wu, Peng & Yu 2023), run by ONNX Runtime. Its model card is beside its weights in
``export/weights_data``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from .arrays import Float32Array, Pixels
from .decode import DecodedImage
from .onnx_runtime import open_session
from .pixels import cut
from .resize import halved, shrink
from .signature import FACE_SIZE

#: Longest side (pixels) at which faces are searched; the cost grows with the area. The network finds faces of 10 to 300
#: pixels, so at this size it finds faces from 3% of the image up to the whole image.
_SEARCH_SIDE = 320
_STRIDES = (8, 16, 32)
#: Lowest score of a face. At this value none of 180 images of food, landscapes and drawn animals had a false detection.
_LOWEST_SCORE = 0.8
#: Of two boxes with a larger intersection over union, non-maximum suppression drops the one with the lower score.
_OVERLAP = 0.3
#: Shortest longer side (pixels of the image) of a face that is large enough to judge.
_SMALLEST = 32
#: Width of a crop over that of the box. The box runs from forehead to chin; the face CNN was trained on wider crops.
_MARGIN = 1.35


class Box(NamedTuple):
    """A rectangle in pixels of the upright image: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


def face_finder_file() -> Path:
    """Return the path of the face finder's graph (ONNX)."""
    return Path(__file__).parent / "data" / "face_finder.onnx"


@cache
def _session() -> Any:
    """Return the network. Threads share the session; every call computes on its own thread only."""
    return open_session(face_finder_file(), threads=1)


def find_faces(pixels: Pixels, size: tuple[int, int] | None = None) -> list[Box]:
    """Return the boxes of all faces in RGB pixels uint8 [H, W, 3], largest first.

    Where ``pixels`` is a smaller copy of an image, ``size`` is the width and height of that image, and boxes are in its
    coordinates.
    """
    width, height = size or (pixels.shape[1], pixels.shape[0])
    small = shrink(pixels, _SEARCH_SIDE)
    scale = np.array([small.shape[1] / width, small.shape[0] / height] * 2)
    # The graph takes sides that are multiples of 32 and at least 64. The padding is black.
    rows, columns = (max(64, -(-side // 32) * 32) for side in small.shape[:2])
    canvas = np.zeros((1, rows, columns, 3), np.uint8)
    canvas[0, : small.shape[0], : small.shape[1]] = small
    maps = _session().run(None, {"PIXELS": canvas})
    found = np.concatenate([decode_map(m[0], stride) for m, stride in zip(maps, _STRIDES, strict=True)])
    found = found[found[:, 0] >= _LOWEST_SCORE]
    kept = cv2.dnn.NMSBoxes(found[:, 1:].tolist(), found[:, 0].tolist(), _LOWEST_SCORE, _OVERLAP)
    boxes = [_to_image(found[i, 1:] / scale, width, height) for i in np.asarray(kept, dtype=int).ravel()]
    boxes = [box for box in boxes if max(box.width, box.height) >= _SMALLEST]
    return sorted(boxes, key=lambda box: (-box.width * box.height, box))


def decode_map(values: Float32Array, stride: int) -> Float32Array:
    """Return the rows [H * W, 5] float32 of one output [5, H, W]: score, left, top, width and height in pixels."""
    _, rows, columns = values.shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    score, dx, dy, log_width, log_height = values
    width, height = np.exp(np.minimum(log_width, 8.0)) * stride, np.exp(np.minimum(log_height, 8.0)) * stride
    left, top = (x + dx) * stride - width / 2, (y + dy) * stride - height / 2
    return np.asarray(np.stack([score, left, top, width, height], axis=-1).reshape(-1, 5), dtype=np.float32)


def _to_image(found: Float32Array, width: int, height: int) -> Box:
    """Return (left, top, width, height) as a box, clipped to an image of ``width`` x ``height``."""
    x, y, w, h = (float(v) for v in found)
    left, top = min(max(0, round(x)), width - 1), min(max(0, round(y)), height - 1)
    right, bottom = min(width, round(x + w)), min(height, round(y + h))
    return Box(left, top, max(1, right - left), max(1, bottom - top))


def crop_region(width: int, height: int, box: Box) -> Box:
    """Return the square around ``box`` that the face CNN sees, inside an image of ``width`` x ``height``."""
    side = min(round(max(box.width, box.height) * _MARGIN), height, width)
    left = min(max(0, box.x + box.width // 2 - side // 2), width - side)
    top = min(max(0, box.y + box.height // 2 - side // 2), height - side)
    return Box(left, top, side, side)


def crop_faces(image: DecodedImage, boxes: Sequence[Box]) -> list[Pixels]:
    """Return a crop [224, 224, 3] uint8 per box: the box widened around its centre, square, inside the image."""
    regions = [crop_region(image.width, image.height, box) for box in boxes]
    return [image.to_srgb(resize_view(cut(image.coded, region), FACE_SIZE)) for region in regions]


def resize_view(pixels: Pixels, side: int) -> Pixels:
    """Return the pixels resized to ``side`` x ``side``: down by 2x2 and area averages, up by cubic interpolation."""
    while min(pixels.shape[:2]) >= 2 * side:
        pixels = halved(pixels)
    smaller = side * side < pixels.shape[0] * pixels.shape[1]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=interpolation), dtype=np.uint8)
