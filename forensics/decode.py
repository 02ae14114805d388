"""From encoded bytes to pixels, once per image: check the format, check the limits in the header, decode."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import simplejpeg
from PIL import Image

from .arrays import Pixels
from .colour import ToSrgb, cmyk_to_srgb, profile_of_code_points, profile_of_gamma, to_srgb
from .containers import Header, describe_unknown, format_of
from .errors import ImageError
from .exif import read_orientation
from .jpeg_header import JpegHeader, count_scans, read_jpeg, walk_scans, without_metadata
from .layers import decode_webp, ends_blank, flatten
from .pixels import Luma, Region, as_stored, cut, to_luma, upright
from .png_chunks import PngHeader, lacks_rows, read_png
from .resize import to_preview
from .webp_chunks import WebpHeader, read_webp

# Our own limit is far below the one at which Pillow warns, so the warning would only repeat our error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

#: Longest side (pixels) from which on decoding repeats chroma instead of interpolating it, in a tenth less time.
#: The value is twice ``PREVIEW_SIDE``: such an image is halved before its colours are read.
_PLAIN_CHROMA = 1920
#: Bytes of metadata before the first scan of a JPEG from which on the decoder gets a copy without them.
_MUCH_METADATA = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What is refused before pixels are touched.

    ``max_scans`` and ``max_scan_pixels`` (scans x pixels) bound the work of a JPEG with many scans: each scan can make
    the decoder pass over the whole image, at 1 ns per pixel, for a few bytes of file.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_frames: int = 256
    max_scans: int = 500
    max_scan_pixels: int = 1_000_000_000

    def most_scans(self, pixels: int) -> int:
        """Return the largest number of scans that a JPEG of so many pixels may have."""
        return min(self.max_scans, max(1, self.max_scan_pixels // max(1, pixels)))


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One decoded image: the facts of its file, and its pixels.

    ``coded``: the upright RGB pixels uint8 [H, W, 3] in the colour space of the file. ``convert`` takes them to sRGB;
    None: they are sRGB. ``orientation`` (EXIF, 1 to 8) says how they were turned.
    """

    format: str
    bytes: int
    sha256: str
    frames: int
    coded: Pixels
    orientation: int = 1
    convert: ToSrgb | None = None

    @property
    def width(self) -> int:
        """Width of the upright image in pixels."""
        return self.coded.shape[1]

    @property
    def height(self) -> int:
        """Height of the upright image in pixels."""
        return self.coded.shape[0]

    @cached_property
    def pixels(self) -> Pixels:
        """The upright sRGB pixels uint8 [H, W, 3], as a viewer shows them."""
        return self.to_srgb(self.coded)

    @cached_property
    def preview(self) -> Pixels:
        """The sRGB pixels uint8 [h, w, 3], halved while the longest side keeps at least 960 pixels.

        Colours are converted after halving: large images would take seconds otherwise.
        """
        return self.to_srgb(to_preview(self.coded))

    def to_srgb(self, coded: Pixels) -> Pixels:
        """Return a part or a smaller copy of :attr:`coded` in sRGB."""
        return coded if self.convert is None else self.convert(coded)

    @property
    def stored(self) -> Pixels:
        """A view of the pixels [H, W, 3] as the file stores them, before turning and before colour conversion.

        A JPEG's 8x8 blocks begin at the corner of this array.
        """
        return as_stored(self.coded, self.orientation)

    def stored_luma(self, region: Region) -> Luma:
        """Return the luma [H, W] uint8 of a region of :attr:`stored`."""
        return to_luma(cut(self.stored, region))


def decode_image(data: bytes, limits: Limits = Limits()) -> DecodedImage:
    """Decode a JPEG, PNG or WebP file to the pixels that a viewer shows.

    Limits are checked in the header first. EXIF orientation is applied. Embedded colour profiles are converted to sRGB.
    Transparent images are composited on white. CMYK and 16-bit files are converted. An animation gives its first shown
    frame. Metadata that are damaged or too large are ignored.

    Raises:
        ImageError: the file is refused; its code names the cause.
        MemoryError: it needs more memory than this process may take. (Of a WebP this can be ``image.corrupt``.)
    """
    if not data:
        raise ImageError("image.empty")
    if len(data) > limits.max_bytes:
        raise ImageError("image.too_large", f"{len(data)} bytes, limit {limits.max_bytes}")
    name = format_of(data)
    if not name:
        raise ImageError("image.unsupported_format", describe_unknown(data))
    if name == "PNG" and len(data) >= 33 and zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big"):
        # A sound header that declares too many pixels is refused for that, whatever follows it.
        width, height = struct.unpack_from(">II", data, 16)
        _check_pixels(width, height, limits)
    header = _READERS[name](data)
    _check(header, limits)
    convert = to_srgb(_profile(header), header.channels)
    if not header.plausible:
        raise ImageError("image.truncated", f"too few bytes for {header.width}x{header.height} pixels")
    if isinstance(header, JpegHeader):
        _check_scans(data, header, limits)
        pixels = _decode_jpeg(data, header)
    else:
        pixels, convert = _decode_layers(header, convert)
    orientation = read_orientation(header.exif)
    coded = upright(pixels, orientation)
    return DecodedImage(name, len(data), hashlib.sha256(data).hexdigest(), header.frames, coded, orientation, convert)


_READERS = {"JPEG": read_jpeg, "PNG": read_png, "WEBP": read_webp}


def _check(header: Header, limits: Limits) -> None:
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise ImageError("image.corrupt", f"{width}x{height} pixels")
    _check_pixels(width, height, limits)
    if header.frames > limits.max_frames:
        raise ImageError("image.too_many_frames", f"{header.frames} frames, limit {limits.max_frames}")


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError("image.too_many_pixels", f"{width}x{height}, limit {limits.max_pixels} pixels")


def _check_scans(data: bytes, header: JpegHeader, limits: Limits) -> None:
    most = limits.most_scans(header.width * header.height)
    if count_scans(data, header, most) > most:
        raise ImageError("image.too_many_scans", f"limit {most} for {header.width}x{header.height}")


def _profile(header: Header) -> bytes:
    """Return the ICC profile of the file, or one for what a PNG says in other chunks."""
    if isinstance(header, PngHeader) and header.channels == 3:
        if header.code_points is not None:
            return profile_of_code_points(*header.code_points)
        if not header.profile and header.gamma and header.chromaticities:  # browsers need both
            return profile_of_gamma(header.gamma, header.chromaticities)
    return header.profile


def _decode_jpeg(data: bytes, header: JpegHeader) -> Pixels:
    lean = data if header.first_scan < _MUCH_METADATA else without_metadata(data, header, ended=True)
    pixels = _decode_turbo(lean, header) if header.channels < 4 else None
    if pixels is not None:
        return pixels
    # simplejpeg stops at any warning. The cause may be metadata, or only the end marker may be missing.
    scans = walk_scans(data, header, len(data))
    plain = without_metadata(data, header, scans.ended)
    if not scans.ended and not scans.complete:
        raise ImageError("image.truncated")
    pixels = _decode_turbo(plain, header)
    if header.channels < 4 and pixels is not None:
        return pixels
    if pixels is None and not scans.ended:
        raise ImageError("image.truncated")
    # Pillow decides whether the file is really damaged, and converts CMYK.
    image = _load(plain, "JPEG", header)
    with _pillow_errors():
        converted = cmyk_to_srgb(image, header.profile) if image.mode == "CMYK" else None
        return flatten(converted or image, None)[0]


def _decode_turbo(data: bytes, header: JpegHeader) -> Pixels | None:
    """Return the pixels [H, W, channels] (RGB for grey), or None where simplejpeg raises an error or a warning."""
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != (header.height, header.width):
            return None
        space = "CMYK" if header.channels == 4 else "RGB"
        repeated = max(header.width, header.height) >= _PLAIN_CHROMA
        pixels = simplejpeg.decode_jpeg(data, colorspace=space, fastdct=False, fastupsample=repeated)
    except (ValueError, KeyError) as error:  # KeyError: sampling factors that it does not know
        if "memory" in str(error):
            raise MemoryError from None
        return None
    return np.asarray(pixels, dtype=np.uint8)


def _decode_layers(header: Header, convert: ToSrgb | None) -> tuple[Pixels, ToSrgb | None]:
    """Return the pixels of a PNG or WebP, and the conversion that is left to do."""
    assert isinstance(header, PngHeader | WebpHeader)
    image = _load_png(header) if isinstance(header, PngHeader) else _load_webp(header)
    if isinstance(image, np.ndarray):
        pixels = image
    else:
        with _pillow_errors():
            pixels, convert = flatten(image, convert)
    if pixels.shape[:2] != (header.height, header.width):  # a frame of an animation
        canvas = np.full((header.height, header.width, 3), 255, np.uint8)
        cut(canvas, (header.left, header.top, pixels.shape[1], pixels.shape[0]))[:] = pixels
        pixels = canvas
    return pixels, convert


def _load_png(header: PngHeader) -> Image.Image:
    # A dense file is looked through first, before it gets memory. Of other files only those that end in black rows.
    if header.dense and lacks_rows(header.pixels):
        raise ImageError("image.truncated")
    image = _load(header.pixels, "PNG", header)
    if not header.dense and ends_blank(image) and lacks_rows(header.pixels):
        raise ImageError("image.truncated")
    return image


def _load_webp(header: WebpHeader) -> Image.Image | Pixels:
    """Return the pixels of an opaque image; else the image."""
    with _pillow_errors():
        pixels = decode_webp(header.pixels)
    if pixels is None or pixels.shape[0] > header.height or pixels.shape[1] > header.width:
        raise ImageError("image.corrupt")
    return pixels if pixels.shape[2] == 3 else Image.fromarray(pixels)


def _load(data: bytes, form: str, header: Header) -> Image.Image:
    """Return the image, decoded by Pillow."""
    with _pillow_errors():
        image = Image.open(io.BytesIO(data), formats=(form,))
        if image.width > header.width or image.height > header.height:
            raise ImageError("image.corrupt", "the sizes in the header contradict each other")
        image.load()
    return image


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Turn what Pillow raises on damaged files into an :class:`ImageError`; codecs raise many types."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except OSError as error:
        raise ImageError("image.truncated" if "truncated" in str(error) else "image.corrupt") from None
    except Exception:
        raise ImageError("image.corrupt") from None
