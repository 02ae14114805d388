"""The chunks of a PNG file: size, the first shown frame, EXIF and colour, and a copy with nothing but the pixels.

Ancillary chunks may be short, damaged or of any content: they do not touch the pixels, and browsers pass over them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .containers import MAX_PROFILE, PNG_MAGIC, Header
from .errors import ImageError

#: More chunks than this are refused: 20 MiB of pixels in the small chunks of 1 KiB are 20,000.
_MAX_CHUNKS = 30_000
_NAME = re.compile(rb"[A-Za-z]{4}")
#: By colour type: channels without transparency, and the least length of tRNS (None: the type has none).
_COLOURS: dict[int, tuple[int, int | None]] = {0: (1, 2), 2: (3, 6), 3: (3, 1), 4: (1, None), 6: (3, None)}
#: By colour type: samples per pixel, and the bit depths that it may have.
_DEPTHS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
#: The passes of interlacing: first column and row, steps between columns and between rows.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Deflate takes at least 2 bits for 258 bytes.
_LARGEST_RATIO = 1032
#: Ratio from which on an image is looked through before memory for its pixels is taken; photographs have 1 to 4.
_DENSE = 100
#: Compressed bytes that are unpacked at a time, to at most 8 MiB.
_PIECE = 8192
_PALETTE = 3


@dataclass(frozen=True)
class PngHeader(Header):
    """The header of a PNG.

    ``pixels``: a PNG file of the first shown frame alone, without metadata. ``dense``: its rows take many times as much
    when unpacked. ``left`` and ``top``: where that frame lies in the image. ``gamma`` (gAMA), ``chromaticities`` (cHRM:
    white, red, green, blue as x, y) and ``code_points`` (cICP: primaries, transfer function) are None where the file
    does not have them or names sRGB (sRGB).
    """

    pixels: bytes
    dense: bool
    left: int
    top: int
    gamma: float | None
    chromaticities: tuple[float, ...] | None
    code_points: tuple[int, int] | None


class _Chunk(NamedTuple):
    kind: bytes
    data: memoryview
    sound: bool


class _Frames:
    """The frames of an animation, collected chunk by chunk."""

    def __init__(self) -> None:
        self.announced = 0
        self.control = b""  # fcTL of the first frame that is no default image
        self.default_shown = False
        self.data: list[memoryview] = []
        self.closed = False

    def add(self, chunk: _Chunk, before_pixels: bool) -> None:
        if chunk.kind == b"acTL" and before_pixels and len(chunk.data) >= 8 and not self.announced:
            self.announced = int.from_bytes(chunk.data[:4], "big")
        elif chunk.kind == b"fcTL" and before_pixels:
            self.default_shown = True
        elif chunk.kind == b"fcTL" and not self.closed:
            self.closed = bool(self.control)
            self.control = self.control or bytes(chunk.data)
        elif chunk.kind == b"fdAT" and self.control and not self.closed:
            self.data.append(chunk.data[4:])

    def hides_default(self, width: int, height: int) -> bool:
        """Return whether the default image is not part of the animation and a sound frame is shown instead."""
        if not self.announced or self.default_shown or not self.data or len(self.control) < 26:
            return False
        w, h, left, top = struct.unpack_from(">4I", self.control, 4)
        return bool(0 < w <= width - left and 0 < h <= height - top)


def read_png(data: bytes) -> PngHeader:
    """Read all chunks.

    Raises:
        ImageError: the header is damaged, or the file ends before its pixels.
    """
    chunks = _chunks(data)
    first = next(chunks, None)
    if first is None:
        raise ImageError("image.truncated")
    if first.kind != b"IHDR" or not first.sound or len(first.data) != 13:
        raise ImageError("image.corrupt", "the header cannot be read")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", first.data)
    if colour not in _COLOURS:
        raise ImageError("image.corrupt", f"there is no colour type {colour}")
    if depth not in _DEPTHS[colour][1]:
        raise ImageError("image.corrupt", f"colour type {colour} has no depth of {depth} bits")
    if compression or filtering or interlace > 1:
        raise ImageError("image.corrupt", "the method of compression, filtering or interlacing is unknown")
    channels, shortest = _COLOURS[colour]
    found: dict[bytes, memoryview] = {}
    pixels: list[memoryview] = []
    frames = _Frames()
    ended = False
    for chunk in chunks:
        if chunk.kind == b"IEND":
            ended = True
            break
        if chunk.kind == b"IDAT":
            pixels.append(chunk.data)
        elif chunk.kind == b"PLTE" and not pixels and not chunk.sound:
            raise ImageError("image.corrupt", "the palette is damaged")
        elif chunk.sound and chunk.kind in (b"acTL", b"fcTL", b"fdAT"):
            frames.add(chunk, before_pixels=not pixels)
        elif chunk.sound and (not pixels or chunk.kind == b"eXIf"):
            found.setdefault(chunk.kind, chunk.data)
    if not pixels:
        raise ImageError("image.corrupt" if ended else "image.truncated", "" if not ended else "it holds no pixels")
    palette = found.get(b"PLTE", memoryview(b""))
    if colour == _PALETTE and (not palette or len(palette) % 3):
        raise ImageError("image.corrupt", "the palette is missing or damaged")
    shown: tuple[int, ...] = (width, height, 0, 0)
    if frames.hides_default(width, height):
        shown, pixels = struct.unpack_from(">4I", frames.control, 4), frames.data
    kept = [(b"PLTE", palette)] if palette else []
    transparency = found.get(b"tRNS", memoryview(b""))
    if colour == _PALETTE:
        transparency = transparency[: len(palette) // 3]
    if shortest is not None and len(transparency) >= shortest:
        kept.append((b"tRNS", transparency))
    stored = sum(map(len, pixels))
    shown_header = struct.pack(">II", *shown[:2]) + bytes(first.data[8:])
    plain = b"sRGB" in found or b"iCCP" in found
    return PngHeader(
        width=width,
        height=height,
        frames=max(1, frames.announced if frames.default_shown or frames.data else 1),
        channels=channels,
        exif=bytes(found.get(b"eXIf", b"")),
        profile=_unpack_profile(bytes(found.get(b"iCCP", b""))),
        plausible=_size_of_rows(shown_header) <= _LARGEST_RATIO * stored,
        dense=_size_of_rows(shown_header) > _DENSE * stored,
        pixels=_write(shown_header, kept, pixels),
        left=shown[2],
        top=shown[3],
        gamma=None if plain else _read_gamma(found.get(b"gAMA", memoryview(b""))),
        chromaticities=None if plain else _read_chromaticities(found.get(b"cHRM", memoryview(b""))),
        code_points=_read_code_points(found.get(b"cICP", memoryview(b""))),
    )


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield chunk after chunk; IDAT may be cut short by the end of the file, all others must be whole."""
    view = memoryview(data)
    position = len(PNG_MAGIC)
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return
        (length,) = struct.unpack_from(">I", data, position)
        kind, start = data[position + 4 : position + 8], position + 8
        end = start + length
        if not _NAME.fullmatch(kind) or (end + 4 > len(data) and kind not in (b"IDAT", b"fdAT", b"IEND")):
            return
        # Decoders read pixels from chunks with a wrong checksum: deflate has its own.
        checked = kind in (b"IDAT", b"fdAT") or zlib.crc32(view[position + 4 : end]) == int.from_bytes(
            view[end : end + 4], "big"
        )
        yield _Chunk(kind, view[start:end], checked)
        position = end + 4
    raise ImageError("image.corrupt", f"more than {_MAX_CHUNKS} chunks")


def _write(header: bytes, kept: list[tuple[bytes, memoryview]], pixels: list[memoryview]) -> bytes:
    parts: list[bytes | memoryview] = [PNG_MAGIC]
    for kind, body in ((b"IHDR", memoryview(header)), *kept):
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))]
    # Nothing checks the sum of IDAT.
    parts += [struct.pack(">I", sum(map(len, pixels))), b"IDAT", *pixels, bytes(4), bytes(4), b"IEND\xaeB`\x82"]
    return b"".join(parts)


def _size_of_rows(header: bytes) -> int:
    """Return the bytes that the rows of an image take when unpacked, with their filter types, by its IHDR."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _DEPTHS[colour][0]
    total = 0
    for left, top, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = max(0, -((left - width) // right)), max(0, -((top - height) // down))
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return total


def lacks_rows(pixels: bytes) -> bool:
    """Return whether the rows of a PNG that :func:`read_png` wrote end too early: decoders then leave them black.

    Takes about 1 ms for 1 MB of rows. What the decoder itself finds damaged is not looked for.
    """
    *_, data = (chunk.data for chunk in _chunks(pixels) if chunk.kind == b"IDAT")
    missing = _size_of_rows(pixels[16:29])
    unpacker = zlib.decompressobj()
    try:
        for start in range(0, len(data), _PIECE):
            missing -= len(unpacker.decompress(data[start : start + _PIECE]))
            if missing <= 0 or unpacker.eof:
                break
    except zlib.error:
        return False
    return missing > 0


def _unpack_profile(body: bytes) -> bytes:
    """Return the ICC profile of an iCCP chunk, or b"" where it is damaged or too large."""
    _, separator, rest = body.partition(b"\0")
    if not separator or rest[:1] != b"\0":
        return b""
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(rest[1:], MAX_PROFILE)
    except zlib.error:
        return b""
    return b"" if unpacker.unconsumed_tail else profile


def _read_gamma(body: memoryview) -> float | None:
    value = int.from_bytes(body[:4], "big") / 100_000 if len(body) == 4 else 0.0
    return value or None


def _read_chromaticities(body: memoryview) -> tuple[float, ...] | None:
    return tuple(value / 100_000 for value in struct.unpack(">8I", body)) if len(body) == 32 else None


def _read_code_points(body: memoryview) -> tuple[int, int] | None:
    """Return primaries and transfer function of full-range RGB (matrix 0, range 1)."""
    return (body[0], body[1]) if len(body) == 4 and body[2] == 0 and body[3] == 1 else None
