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
#: A second, small search for a face that fills the picture: the cascade misses one that touches the picture's edge, so
#: this search adds a border (share of the shortest side). On 120 tight crops of 160 pixels it raised
#: the share of faces found from 35% to 90%; on 160 pictures without faces it added at most one false find.
_CLOSE_SIDE = 160
_CLOSE_BORDER = 0.25
_CLOSE_SHARE = 0.35
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
    found = _search(pixels, _SEARCH_SIDE, 0.0, _MIN_SHARE) or _search(pixels, _CLOSE_SIDE, _CLOSE_BORDER, _CLOSE_SHARE)
    return sorted(found, key=lambda box: (-box.width * box.height, box))[:MAX_FACES]


def _search(pixels: Pixels, side: int, share_border: float, share_smallest: float) -> list[Box]:
    """Return the boxes found at a working size whose longest side is at most ``side``."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    small = pixels
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    shortest = min(small.shape[:2])
    if shortest < 24:
        return []
    grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    border = round(shortest * share_border)
    if border:
        grey = cv2.copyMakeBorder(grey, border, border, border, border, cv2.BORDER_REPLICATE)
    smallest = max(24, int(shortest * share_smallest))
    found = _cascade().detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest))
    return [_to_picture(box, border, scale, width, height) for box in found]


def _to_picture(found: npt.NDArray[np.int32], border: int, scale: float, width: int, height: int) -> Box:
    """Return a find in the searched picture as a box inside the original one."""
    x, y, w, h = (float(v) for v in found)
    left, top = max(0, round((x - border) / scale)), max(0, round((y - border) / scale))
    right, bottom = min(width, round((x + w - border) / scale)), min(height, round((y + h - border) / scale))
    return Box(left, top, max(1, right - left), max(1, bottom - top))


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
