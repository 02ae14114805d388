"""What stands in for a region that a method removes from a view, so that a network sees it without that region."""

from __future__ import annotations

import cv2
import numpy as np

from veridict.forensics.arrays import Float32Array, Pixels

#: Window in pixels of the blur that replaces a removed region: it keeps colours, removes structure, adds no hard edge.
_BLUR = 32
#: Standard deviation in pixels of the Gaussian blur; what it removes is the grain.
_GRAIN = 2.0
#: How far the grain is displaced, in pixels down and right: far enough that it comes from another region.
_SHIFT = (97, 61)
#: The background in the words of a result's settings.
BACKGROUND = f"blur({_BLUR},{_BLUR}) and displaced grain"


def background(view: Pixels) -> Float32Array:
    """Return what replaces removed regions, float32 [H, W, 3]: the blurred view plus the view's own grain, displaced.

    Blur or a flat colour would remove the grain as well, and grain is what the networks look for. Face CNN, 14
    photographs with a planted, resampled square: SHAP pointed at the square in 0.6 of them with displaced grain, in 0.4
    with the view's mean colour, in 0.1 with blur alone; chance is 0.1. Token head, 12 images with a square of the other
    class: a flat patch lowered the score nearly everywhere, so that 0.84 to 0.95 of the pixels of an occlusion map
    spoke for fake; with displaced grain 0.57 to 0.60 did (loadtests/EXPLANATIONS.md).
    """
    pixels = view.astype(np.float32)
    grain = pixels - cv2.GaussianBlur(pixels, (0, 0), _GRAIN)
    blurred = cv2.blur(pixels, (_BLUR, _BLUR))
    return np.asarray(np.clip(blurred + np.roll(grain, _SHIFT, axis=(0, 1)), 0, 255), dtype=np.float32)
