"""Decoded PNG and WebP images as plain RGB: transparent parts on white, 16 bits scaled to 8.

Large images are converted strip by strip: each step would otherwise need a copy of the whole image.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from .arrays import Pixels
from .colour import ToSrgb

# OpenCV writes to stderr what it finds wrong with a file; the answer says it.
cv2.setLogLevel(0)

_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
#: Pixels of a strip.
_STRIP = 1 << 20


def flatten(image: Image.Image, convert: ToSrgb | None) -> tuple[Pixels, ToSrgb | None]:
    """Return a loaded image as RGB pixels uint8 [H, W, 3], and the colour conversion that is left to do.

    In transparent images colours are converted here, before transparent parts become white.
    """
    transparent = image.mode in _TRANSPARENT_MODES or "transparency" in image.info
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    top = 0
    for strip in _strips(image):
        pixels[top : top + strip.height] = _flatten_strip(strip, convert) if transparent else _to_rgb(_scale(strip))
        top += strip.height
    return pixels, None if transparent else convert


def ends_blank(image: Image.Image) -> bool:
    """Return whether one of the last two rows is zero, as Pillow leaves rows that a file does not have.

    In an interlaced image the last pass holds every other row.
    """
    rows = [image.crop((0, row, image.width, row + 1)) for row in range(max(0, image.height - 2), image.height)]
    return not all(any(row.tobytes()) for row in rows)


def decode_webp(data: bytes) -> Pixels | None:
    """Return the RGB pixels of a still WebP: uint8 [H, W, 3], or [H, W, 4] with transparency; None: it is damaged.

    Raises:
        MemoryError: it needs more memory than this process may take.

    Pillow decodes every WebP as an animation, with twice the memory and time.
    """
    # OpenCV asks for 32 bytes, and one pixel takes fewer; bytes after the end are passed over.
    try:
        stored = cv2.imdecode(np.frombuffer(data.ljust(32, b"\0"), np.uint8), cv2.IMREAD_UNCHANGED)
        if stored is None:
            return None
        order = cv2.COLOR_BGRA2RGBA if stored.shape[2] == 4 else cv2.COLOR_BGR2RGB
        return np.asarray(cv2.cvtColor(stored, order), dtype=np.uint8)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        return None


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(image.height, top + rows)))


def _scale(image: Image.Image) -> Image.Image:
    """Return an image of 16-bit grey with 8 bits, which ``convert`` would clip at 255; others as they are."""
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray((levels >> 8).clip(0, 255).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _flatten_strip(image: Image.Image, convert: ToSrgb | None) -> Pixels:
    layer = _scale(image).convert("RGBA")
    if convert is not None:
        opaque = Image.fromarray(convert(_to_rgb(layer)))
        opaque.putalpha(layer.getchannel("A"))
        layer = opaque
    background = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return _to_rgb(Image.alpha_composite(background, layer))


def _to_rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"), dtype=np.uint8)
