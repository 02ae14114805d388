"""Image files assembled by hand: JPEG segments, PNG and WebP chunks, EXIF data, ICC profiles, a test picture."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from veridict.forensics.arrays import Pixels

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
#: The colours of a profile: XYZ under D50 of red, green and blue.
Colorants = Sequence[tuple[float, float, float]]
SRGB: Colorants = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
DISPLAY_P3: Colorants = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
#: Width and height of the test picture.
WIDTH, HEIGHT = 96, 80


@cache
def picture(width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """Return a picture uint8 [H, W, 3] with no symmetry: gradients in red and green, a pattern of squares in blue."""
    y, x = np.mgrid[:height, :width]
    red, green = x * 255 // max(1, width - 1), y * 255 // max(1, height - 1)
    blue = 80 + 60 * ((x // 16 + y // 16) % 2) + x // 4 % 2
    pixels: Pixels = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    pixels.setflags(write=False)
    return pixels


def save(pixels: Pixels | Image.Image, form: str, **options: Any) -> bytes:
    """Return pixels or an image as a file, encoded by Pillow."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def patched(data: bytes, offset: int, part: bytes) -> bytes:
    """Return the data with a part overwritten."""
    return data[:offset] + part + data[offset + len(part) :]


def segment(marker: int, body: bytes) -> bytes:
    """Return a JPEG segment with its length."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_segment(jpeg: bytes, part: bytes) -> bytes:
    """Return the JPEG with a segment after its start marker."""
    return jpeg[:2] + part + jpeg[2:]


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    """Return a PNG chunk; ``crc`` replaces the right checksum."""
    check = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def with_chunk(png: bytes, part: bytes) -> bytes:
    """Return the PNG with a chunk after IHDR."""
    return png[:33] + part + png[33:]


def before_pixels(png: bytes, part: bytes) -> bytes:
    """Return the PNG with a chunk before its first IDAT."""
    start = png.index(b"IDAT") - 4
    return png[:start] + part + png[start:]


def png_header(width: int, height: int, depth: int = 8, colour: int = 2, methods: bytes = b"\0\0\0") -> bytes:
    """Return an IHDR chunk; ``methods``: compression, filter, interlace."""
    return chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, colour) + methods)


def png_file(*chunks: bytes) -> bytes:
    """Return a PNG of these chunks and an end chunk."""
    return PNG_MAGIC + b"".join(chunks) + chunk(b"IEND", b"")


def png_rows(pixels: Pixels) -> bytes:
    """Return 8-bit pixels [H, W, channels] as the unfiltered rows of a PNG."""
    return np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (1, 0))).tobytes()


def animation(pixels: Pixels, hidden: Pixels, left: int = 0, top: int = 0) -> bytes:
    """Return an APNG of one frame, after a default image [H, W, 3] that is not part of the animation."""
    height, width = hidden.shape[:2]
    control = struct.pack(">5IHHBB", 0, pixels.shape[1], pixels.shape[0], left, top, 1, 2, 0, 0)
    return png_file(
        png_header(width, height),
        chunk(b"acTL", struct.pack(">II", 1, 0)),
        chunk(b"IDAT", zlib.compress(png_rows(hidden))),
        chunk(b"fcTL", control),
        chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(png_rows(pixels))),
    )


def riff(chunks: Iterable[tuple[bytes, bytes]], size: int | None = None) -> bytes:
    """Return a WebP file of (kind, body); ``size`` replaces the right length in its header."""
    parts = [kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1) for kind, body in chunks]
    payload = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(payload) if size is None else size) + payload


def riff_chunks(webp: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a sound WebP file as (kind, body)."""
    found, position = [], 12
    while position < len(webp):
        (length,) = struct.unpack_from("<I", webp, position + 4)
        found.append((webp[position : position + 4], webp[position + 8 : position + 8 + length]))
        position += 8 + length + (length & 1)
    return found


def exif(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """Return EXIF data whose IFD0 has entries (tag, type, count, value)."""
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack(f"{order}HHI", tag, kind, count) + (
            struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
        )
    start = b"II" if order == "<" else b"MM"
    return b"Exif\0\0" + start + struct.pack(f"{order}HI", 42, 8) + body + bytes(4)


def orientation(value: int) -> bytes:
    """Return EXIF data that ask for an orientation."""
    return exif((274, 3, 1, value))


def icc(tags: dict[bytes, bytes], space: bytes = b"RGB ", kind: bytes = b"mntr") -> bytes:
    """Return an ICC profile (version 2) with these tags."""
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(body))
        data += body
    head = struct.pack(">I", 128 + len(table) + len(data)) + bytes(4) + b"\x02\x10\0\0" + kind + space + b"XYZ "
    white = _xyz((0.9642, 1.0, 0.8249))[8:]
    return (head + bytes(12) + b"acsp" + bytes(28) + white).ljust(128, b"\0") + table + data


def profile_tags(gamma: float, colorants: Colorants | None = SRGB) -> dict[bytes, bytes]:
    """Return the tags of a profile for RGB, or for grey where ``colorants`` is None."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": _xyz((0.9642, 1.0, 0.8249))}
    if colorants is None:
        return tags | {b"kTRC": curve}
    tags |= {name + b"XYZ": _xyz(value) for name, value in zip((b"r", b"g", b"b"), colorants, strict=True)}
    return tags | {name + b"TRC": curve for name in (b"r", b"g", b"b")}


def profile(gamma: float, colorants: Colorants | None = SRGB) -> bytes:
    """Return an ICC profile (version 2) for RGB, or for grey where ``colorants`` is None."""
    return icc(profile_tags(gamma, colorants), b"RGB " if colorants else b"GRAY")


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)
