"""A texture descriptor of the whole picture: how its finest differences, spectrum, tone and sharpness are distributed.

Generators and renderers leave other statistics than lenses and sensors do. The descriptor is measured on a normalised
copy (longest side at most 512, one JPEG round trip), so that size, format and quality of the file say next to nothing:
on 136 labelled pictures a linear model on it ranks as well at JPEG quality 40 as on the files themselves.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from .pixels import Pixels
from .resize import shrink

Floats = npt.NDArray[np.float32]

#: Length of the descriptor.
SIZE = 104
#: Below this shortest side the picture has too few pixels for its statistics.
MIN_SIDE = 64
#: Longest side of the copy that is described.
SIDE = 512
_QUALITY = 75
_STEP, _TRUNCATE = 2, 2
_LEVELS = 2 * _TRUNCATE + 1
_WINDOW, _BANDS = 256, 16
_BLOCK = 32
_TINY = 1e-4


def normalise(pixels: Pixels) -> Pixels:
    """Return the picture [H, W, 3] at no more than 512 pixels, after one JPEG round trip at quality 75 (4:2:0)."""
    pixels = shrink(pixels, SIDE)
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=_QUALITY, colorsubsampling="420")
    return np.asarray(simplejpeg.decode_jpeg(encoded), dtype=np.uint8)


def describe_texture(pixels: Pixels) -> Floats | None:
    """Return the descriptor [104] float32 of RGB pixels uint8 [H, W, 3]; None when a side is below 64 pixels."""
    if min(pixels.shape[:2]) < MIN_SIDE:
        return None
    small = normalise(pixels)
    planes = cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb))
    parts = [co_occurrence(planes[0]), spectrum(planes[0]), tone(small)]
    parts += [residual(plane) for plane in planes]
    parts.append(sharpness(planes[0]))
    return np.concatenate(parts).astype(np.float32)


def _histogram(plane: Pixels, bins: int) -> npt.NDArray[np.float64]:
    """Return the shares [bins] of the values 0..bins-1."""
    counts = cv2.calcHist([np.ascontiguousarray(plane)], [0], None, [bins], [0, bins])[:, 0]
    return np.asarray(counts / plane.size, dtype=np.float64)


def co_occurrence(luma: Pixels) -> npt.NDArray[np.float64]:
    """Return log shares [63] of triples of neighbouring differences, truncated at 2 steps of 2 grey levels.

    Third-order co-occurrences of the first-order residual, along rows and columns, mirrored triples merged (Fridrich &
    Kodovsky 2012).
    """
    rows, columns = (
        cv2.LUT(_difference(*pair), _quantiser()) for pair in ((luma[:, 1:], luma[:, :-1]), (luma[1:], luma[:-1]))
    )
    first, second = np.uint8(_LEVELS * _LEVELS), np.uint8(_LEVELS)
    shares = _histogram(rows[:, :-2] * first + rows[:, 1:-1] * second + rows[:, 2:], _LEVELS**3)
    shares += _histogram(columns[:-2] * first + columns[1:-1] * second + columns[2:], _LEVELS**3)
    merged = shares + shares[::-1]
    return np.asarray(np.log(merged[: _LEVELS**3 // 2 + 1] + _TINY), dtype=np.float64)


def _difference(after: Pixels, before: Pixels) -> Pixels:
    """Return after - before, held to -128..127, as bytes: far beyond where it is truncated."""
    return np.asarray(cv2.subtract(after, before, dtype=cv2.CV_8S), dtype=np.int8).view(np.uint8)


@cache
def _quantiser() -> Pixels:
    """Return the level 0..4 of every difference's byte [256]; half to even, as numpy rounds."""
    differences = np.arange(256, dtype=np.uint8).view(np.int8)
    return np.asarray(np.clip(np.round(differences / _STEP), -_TRUNCATE, _TRUNCATE) + _TRUNCATE, dtype=np.uint8)


@cache
def _bands() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Return the band [256 * 129] of every frequency (0 = none), its share of the band's mean, the window [256, 256].

    Frequencies beyond column 128 mirror others, so a column that has a mirror counts twice.
    """
    offset = np.fft.fftfreq(_WINDOW, 1.0 / _WINDOW)
    radius = np.hypot(offset[:, None], offset[None, : _WINDOW // 2 + 1])
    edges = np.geomspace(2, _WINDOW / 2, _BANDS + 1)
    band = np.searchsorted(edges, radius, side="right")
    band[band > _BANDS] = 0
    times = np.full(radius.shape, 2.0)
    times[:, [0, -1]] = 1.0
    share = times / np.bincount(band.ravel(), times.ravel())[band]
    window = np.outer(np.hanning(_WINDOW), np.hanning(_WINDOW)).astype(np.float32)
    return band.ravel(), share, window


def spectrum(luma: Pixels) -> npt.NDArray[np.float64]:
    """Return the mean log-power [16] of the central 256x256 pixels in geometric bands from 2 to 128 cycles."""
    height, width = luma.shape
    if min(height, width) < _WINDOW:
        luma = np.asarray(cv2.resize(luma, (_WINDOW, _WINDOW), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    else:
        top, left = (height - _WINDOW) // 2, (width - _WINDOW) // 2
        luma = luma[top : top + _WINDOW, left : left + _WINDOW]
    band, share, window = _bands()
    grey = luma.astype(np.float32)
    transformed = cv2.dft((grey - grey.mean()) * window, flags=cv2.DFT_COMPLEX_OUTPUT)
    real, imaginary = cv2.split(np.ascontiguousarray(transformed[:, : _WINDOW // 2 + 1]))
    power = (real * real + imaginary * imaginary) * share
    return np.asarray(np.log(np.bincount(band, power.ravel(), _BANDS + 1)[1:] + 1e-3), dtype=np.float64)


def _share_above(plane: Pixels, value: int) -> float:
    """Return the share of pixels above ``value``."""
    above = cv2.threshold(plane, value, 255, cv2.THRESH_BINARY)[1]
    return cv2.countNonZero(above) / plane.size


def tone(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Return mean and deviation of saturation and of value (0..255), and the shares of near-black and near-white."""
    saturation, value = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))[1:]
    moments = [figure.item() for plane in (saturation, value) for figure in cv2.meanStdDev(plane)]
    return np.array([*moments, 1.0 - _share_above(value, 19), _share_above(value, 245)])


def residual(plane: Pixels) -> npt.NDArray[np.float64]:
    """Return [4] of |plane - 3x3 median|: log mean, log mean square, share of zeros, share above 8."""
    left = np.asarray(cv2.absdiff(plane, cv2.medianBlur(plane, 3)), dtype=np.uint8)
    mean, square = (cv2.norm(left, kind) / left.size for kind in (cv2.NORM_L1, cv2.NORM_L2SQR))
    zeros = 1.0 - cv2.countNonZero(left) / left.size
    return np.array([np.log(mean + 0.01), np.log(square + 0.01), zeros, _share_above(left, 8)], dtype=np.float64)


def sharpness(luma: Pixels) -> npt.NDArray[np.float64]:
    """Return [7]: the share of edge pixels (Canny), and of the blocks' log Laplacian variance the quantiles and spread.

    Quantiles at 5, 25, 50, 75 and 95%, over 32x32 blocks, and their standard deviation: a picture that is sharp and
    blurred in places unlike a lens's depth of field shows here.
    """
    edges = float(np.count_nonzero(cv2.Canny(luma, 80, 160))) / luma.size
    laplacian = cv2.Laplacian(luma, cv2.CV_16S).astype(np.float32)
    rows, columns = luma.shape[0] // _BLOCK, luma.shape[1] // _BLOCK
    whole = laplacian[: rows * _BLOCK, : columns * _BLOCK]
    # Shrinking by area to a pixel per block is the mean over the block.
    mean, square = (cv2.resize(v, (columns, rows), interpolation=cv2.INTER_AREA) for v in (whole, whole * whole))
    variance = np.log(np.maximum(square - mean * mean, 0.0) + 1.0).ravel()
    return np.array([edges, *np.quantile(variance, [0.05, 0.25, 0.5, 0.75, 0.95]), variance.std()], dtype=np.float64)
