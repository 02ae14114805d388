"""Face finding and the views the networks see. ``find_faces`` is the one place to put a better finder.

The finder is YuNet (Wu, Peng & Yu 2023) in ONNX Runtime; its model card stands beside its weights in
``export/weights_data``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .decode import DecodedImage
from .pixels import Pixels
from .resize import halve_to, halved, shrink
from .signature import CLIP_SIZE, FACE_SIZE

Floats = npt.NDArray[np.float32]

_GRAPH = Path(__file__).parent / "data" / "face_finder.onnx"
#: Longest side at which faces are searched; the cost grows with the area. The network finds faces from 10 to 300
#: pixels, so at this size from 3% of the picture to one that fills it.
_SEARCH_SIDE = 320
_STRIDES = (8, 16, 32)
#: At this score, of 180 pictures of food, landscapes and drawn animals none had a false find.
_LOWEST_SCORE = 0.8
_OVERLAP = 0.3
#: A face smaller than this (pixels of the picture, longer side) is too small to judge.
_SMALLEST = 32
#: The finder's box runs from forehead to chin; the face CNN learned from crops this much wider.
_MARGIN = 1.35


class Box(NamedTuple):
    """A rectangle in pixels of the upright image: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


@cache
def _session() -> Any:
    """Return the network; its session is safe to share between threads and uses one thread per call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(_GRAPH, options, providers=["CPUExecutionProvider"])


def find_faces(pixels: Pixels, size: tuple[int, int] | None = None) -> list[Box]:
    """Return the boxes of all faces in RGB pixels uint8 [H, W, 3], largest first.

    ``size`` (width, height) is that of the picture ``pixels`` is a smaller copy of: boxes are in its coordinates.
    """
    width, height = size or (pixels.shape[1], pixels.shape[0])
    small = shrink(pixels, _SEARCH_SIDE)
    scale = np.array([small.shape[1] / width, small.shape[0] / height] * 2)
    # Multiples of 32, and never less than the graph's smallest input; what is added is black.
    rows, columns = (max(64, -(-side // 32) * 32) for side in small.shape[:2])
    canvas = np.zeros((1, rows, columns, 3), np.uint8)
    canvas[0, : small.shape[0], : small.shape[1]] = small
    maps = _session().run(None, {"PIXELS": canvas})
    found = np.concatenate([decode_map(m[0], stride) for m, stride in zip(maps, _STRIDES, strict=True)])
    found = found[found[:, 0] >= _LOWEST_SCORE]
    kept = cv2.dnn.NMSBoxes(found[:, 1:].tolist(), found[:, 0].tolist(), _LOWEST_SCORE, _OVERLAP)
    boxes = [_to_picture(found[i, 1:] / scale, width, height) for i in np.asarray(kept, dtype=int).ravel()]
    boxes = [box for box in boxes if max(box.width, box.height) >= _SMALLEST]
    return sorted(boxes, key=lambda box: (-box.width * box.height, box))


def decode_map(values: Floats, stride: int) -> Floats:
    """Return rows [H * W, 5] float32 of score, left, top, width, height in pixels, of one map [5, H, W]."""
    _, rows, columns = values.shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    score, dx, dy, log_width, log_height = values
    width, height = np.exp(np.minimum(log_width, 8.0)) * stride, np.exp(np.minimum(log_height, 8.0)) * stride
    left, top = (x + dx) * stride - width / 2, (y + dy) * stride - height / 2
    return np.asarray(np.stack([score, left, top, width, height], axis=-1).reshape(-1, 5), dtype=np.float32)


def _to_picture(found: Floats, width: int, height: int) -> Box:
    """Return (left, top, width, height) as a box inside a picture of that size."""
    x, y, w, h = (float(v) for v in found)
    left, top = min(max(0, round(x)), width - 1), min(max(0, round(y)), height - 1)
    right, bottom = min(width, round(x + w)), min(height, round(y + h))
    return Box(left, top, max(1, right - left), max(1, bottom - top))


def crop_region(width: int, height: int, box: Box) -> Box:
    """Return the square about a box that is cut for the face CNN, inside a picture of that size."""
    side = min(round(max(box.width, box.height) * _MARGIN), height, width)
    left = min(max(0, box.x + box.width // 2 - side // 2), width - side)
    top = min(max(0, box.y + box.height // 2 - side // 2), height - side)
    return Box(left, top, side, side)


def crop_faces(image: DecodedImage, boxes: Sequence[Box]) -> list[Pixels]:
    """Return each face [224, 224, 3] uint8: the box widened about its centre, kept square, clipped to the picture."""
    regions = [crop_region(image.width, image.height, box) for box in boxes]
    return [resize_view(pixels, FACE_SIZE) for pixels in image.source.windows(regions, FACE_SIZE)]


def clip_view(pixels: Pixels) -> Pixels:
    """Return the whole picture squeezed to [224, 224, 3] uint8, as CLIP sees it.

    Squeezing, not centre cropping: what is manipulated often stands at the side of a picture. Bilinear to twice the
    size and 2x2 averages take half the time of area averaging by the same fraction.
    """
    double = (2 * CLIP_SIZE, 2 * CLIP_SIZE)
    pixels = cv2.resize(halve_to(pixels, 2 * CLIP_SIZE), double, interpolation=cv2.INTER_LINEAR)
    return halved(np.asarray(pixels, dtype=np.uint8))


def resize_view(pixels: Pixels, side: int) -> Pixels:
    """Resize to ``side`` x ``side``: 2x2 and area averaging down, cubic up."""
    while min(pixels.shape[:2]) >= 2 * side:
        pixels = halved(pixels)
    smaller = side * side < pixels.shape[0] * pixels.shape[1]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=interpolation), dtype=np.uint8)
