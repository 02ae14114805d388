"""The chunks of a WebP file: size, frames, EXIF and colour profile, and a copy with nothing but the pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .containers import Header
from .errors import ImageError

_PIXELS = {b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"}
_IMAGES = {b"ANMF", b"VP8 ", b"VP8L"}
_ICC_FLAG, _EXIF_FLAG, _XMP_FLAG = 0x20, 0x08, 0x04
_MAX_CHUNKS = 100_000


@dataclass(frozen=True)
class WebpHeader(Header):
    """The header of a WebP; ``pixels`` is the file, without metadata where it has any."""

    pixels: bytes


def read_webp(data: bytes) -> WebpHeader:
    """Read all chunks.

    Raises:
        ImageError: the header is damaged, or the file ends before its pixels.
    """
    (declared,) = struct.unpack_from("<I", data, 4)
    end = min(len(data), declared + 8)
    kept: list[tuple[bytes, bytes]] = []
    metadata: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= end:
        kind = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        body = data[position + 8 : min(end, position + 8 + length)]
        if kind in _PIXELS:
            if len(body) < length:
                raise ImageError("image.truncated" if declared + 8 > len(data) else "image.corrupt")
            kept.append((kind, body))
        elif len(body) == length:
            metadata.setdefault(kind, body)
        position += 8 + length + (length & 1)
        if len(kept) + len(metadata) > _MAX_CHUNKS:
            raise ImageError("image.corrupt", f"more than {_MAX_CHUNKS} chunks")
    frames = sum(kind == b"ANMF" for kind, _ in kept)
    if not any(kind in _IMAGES for kind, _ in kept):
        raise ImageError("image.truncated" if declared + 8 > len(data) else "image.corrupt", "it holds no pixels")
    width, height, flags = _read_size(*kept[0])
    whole = declared + 8 <= len(data) and not metadata
    return WebpHeader(
        width=width,
        height=height,
        frames=max(1, frames),
        channels=3,
        exif=metadata.get(b"EXIF", b""),
        profile=metadata.get(b"ICCP", b"") if flags & _ICC_FLAG else b"",
        pixels=data if whole else _write(kept),
    )


def _read_size(kind: bytes, body: bytes) -> tuple[int, int, int]:
    """Return width, height and the flags of the first chunk."""
    if kind == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"), body[0]
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF, 0
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        (bits,) = struct.unpack_from("<I", body, 1)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), 0
    raise ImageError("image.corrupt", "the header cannot be read")


def _write(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts: list[bytes] = [b"WEBP"]
    for kind, original in chunks:
        body = original
        if kind == b"VP8X":
            body = bytes([original[0] & ~(_ICC_FLAG | _EXIF_FLAG | _XMP_FLAG)]) + original[1:]
        parts += [kind, struct.pack("<I", len(body)), body, b"\0" * (len(body) & 1)]
    payload = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(payload)) + payload
