"""The PDQ hash of a picture: 256 bits that stay alike when the picture is resized or compressed again.

PDQ reduces the luma to 64x64 samples with two box filters, takes their discrete cosine transform, and compares 16x16
coefficients with their median ("The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm",
https://github.com/facebook/ThreatExchange/blob/main/hashing/hashing.pdf). The filters and the sampling are linear along
each side, so here they are one matrix per side. The reference implementation (package ``pdqhash``) gives the same bits
for the same pixels; a test compares them.

A picture may be hashed from a smaller copy. The matrix then stands for enlarging the copy to the full size first, so
that the samples lie where the reference takes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ..arrays import AnyArray, Float32Array, Pixels

#: Bits of a hash, and the hexadecimal digits that write it.
BITS = 256
DIGITS = BITS // 4
#: The hash of a picture that is too small to be hashed, as the reference writes it.
NO_HASH = "0" * DIGITS
#: A side of fewer pixels cannot be hashed (the reference's MIN_HASHABLE_DIM).
_LEAST_SIDE = 5
_SAMPLES = 64
_COEFFICIENTS = 16
#: Sums of differences between neighbouring samples, in percent of the brightness range, per point of quality.
_GRADIENTS_PER_POINT = 90


@dataclass(frozen=True)
class PdqHash:
    """``hex``: 64 hexadecimal digits in lower case. ``quality`` 0..100: how much there is in the picture to hash."""

    hex: str
    quality: int


def hash_pixels(pixels: Pixels, size: tuple[int, int] | None = None) -> PdqHash:
    """Return the PDQ hash of RGB pixels uint8 [H, W, 3].

    ``size``: width and height in pixels of the picture that the pixels are a copy of; None: the pixels' own.
    """
    rows, columns = pixels.shape[:2]
    width, height = size or (columns, rows)
    if min(rows, columns, width, height) < _LEAST_SIDE:
        return PdqHash(NO_HASH, 0)
    luma = cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2GRAY)
    samples = _sampling(height, rows) @ luma @ _sampling(width, columns).T
    transform = _cosines()
    coefficients = (transform @ samples @ transform.T).ravel()
    # The reference takes the lower of the two middle values.
    median = np.partition(coefficients, BITS // 2 - 1)[BITS // 2 - 1]
    # The reference writes the last coefficient first.
    bits = (coefficients > median)[::-1]
    return PdqHash(np.packbits(bits).tobytes().hex(), _quality(samples))


def _quality(samples: AnyArray) -> int:
    """Return the quality of 64x64 samples: whole percents of the differences between neighbours, summed and scaled."""
    total = sum(
        int(np.abs(np.diff(samples, axis=axis) * np.float32(100) / np.float32(255)).astype(np.int64).sum())
        for axis in (0, 1)
    )
    return min(100, total // _GRADIENTS_PER_POINT)


@lru_cache(maxsize=1)
def _cosines() -> Float32Array:
    """Return the rows 1 to 16 [16, 64] of the discrete cosine transform of 64 samples."""
    order = np.arange(1, _COEFFICIENTS + 1)
    position = 2 * np.arange(_SAMPLES) + 1
    matrix = math.sqrt(2 / _SAMPLES) * np.cos(math.pi / 2 / _SAMPLES * np.outer(order, position))
    return np.asarray(matrix, dtype=np.float32)


@lru_cache(maxsize=64)
def _sampling(full: int, small: int) -> Float32Array:
    """Return the matrix [64, small] that takes a side of the copy to 64 filtered samples of the full side (pixels).

    It equals enlarging ``small`` values linearly to ``full``, two box filters, then taking the values in the middle of
    64 equal parts. The reference's window is as wide as half a part, rounded; near the ends it averages what there is.
    """
    window = (full + 2 * _SAMPLES - 1) // (2 * _SAMPLES)
    after = (window + 2) // 2
    at = np.arange(full)
    begin, end = np.maximum(at - (window - after), 0), np.minimum(at + after, full)
    weight = 1.0 / (end - begin)
    middle = ((np.arange(_SAMPLES) + 0.5) * full / _SAMPLES).astype(np.int64)
    # Per sample and pixel of the second filter's window, the window of the first filter: a step up, and one down.
    first = begin[begin[middle]]
    steps = np.zeros((_SAMPLES, 2 * window + 2))
    row = np.arange(_SAMPLES)
    for offset in range(window):
        pixel = begin[middle] + offset
        share = np.where(pixel < end[middle], weight[middle], 0.0)
        pixel = np.minimum(pixel, full - 1)
        steps[row, begin[pixel] - first] += share * weight[pixel]
        steps[row, end[pixel] - first] -= share * weight[pixel]
    values = np.cumsum(steps, axis=1)
    pixels = np.minimum(first[:, None] + np.arange(values.shape[1]), full - 1)
    # Each full-size pixel lies between two pixels of the copy.
    position = np.clip((pixels + 0.5) * small / full - 0.5, 0, small - 1)
    left = np.minimum(position.astype(np.int64), small - 2)
    right_share = position - left
    cell = row[:, None] * small + left
    matrix = np.bincount(cell.ravel(), (values * (1 - right_share)).ravel(), _SAMPLES * small)
    matrix += np.bincount(cell.ravel() + 1, (values * right_share).ravel(), _SAMPLES * small)
    return matrix.reshape(_SAMPLES, small).astype(np.float32)
