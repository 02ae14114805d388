"""The pictures the benchmark sends: real photographs at set sizes, and with a set number of faces."""

from __future__ import annotations

import io
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

#: Name -> (width, height): a thumbnail, a screen, a phone camera.
SIZES = {"640x480": (640, 480), "1920x1080": (1920, 1080), "4000x3000": (4000, 3000)}
#: The sweep over megapixels: 0.3, 2, 6 and 12.
MEGAPIXELS = {"640x480": (640, 480), "1920x1080": (1920, 1080), "3000x2000": (3000, 2000), "4000x3000": (4000, 3000)}
#: Deviation of the grain in a photograph, in grey levels; the other makes a file of two bits a pixel, like a camera's.
GRAIN, DETAILED_GRAIN = 3.0, 12.0
#: The sweep over faces; all at one size.
FACES = (0, 1, 3, 8)
_CROWD = (1920, 1080)
_COLUMNS = 4


def encode_jpeg(pixels: Pixels, quality: int = 85) -> bytes:
    """Return a JPEG file of RGB pixels uint8 [H, W, 3], with chroma at full resolution above quality 90."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0 if quality > 90 else 2)
    return buffer.getvalue()


def with_grain(pixels: Pixels, deviation: float = GRAIN) -> Pixels:
    """Return the pixels with sensor-like noise, which enlarging has smoothed away; always the same."""
    grain = np.random.default_rng(0).normal(0, deviation, pixels.shape)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


@cache
def photograph(width: int, height: int, grain: float = GRAIN) -> bytes:
    """Return a JPEG (quality 85) of that size with a real face in it, from scikit-image's astronaut."""
    from skimage import data

    pixels = cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_CUBIC)
    return encode_jpeg(with_grain(np.asarray(pixels, dtype=np.uint8), grain))


@cache
def crowd(faces: int) -> bytes:
    """Return a 1920x1080 JPEG with ``faces`` (0 to 8) portraits on a photograph of a cup of coffee."""
    from skimage import data

    if not 0 <= faces <= 2 * _COLUMNS:
        raise ValueError(f"a picture of 0 to {2 * _COLUMNS} faces, not {faces}")
    width, height = _CROWD
    pixels = np.asarray(cv2.resize(data.coffee(), _CROWD, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    cell = width // _COLUMNS
    portrait = cv2.resize(data.astronaut()[:300, 80:380], (cell, cell), interpolation=cv2.INTER_CUBIC)
    for number in range(faces):
        row, column = divmod(number, _COLUMNS)
        pixels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = portrait
    return encode_jpeg(with_grain(pixels[:height]))
