"""The bytes that stand for a PIL image: those of its own file while it is unmodified, else a PNG of its pixels."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ._errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_ACCEPTED = {"JPEG", "MPO", "PNG", "WEBP"}
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
#: Modes that PNG does not have, and the mode that keeps their transparency. All others become RGB.
_NEAREST = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
#: zlib level of the PNG: the fastest. The default level takes several times as long for files a tenth smaller.
_COMPRESS_LEVEL = 1
_ORIENTATION_TAG = 274
# A PIL image reads its file while it is loaded. The same image may be passed to several threads.
_reading = threading.Lock()


def encode_image(image: Image.Image) -> bytes:
    """Return the encoded bytes to send for a PIL image.

    An unmodified image of an accepted format is sent as its own file: it keeps its compression history, and encoding it
    again would take seconds. Other images are turned upright by their EXIF orientation and encoded as PNG.

    Raises:
        InputError: the image has no pixels, its file is damaged, or its mode has no equivalent in PNG.
    """
    if image.width < 1 or image.height < 1:
        raise InputError(f"the image has no pixels: {image.width}x{image.height}")
    with _reading:
        own = _own_file(image)
        if own is not None:
            return own
        try:
            image.load()
        except Exception as error:  # codecs raise many types on damaged files
            raise InputError(f"cannot read the PIL image: {error}") from error
    try:
        return _to_png(image)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot send a PIL image of mode {image.mode}: {error}") from error


def _own_file(image: Image.Image) -> bytes | None:
    """Return the file of an unmodified image, or None."""
    from PIL import Image, ImageFile

    if not isinstance(image, ImageFile.ImageFile) or image.format not in _ACCEPTED or image.tell() != 0:
        return None
    try:
        # Pillow forgets the stream when it decodes. Until then the pixels cannot have been modified.
        decoded = image.fp is None
        data = Path(os.fsdecode(image.filename)).read_bytes() if decoded and image.filename else _read_stream(image.fp)
        with Image.open(io.BytesIO(data)) as again:
            if decoded:
                again.load()
            alike = image == again if decoded else _describe(image) == _describe(again)
            oriented = image.getexif().get(_ORIENTATION_TAG) == again.getexif().get(_ORIENTATION_TAG)
        return data if alike and oriented else None
    except Exception:  # the file is gone or damaged: the pixels are what is left
        return None


def _describe(image: Image.Image) -> tuple[object, ...]:
    return image.format, image.mode, image.size, image.info


def _read_stream(stream: IO[bytes] | None) -> bytes:
    if stream is None:
        raise ValueError("the image has no file")
    position = stream.tell()
    stream.seek(0)
    try:
        return bytes(stream.read())
    finally:
        stream.seek(position)


def _to_png(image: Image.Image) -> bytes:
    from PIL import ImageOps

    with contextlib.suppress(Exception):  # damaged EXIF data ask for no turning
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise InputError(f"an image of mode {image.mode} has no defined white; convert it to L, RGB or I;16")
        image = image.convert("L" if values.max() < 256 else "I;16")
    elif image.mode.startswith("I;16") and image.mode != "I;16":
        image = image.convert("I").convert("I;16")
    elif image.mode not in _PNG_MODES:
        image = image.convert(_NEAREST.get(image.mode, "RGB"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_COMPRESS_LEVEL)
    return buffer.getvalue()
