"""The images that the benchmarks send: photographs of fixed sizes, and images with a fixed number of faces."""

from __future__ import annotations

import io
from functools import cache

import cv2
import numpy as np

from veridict.forensics.arrays import Pixels

#: Name -> (width, height): a thumbnail, a screen, a phone camera.
SIZES = {"640x480": (640, 480), "1920x1080": (1920, 1080), "4000x3000": (4000, 3000)}
#: The sizes of the megapixel sweep: 0.3, 2, 6 and 12 megapixels.
MEGAPIXELS = {"640x480": (640, 480), "1920x1080": (1920, 1080), "3000x2000": (3000, 2000), "4000x3000": (4000, 3000)}
#: Standard deviation of the noise in a photograph, in grey levels; the second gives files of two bits per pixel, as a
#: camera writes them.
NOISE, DETAILED_NOISE = 3.0, 12.0
#: The face counts of the face sweep; all images have the same size.
FACE_COUNTS = (0, 1, 3, 8)
_PORTRAITS_SIZE = (1920, 1080)
_COLUMNS = 4


def encode_jpeg(pixels: Pixels, quality: int = 85) -> bytes:
    """Return RGB pixels uint8 [H, W, 3] as a JPEG file; above quality 90 chroma is stored at full resolution."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0 if quality > 90 else 2)
    return buffer.getvalue()


def add_noise(pixels: Pixels, deviation: float = NOISE) -> Pixels:
    """Return the pixels with Gaussian noise like a sensor's, which enlarging had removed; the noise is reproducible."""
    noise = np.random.default_rng(0).normal(0, deviation, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


@cache
def photograph(width: int, height: int, deviation: float = NOISE) -> bytes:
    """Return a JPEG (quality 85) of this size with one real face: scikit-image's astronaut with added noise."""
    from skimage import data

    pixels = cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_CUBIC)
    return encode_jpeg(add_noise(np.asarray(pixels, dtype=np.uint8), deviation))


@cache
def portraits(faces: int) -> bytes:
    """Return a 1920x1080 JPEG with ``faces`` (0 to 8) portraits on a photograph of a cup of coffee.

    Raises:
        ValueError: ``faces`` is out of range.
    """
    from skimage import data

    if not 0 <= faces <= 2 * _COLUMNS:
        raise ValueError(f"an image holds 0 to {2 * _COLUMNS} faces, not {faces}")
    width, height = _PORTRAITS_SIZE
    pixels = np.asarray(cv2.resize(data.coffee(), _PORTRAITS_SIZE, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    cell = width // _COLUMNS
    portrait = cv2.resize(data.astronaut()[:300, 80:380], (cell, cell), interpolation=cv2.INTER_CUBIC)
    for number in range(faces):
        row, column = divmod(number, _COLUMNS)
        pixels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = portrait
    return encode_jpeg(add_noise(pixels[:height]))
