"""From encoded bytes to pixels, once per image: check the format, check the limits in the header, decode."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from .arrays import Pixels
from .errors import ImageError
from .pixels import Luma, Region, cut, to_luma, upright
from .resize import to_preview

# Our own limit is far below the one at which Pillow warns, so the warning would only repeat our error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ORIENTATION_TAG = 274
#: Longest side (pixels) from which on decoding repeats chroma instead of interpolating it, in a tenth less time.
#: The value is twice ``PREVIEW_SIDE``: such an image is halved before its colours are read.
_PLAIN_CHROMA = 1920
_SIGNATURES = {b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"<svg": "SVG", b"<?xml": "SVG or XML"}


@dataclass(frozen=True)
class Limits:
    """What is refused before pixels are touched."""

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_frames: int = 256


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One decoded image: the facts of its file, and its upright RGB pixels uint8 [H, W, 3]."""

    format: str
    bytes: int
    sha256: str
    frames: int
    pixels: Pixels

    @property
    def width(self) -> int:
        """Width of the upright image in pixels."""
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        """Height of the upright image in pixels."""
        return self.pixels.shape[0]

    @cached_property
    def preview(self) -> Pixels:
        """The pixels uint8 [h, w, 3], halved while the longest side keeps at least 960 pixels."""
        return to_preview(self.pixels)

    def luma(self, region: Region) -> Luma:
        """Return the luma [H, W] uint8 of a region."""
        return to_luma(cut(self.pixels, region))


def decode_image(data: bytes, limits: Limits = Limits()) -> DecodedImage:
    """Decode a JPEG, PNG or WebP file to upright RGB pixels.

    Byte, pixel and frame limits are checked in the header first. EXIF orientation is applied. Transparent images are
    composited on white. CMYK and 16-bit files are converted. An animation gives its first frame.

    Raises:
        ImageError: the file is refused; its code names the cause.
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
    # Phones write MPO (a JPEG with further images appended) for depth maps and bursts. It is handled as a JPEG.
    name = "JPEG" if image.format == "MPO" else str(image.format)
    frames = 1 if name == "JPEG" else int(getattr(image, "n_frames", 1))
    if frames > limits.max_frames:
        raise ImageError("image.too_many_frames", f"{frames} frames, limit {limits.max_frames}")
    pixels = upright(_pixels(image, data, name), _orientation(image))
    return DecodedImage(name, len(data), hashlib.sha256(data).hexdigest(), frames, pixels)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
    except Image.DecompressionBombError:
        raise ImageError("image.too_many_pixels") from None
    except UnidentifiedImageError:
        raise _refusal(data) from None
    except Exception:  # codecs raise many types on damaged headers; callers expect only ImageError
        raise ImageError("image.corrupt") from None


def _refusal(data: bytes) -> ImageError:
    head = data[:64].lstrip()
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return ImageError("image.corrupt", "the header cannot be read")
    if head[4:8] == b"ftyp":
        return ImageError("image.unsupported_format", "this is HEIC, AVIF or a video")
    found = next((name for magic, name in _SIGNATURES.items() if head.startswith(magic)), None)
    return ImageError("image.unsupported_format", f"this is {found}" if found else "this is no known image format")


def _pixels(image: Image.Image, data: bytes, name: str) -> Pixels:
    if name == "JPEG" and image.mode in ("RGB", "L"):
        try:
            plain = max(image.size) >= _PLAIN_CHROMA
            return np.asarray(
                simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=plain), dtype=np.uint8
            )
        except ValueError:
            pass  # simplejpeg stops at any warning. Pillow decides whether the file is really damaged.
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
    except Exception:  # an image with readable pixels is accepted whatever its EXIF data
        return 1
