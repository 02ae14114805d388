"""The re-encodings by which the stability of a verdict is measured: what platforms do to uploads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from .arrays import Pixels
from .faces import resize_view
from .views import QUALITY, clip_view, compress

_SCALE = 0.75


def _reduce(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    size = (max(1, round(width * _SCALE)), max(1, round(height * _SCALE)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


#: The re-encodings by the names that an answer has for them, in the order of these; from pixels uint8 [H, W, 3].
ALTERATIONS: Mapping[str, Callable[[Pixels], Pixels]] = {f"jpeg_{QUALITY}": compress, "scale_0.75": _reduce}


def alter_views(small: Pixels, crops: Sequence[Pixels]) -> list[list[Pixels]]:
    """Return what the networks see of every re-encoding: CLIP's view, then the face crops, uint8 [224, 224, 3] each.

    ``small`` is the copy that CLIP's view is taken from (at most 512 pixels long), ``crops`` are the face crops. The
    order is that of :data:`ALTERATIONS`.
    """
    return [
        [clip_view(alter(small)), *(resize_view(alter(crop), crop.shape[0]) for crop in crops)]
        for alter in ALTERATIONS.values()
    ]
