"""From encoded bytes to pixels, once per image: allow-list, limits from the header, then one decode."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from .errors import ImageError
from .large_jpeg import LargeJpeg, pays
from .pixels import Luma, Pixels, Region, cut, to_luma, upright, upright_size
from .resize import to_preview

# Our own limit is far below the one Pillow warns at; the warning would only repeat our error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ORIENTATION_TAG = 274
#: From this longest side on, chroma is repeated instead of interpolated: a tenth off decoding (twice PREVIEW_SIDE).
_PLAIN_CHROMA = 1920
_SIGNATURES = {b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"<svg": "SVG", b"<?xml": "SVG or XML"}


@dataclass(frozen=True)
class Limits:
    """What is refused before pixels are touched."""

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_frames: int = 256


class Whole:
    """A picture of which every pixel [H, W, 3] was decoded."""

    def __init__(self, pixels: Pixels) -> None:
        """Take the upright pixels."""
        self.pixels = pixels

    @cached_property
    def preview(self) -> Pixels:
        """The pixels halved while the longest side keeps at least 960 of them."""
        return to_preview(self.pixels)

    def luma(self, region: Region) -> Luma:
        """Return the luma [H, W] of a region."""
        return to_luma(cut(self.pixels, region))

    def windows(self, regions: Sequence[Region], side: int) -> list[Pixels]:
        """Return the pixels of each region; a smaller copy whose sides keep ``side`` pixels would do as well."""
        return [cut(self.pixels, region) for region in regions]


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One decoded image, upright: the facts of its file, and its pixels as far as they are asked for."""

    format: str
    bytes: int
    sha256: str
    width: int
    height: int
    frames: int
    source: Whole | LargeJpeg

    @property
    def pixels(self) -> Pixels:
        """RGB pixels uint8 [H, W, 3]."""
        return self.source.pixels

    @property
    def preview(self) -> Pixels:
        """A copy uint8 [h, w, 3], smaller by a power of two, whose longest side keeps at least 960 pixels if it can."""
        return self.source.preview


def decode_image(data: bytes, limits: Limits = Limits()) -> DecodedImage:
    """Decode a JPEG, PNG or WebP file to upright RGB pixels.

    Byte, pixel and frame limits are checked from the header first. EXIF orientation is applied; transparency is laid on
    white; CMYK and 16-bit files are converted; of an animation the first frame is taken.

    Raises:
        ImageError: the file is refused, with the code that says why.
    """
    if not data:
        raise ImageError("image.empty")
    if len(data) > limits.max_bytes:
        raise ImageError("image.too_large", f"{len(data)} bytes, limit {limits.max_bytes}")
    image = _open(data)
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError("image.corrupt", f"{width}x{height} pixels")
    if width * height > limits.max_pixels:
        raise ImageError("image.too_many_pixels", f"{width}x{height}, limit {limits.max_pixels} pixels")
    # MPO (a JPEG with more pictures behind it) is how phones store depth maps and bursts: it is a JPEG to us.
    name = "JPEG" if image.format == "MPO" else str(image.format)
    frames = 1 if name == "JPEG" else int(getattr(image, "n_frames", 1))
    if frames > limits.max_frames:
        raise ImageError("image.too_many_frames", f"{frames} frames, limit {limits.max_frames}")
    orientation = _orientation(image)
    source = _open_large(image, data, name, orientation) or Whole(upright(_pixels(image, data, name), orientation))
    size = upright_size(width, height, orientation)
    return DecodedImage(name, len(data), hashlib.sha256(data).hexdigest(), *size, frames, source)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
    except Image.DecompressionBombError:
        raise ImageError("image.too_many_pixels") from None
    except UnidentifiedImageError:
        raise _refusal(data) from None
    except Exception:  # codecs raise many types on damaged headers; none may escape to a caller
        raise ImageError("image.corrupt") from None


def _refusal(data: bytes) -> ImageError:
    head = data[:64].lstrip()
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return ImageError("image.corrupt", "the header cannot be read")
    if head[4:8] == b"ftyp":
        return ImageError("image.unsupported_format", "this is HEIC, AVIF or a video")
    found = next((name for magic, name in _SIGNATURES.items() if head.startswith(magic)), None)
    return ImageError("image.unsupported_format", f"this is {found}" if found else "this is no known image format")


def _is_plain_jpeg(image: Image.Image, name: str) -> bool:
    return name == "JPEG" and image.mode in ("RGB", "L")


def _open_large(image: Image.Image, data: bytes, name: str, orientation: int) -> LargeJpeg | None:
    """Return a file that is better decoded in parts; None for any other, and for one that is damaged."""
    if not _is_plain_jpeg(image, name) or image.info.get("progressive") or not pays(*image.size, len(data)):
        return None
    try:
        return LargeJpeg(data, *image.size, orientation)
    except ValueError:
        return None  # as in _pixels


def _pixels(image: Image.Image, data: bytes, name: str) -> Pixels:
    if _is_plain_jpeg(image, name):
        try:
            # Of a picture that is halved before anything looks at its colours, chroma needs no interpolation.
            plain = max(image.size) >= _PLAIN_CHROMA
            return np.asarray(
                simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=plain), dtype=np.uint8
            )
        except ValueError:
            pass  # the strict fast decoder stops at any warning; Pillow decides whether the file is really damaged
    try:
        image.load()
        return _to_rgb(image)
    except OSError as error:
        raise ImageError("image.truncated" if "truncated" in str(error) else "image.corrupt") from None
    except Exception:  # see _open
        raise ImageError("image.corrupt") from None


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip at 255 instead of scaling
        grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, layer)
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), dtype=np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF is no reason to refuse a readable picture
        return 1
