"""Embedded colour profiles: the conversion to sRGB that every viewer makes, at a bounded cost.

A profile that cannot be read, is too large, or does not fit the channels of the image is ignored, as browsers do.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from PIL import Image

from .arrays import Float64Array, Pixels
from .containers import MAX_PROFILE

#: Converts pixels [H, W, 3] uint8, grey ones with equal channels, to sRGB pixels of the same shape.
ToSrgb = Callable[[Pixels], Pixels]

#: A profile that moves no colour by more than this (levels of 255) is taken for sRGB, and nothing is converted.
_SAME = 3
#: Pixels that are converted at a time, so that the memory does not grow with the image.
_BAND = 1 << 20
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_CHANNELS = {"L": 1, "RGB": 3, "CMYK": 4}
_CLASSES = (b"mntr", b"scnr", b"prtr", b"spac")
#: White and primaries (x, y of white, red, green, blue) by the code points of ITU-T H.273.
_PRIMARIES = {
    1: (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    5: (0.3127, 0.3290, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
#: Exponents of transfer functions by the same code points. The camera curves (1, 6, 14, 15) are shown as sRGB.
_EXPONENTS = {4: 2.2, 5: 2.8, 8: 1.0}
_SRGB_LIKE = (1, 6, 13, 14, 15)
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def space_of(profile: bytes) -> str:
    """Return the colour space of an ICC profile as a mode of Pillow (RGB, L, CMYK); "": it cannot be applied."""
    fits = 132 <= len(profile) <= MAX_PROFILE and profile[36:40] == b"acsp" and profile[12:16] in _CLASSES
    return _SPACES.get(profile[16:20], "") if fits else ""


def to_srgb(profile: bytes, channels: int) -> ToSrgb | None:
    """Return the conversion that an ICC profile asks for; None: there is nothing to convert.

    ``channels`` is 1 for grey and 3 for colour. Converting takes 25 ns per pixel for colour and 1 ns for grey.
    """
    mode = space_of(profile)
    return _conversion(profile, mode) if mode in ("L", "RGB") and _CHANNELS[mode] == channels else None


def cmyk_to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Return a CMYK image as RGB by its profile; None where the profile cannot be applied."""
    from PIL import ImageCms

    if space_of(profile) != "CMYK":
        return None
    transform = _transform(profile, "CMYK")
    return None if transform is None else ImageCms.applyTransform(image, transform)


def profile_of_gamma(gamma: float, chromaticities: tuple[float, ...]) -> bytes:
    """Return the ICC profile that gAMA and cHRM of a PNG describe, or b"" for values that describe none."""
    if not 0.01 <= gamma <= 100:
        return b""
    # 1 / 2.2 is what programs write for the curve of sRGB.
    return _matrix_profile(chromaticities, None if abs(gamma - 1 / 2.2) < 0.01 else 1 / gamma)


def profile_of_code_points(primaries: int, transfer: int) -> bytes:
    """Return the ICC profile for cICP of a PNG, or b"" for sRGB and for what has no rendering of 8 bits (PQ, HLG)."""
    chromaticities = _PRIMARIES.get(primaries)
    if chromaticities is None or (transfer not in _SRGB_LIKE and transfer not in _EXPONENTS):
        return b""
    return _matrix_profile(chromaticities, _EXPONENTS.get(transfer))


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> Any:
    """Return Pillow's transform to sRGB, or None where littlecms cannot build one; threads share it."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(_without_float_tables(profile)))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # littlecms and Pillow raise several types; a profile is never a reason to refuse an image
        return None


@lru_cache(maxsize=8)
def _conversion(profile: bytes, mode: str) -> ToSrgb | None:
    transform = _transform(profile, mode)
    if transform is None:
        return None
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    sample = (np.concatenate([greys, cube]) if mode == "RGB" else greys)[None]
    converted = _apply(sample, transform, mode)
    if np.abs(converted.astype(np.int16) - sample).max() <= _SAME:
        return None
    if mode == "L":
        return lambda pixels: np.asarray(cv2.LUT(pixels, converted), dtype=np.uint8)
    return lambda pixels: _apply(pixels, transform, mode)


def _apply(pixels: Pixels, transform: Any, mode: str) -> Pixels:
    from PIL import ImageCms

    result = np.empty_like(pixels, order="C")
    rows = max(1, _BAND // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        band = np.ascontiguousarray(pixels[top : top + rows] if mode == "RGB" else pixels[top : top + rows, :, 0])
        result[top : top + rows] = np.asarray(ImageCms.applyTransform(Image.fromarray(band), transform))
    return result


def _without_float_tables(profile: bytes) -> bytes:
    """Return the profile without the tags D2Bx and B2Dx.

    Browsers ignore these tags, and their chains of elements have no bound but the size of the profile.
    """
    data = bytearray(profile)
    # A tag's name, offset and length take 12 bytes.
    tags = min(int.from_bytes(data[128:132], "big"), (len(data) - 132) // 12)
    for offset in range(132, 132 + 12 * tags, 12):
        if profile[offset : offset + 3] in (b"D2B", b"B2D"):
            data[offset : offset + 4] = b"none"
    return bytes(data)


def _matrix_profile(chromaticities: tuple[float, ...], exponent: float | None) -> bytes:
    """Return an ICC profile (version 2) of given white and primaries (x, y each), with a power curve or sRGB's."""
    try:
        columns = _to_d50(np.array(chromaticities, np.float64).reshape(4, 2))
    except (np.linalg.LinAlgError, FloatingPointError):
        return b""
    if not np.isfinite(columns).all() or np.abs(columns).max() > 4:
        return b""
    levels = np.arange(1024) / 1023
    if exponent is None:
        linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    else:
        linear = levels**exponent
    curve = b"curv\0\0\0\0" + len(levels).to_bytes(4, "big") + (linear * 65535).round().astype(">u2").tobytes()
    bodies = {b"wtpt": _xyz(_D50), b"rXYZ": _xyz(columns[:, 0]), b"gXYZ": _xyz(columns[:, 1])}
    bodies |= {b"bXYZ": _xyz(columns[:, 2]), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, data = len(bodies).to_bytes(4, "big"), b""
    for name, body in bodies.items():
        offset = 132 + 12 * len(bodies) + len(data)
        table += name + offset.to_bytes(4, "big") + len(body).to_bytes(4, "big")
        data += body
    size = (128 + len(table) + len(data)).to_bytes(4, "big")
    head = size + bytes(4) + b"\x02\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return head.ljust(128, b"\0") + table + data


def _to_d50(points: Float64Array) -> Float64Array:
    """Return the matrix [3, 3] from linear RGB to XYZ under D50, for white and primaries [4, 2] as x, y."""
    with np.errstate(all="raise"):
        xyz = np.stack([points[:, 0] / points[:, 1], np.ones(4), (1 - points.sum(axis=1)) / points[:, 1]])
        white, primaries = xyz[:, 0], xyz[:, 1:]
        matrix = primaries * np.linalg.solve(primaries, white)
        cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
        adapted = np.linalg.solve(_BRADFORD, cones[:, None] * _BRADFORD) @ matrix
    return np.asarray(adapted, dtype=np.float64)


def _xyz(values: Float64Array) -> bytes:
    return b"XYZ \0\0\0\0" + (values * 65536).round().astype(">i4").tobytes()
