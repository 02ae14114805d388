"""The chunks of a PNG file: size, the first shown frame, EXIF and colour, and a copy with nothing but the pixels.

Ancillary chunks may be short, damaged or of any content: they do not touch the pixels, and browsers pass over them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from .containers import PNG_MAGIC, Header
from .errors import ImageError

#: More chunks than this are refused: 20 MiB of pixels in the small chunks of 1 KiB are 20,000.
_MAX_CHUNKS = 100_000
#: Largest colour profile (bytes) that is unpacked; larger ones are ignored. Profiles of printing presses have 3 MB.
MAX_PROFILE = 4 * 1024 * 1024
_NAME = re.compile(rb"[A-Za-z]{4}")
#: By colour type: channels without transparency, and the least length of tRNS (None: the type has none).
_COLOURS: dict[int, tuple[int, int | None]] = {0: (1, 2), 2: (3, 6), 3: (3, 1), 4: (1, None), 6: (3, None)}
_PALETTE = 3


@dataclass(frozen=True)
class PngHeader(Header):
    """The header of a PNG.

    ``pixels``: a PNG file of the first shown frame alone, without metadata. ``left`` and ``top``: where that frame lies
    in the image. ``gamma`` (gAMA), ``chromaticities`` (cHRM: white, red, green, blue as x, y) and ``code_points``
    (cICP: primaries, transfer function) are None where the file does not have them or names sRGB (sRGB).
    """

    pixels: bytes
    left: int
    top: int
    gamma: float | None
    chromaticities: tuple[float, ...] | None
    code_points: tuple[int, int] | None


@dataclass(frozen=True)
class _Chunk:
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
    width, height, _, colour = struct.unpack_from(">IIBB", first.data)
    if colour not in _COLOURS:
        raise ImageError("image.corrupt", f"there is no colour type {colour}")
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
    plain = b"sRGB" in found or b"iCCP" in found
    return PngHeader(
        width=width,
        height=height,
        frames=max(1, frames.announced if frames.default_shown or frames.data else 1),
        channels=channels,
        exif=bytes(found.get(b"eXIf", b"")),
        profile=_unpack_profile(bytes(found.get(b"iCCP", b""))),
        pixels=_write(struct.pack(">II", *shown[:2]) + bytes(first.data[8:]), kept, pixels),
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
