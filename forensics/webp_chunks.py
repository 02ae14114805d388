"""The chunks of a WebP file: size, frames, EXIF and colour profile, and a still image of what is shown first."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .containers import Header
from .errors import ImageError

_PIXELS = {b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"}
_IMAGES = {b"VP8 ", b"VP8L"}
_ICC_FLAG, _ALPHA_FLAG, _EXIF_FLAG, _XMP_FLAG = 0x20, 0x10, 0x08, 0x04
_MAX_CHUNKS = 30_000
#: The head of a frame: position and size, duration, flags.
_FRAME_HEAD = 16


@dataclass(frozen=True)
class WebpHeader(Header):
    """The header of a WebP.

    ``pixels``: a WebP of the image, or of the first frame of an animation, without metadata. ``left`` and ``top``:
    where that frame lies on the canvas, which is transparent elsewhere.
    """

    pixels: bytes
    left: int
    top: int


def read_webp(data: bytes) -> WebpHeader:
    """Read all chunks.

    Raises:
        ImageError: the header is damaged, or the file ends before its pixels.
    """
    (declared,) = struct.unpack_from("<I", data, 4)
    early = "image.truncated" if declared + 8 > len(data) else "image.corrupt"
    kept: list[tuple[bytes, bytes]] = []
    metadata: dict[bytes, bytes] = {}
    for kind, body, whole in _chunks(data, 12, min(len(data), declared + 8)):
        if kind not in _PIXELS:
            if whole:
                metadata.setdefault(kind, body)
        elif not whole:
            raise ImageError(early)
        else:
            kept.append((kind, body))
    frames = [body for kind, body in kept if kind == b"ANMF"]
    if not frames and not any(kind in _IMAGES for kind, _ in kept):
        raise ImageError(early, "it holds no pixels")
    width, height, flags = _read_size(*kept[0])
    complete = declared + 8 <= len(data) and not metadata
    left, top = 0, 0
    if frames:
        left, top, kept = _read_frame(frames[0], width, height)
        complete = False
    return WebpHeader(
        width=width,
        height=height,
        frames=max(1, len(frames)),
        channels=3,
        exif=metadata.get(b"EXIF", b""),
        profile=metadata.get(b"ICCP", b"") if flags & _ICC_FLAG else b"",
        plausible=all(_is_plausible(body) for kind, body in kept if kind == b"VP8 "),
        pixels=data if complete else _write(kept),
        left=left,
        top=top,
    )


def _chunks(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield the name and the body of each chunk, and whether the body is whole."""
    for _ in range(_MAX_CHUNKS):
        if position + 8 > end:
            return
        (length,) = struct.unpack_from("<I", data, position + 4)
        body = data[position + 8 : min(end, position + 8 + length)]
        yield data[position : position + 4], body, len(body) == length
        position += 8 + length + (length & 1)
    raise ImageError("image.corrupt", f"more than {_MAX_CHUNKS} chunks")


def _read_frame(body: bytes, width: int, height: int) -> tuple[int, int, list[tuple[bytes, bytes]]]:
    """Return where a frame lies on the canvas, and the chunks of a still image of it."""
    # Numbers of 3 bytes; positions are counted in steps of two pixels, sizes from one.
    left, top, across, down = (int.from_bytes(body[start : start + 3], "little") for start in (0, 3, 6, 9))
    left, top, across, down = 2 * left, 2 * top, across + 1, down + 1
    if len(body) < _FRAME_HEAD or left + across > width or top + down > height:
        raise ImageError("image.corrupt", "the first frame lies outside of the image")
    kept = []
    for kind, part, whole in _chunks(body, _FRAME_HEAD, len(body)):
        if kind == b"ALPH" or kind in _IMAGES:
            kept.append((kind, part))
        if not whole or kind in _IMAGES:
            break
    if not kept or kept[-1][0] not in _IMAGES or not whole:
        raise ImageError("image.corrupt", "the first frame holds no pixels")
    size = (across - 1).to_bytes(3, "little") + (down - 1).to_bytes(3, "little")
    return left, top, [(b"VP8X", bytes((_ALPHA_FLAG, 0, 0, 0)) + size), *kept]


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


def _is_plausible(body: bytes) -> bool:
    """Return whether a lossy image has as many bytes as its macroblocks need.

    The least cost of a macroblock's prediction modes, which have fixed probabilities in key frames, is 3.4 bits
    (RFC 6386, section 11.2). They are in the first partition. A lossless image may take no bits per pixel.
    """
    width, height, _ = _read_size(b"VP8 ", body)
    macroblocks = -(-width // 16) * -(-height // 16)
    return 8 * (int.from_bytes(body[:3], "little") >> 5) >= 3 * macroblocks


def _write(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts: list[bytes] = [b"WEBP"]
    for kind, original in chunks:
        body = original
        if kind == b"VP8X":
            body = bytes([original[0] & ~(_ICC_FLAG | _EXIF_FLAG | _XMP_FLAG)]) + original[1:]
        parts += [kind, struct.pack("<I", len(body)), body, b"\0" * (len(body) & 1)]
    payload = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(payload)) + payload
