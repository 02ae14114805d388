"""How much work an image will be, guessed from its first bytes: what is small is not made to wait behind what is large.

The guess decides the order of work and nothing else. A file that takes longer than the guess is stopped by a limit of
processor time (:mod:`veridict.deploy.serving.prepare_pool`).
"""

from __future__ import annotations

import struct

from .containers import format_of
from .decode import Limits

#: Nanoseconds per pixel, measured on images of 50 million pixels on one core (AMD EPYC): decoding and measuring.
_BASELINE, _PROGRESSIVE, _CMYK, _OPAQUE, _LAYERS = 5.0, 15.0, 25.0, 25.0, 60.0
#: Nanoseconds that each scan of a JPEG costs per pixel, and each byte of any file.
_PER_SCAN, _PER_BYTE = 1.0, 10.0
#: What a file counts for that cannot be understood at the first look.
_UNKNOWN = 1.0
#: Largest file (bytes) whose scans are counted, so that the guess costs little.
_COUNTED = 2 * 1024 * 1024
#: Segments of a JPEG before its first scan; photographs have about twenty.
_MAX_SEGMENTS = 200
#: Bytes of the shortest PNG and WebP.
_SHORTEST = 30
#: Colour types of PNG with transparency.
_PNG_ALPHA = (4, 6)
_SOS = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)


def estimate_seconds(data: bytes) -> float:
    """Return about how many seconds of processor time preparing a file takes; 0.0 for a file of no accepted format.

    The guess itself takes some microseconds, and some milliseconds for a progressive JPEG of 2 MiB.
    """
    form = format_of(data)
    if form == "JPEG":
        return _estimate_jpeg(data)
    if not form:
        return 0.0
    if len(data) < _SHORTEST:
        return 0.0  # refused at once
    width, height, layers = _read_png(data) if form == "PNG" else _read_webp(data)
    return _seconds(width * height, _LAYERS if layers else _OPAQUE, data)


def _seconds(pixels: int, per_pixel: float, data: bytes) -> float:
    if pixels > Limits().max_pixels:
        return 0.0  # refused at once
    return (pixels * per_pixel + len(data) * _PER_BYTE) * 1e-9


def _estimate_jpeg(data: bytes) -> float:
    position, frame = 2, b""
    for _ in range(_MAX_SEGMENTS):
        head = data[position : position + 10]
        if len(head) < 10 or head[0] != 0xFF:
            return _UNKNOWN
        if head[1] == _SOS:
            break
        if head[1] in _FRAMES and not frame:
            frame = head
        position += 2 + int.from_bytes(head[2:4], "big")
    else:
        return _UNKNOWN
    if not frame:
        return _UNKNOWN
    height, width = struct.unpack_from(">HH", frame, 5)
    components, in_scan = frame[9], head[4]
    per_pixel = _CMYK if components == 4 else 0.0
    if frame[1] in _SEQUENTIAL and in_scan == components:
        return _seconds(width * height, per_pixel + _BASELINE, data)
    if len(data) > _COUNTED:
        return _UNKNOWN
    scans = data.count(bytes((0xFF, _SOS)), position)
    if scans > Limits().most_scans(width * height):
        return 0.0  # refused at once
    return _seconds(width * height, per_pixel + _PROGRESSIVE + scans * _PER_SCAN, data)


def _read_png(data: bytes) -> tuple[int, int, bool]:
    """Return width, height, and whether there is transparency."""
    width, height, _, colour = struct.unpack_from(">IIBB", data, 16)
    return width, height, colour in _PNG_ALPHA


def _read_webp(data: bytes) -> tuple[int, int, bool]:
    """Return width, height, and whether there may be transparency or frames."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF, False
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1)
    if kind != b"VP8X":
        return 0, 0, False  # refused at once
    return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"), True
