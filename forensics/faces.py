"""Face finding and the views the networks see. ``find_faces`` is the one place to put a better finder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .signature import CLIP_SIZE, FACE_SIZE, MAX_FACES

Pixels = npt.NDArray[np.uint8]

#: Longest side at which the cascade searches; its cost grows with the area.
_SEARCH_SIDE = 480
#: A face smaller than this share of the searched picture's shortest side is too small to judge.
_MIN_SHARE = 0.08
#: The cascade's box is tight about eyes and mouth; the face CNN learned from crops this much wider.
_MARGIN = 1.5


class Box(NamedTuple):
    """A rectangle in pixels of the upright image: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


_local = threading.local()  # a classifier keeps its working image inside, so threads must not share one


def _cascade() -> cv2.CascadeClassifier:
    if not hasattr(_local, "cascade"):
        path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt2.xml"
        _local.cascade = cv2.CascadeClassifier(str(path))
    cascade: cv2.CascadeClassifier = _local.cascade
    return cascade


def find_faces(pixels: Pixels) -> list[Box]:
    """Return the boxes of frontal faces in RGB pixels [H, W, 3], largest first, at most ``MAX_FACES``.

    Method: OpenCV's bundled Haar cascade (Viola & Jones 2001; Lienhart's alt2 training) at a bounded working size.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, _SEARCH_SIDE / max(height, width))
    small = pixels
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if min(small.shape[:2]) < 24:
        return []
    grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    smallest = max(24, int(min(grey.shape) * _MIN_SHARE))
    found, _, weights = _cascade().detectMultiScale3(
        grey, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest), outputRejectLevels=True
    )
    boxes = [Box(*(round(float(v) / scale) for v in box)) for box in found]
    order = sorted(range(len(boxes)), key=lambda i: (-boxes[i].width * boxes[i].height, -float(weights[i]), boxes[i]))
    return [boxes[i] for i in order[:MAX_FACES]]


def crop_face(pixels: Pixels, box: Box) -> Pixels:
    """Return the face [224, 224, 3] uint8: the box widened about its centre, kept square, clipped to the picture."""
    height, width = pixels.shape[:2]
    side = min(round(max(box.width, box.height) * _MARGIN), height, width)
    left = min(max(0, box.x + box.width // 2 - side // 2), width - side)
    top = min(max(0, box.y + box.height // 2 - side // 2), height - side)
    return resize_view(pixels[top : top + side, left : left + side], FACE_SIZE)


def clip_view(pixels: Pixels) -> Pixels:
    """Return the whole picture squeezed to [224, 224, 3] uint8, as CLIP sees it.

    Squeezing, not centre cropping: what is manipulated often stands at the side of a picture.
    """
    return resize_view(pixels, CLIP_SIZE)


def resize_view(pixels: Pixels, side: int) -> Pixels:
    """Resize to ``side`` x ``side``: area averaging down, cubic up."""
    smaller = side * side < pixels.shape[0] * pixels.shape[1]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=interpolation), dtype=np.uint8)
