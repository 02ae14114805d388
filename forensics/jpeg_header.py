"""The segments of a JPEG file: size, EXIF, colour profile and number of scans, read without decoding.

The rules are those of libjpeg. Metadata segments (APPn, COM) may be short, damaged or of any content: they do not touch
the pixels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .containers import MAX_PROFILE, Header
from .errors import ImageError
from .exif import EXIF_PREFIX

_SOI, _EOI, _SOS, _COM, _TEM = 0xD8, 0xD9, 0xDA, 0xFE, 0x01
_RESTARTS = range(0xD0, 0xD8)
_APPLICATION = range(0xE0, 0xF0)
#: Start-of-frame markers. DHT (C4), JPG (C8) and DAC (CC) lie in the same range.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xCA}
#: Hierarchical frames and lossless arithmetic coding, which no common decoder reads.
_UNSUPPORTED = {0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
#: A marker after which entropy-coded data end: no stuffed zero, no fill byte, no restart.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]", re.DOTALL)
#: Any marker, after fill bytes.
_ANY_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
#: The application segments that say how colours are coded: prefix, and the length below which decoders ignore them.
_COLOUR_SEGMENTS = {0xE0: (b"JFIF\0", 16), 0xEE: (b"Adobe", 14)}
#: Segments before the first scan. Photographs have tens; 20 MiB of metadata in full segments are 320.
_MAX_SEGMENTS = 4096
_PROFILE_PREFIX = b"ICC_PROFILE\0"
_LOSSLESS = 0xC3
_ARITHMETIC = {0xC9, 0xCA}


@dataclass(frozen=True)
class JpegHeader(Header):
    """The header of a JPEG.

    ``kept``: the segments that decoding needs, as offsets (start, end). ``first_scan``: the offset of the first SOS
    marker. ``buffered``: the decoder passes over the coefficients once per scan.
    """

    kept: tuple[tuple[int, int], ...]
    first_scan: int
    buffered: bool


@dataclass(frozen=True)
class Scans:
    """The scans of a JPEG: how many there are (counted up to a limit) and whether the end marker follows them.

    ``complete``: every component has been in a scan. ``end``: the offset where the last scan that was read ends.
    """

    count: int
    ended: bool
    complete: bool
    end: int


def read_jpeg(data: bytes) -> JpegHeader:
    """Read the segments up to the first scan.

    Raises:
        ImageError: the file ends before its first scan, is damaged, or is of a kind of JPEG that is not accepted.
    """
    kept: list[tuple[int, int]] = []
    profile: dict[int, memoryview] = {}
    view = memoryview(data)
    exif = b""
    frame = -1
    position = 2
    for _ in range(_MAX_SEGMENTS):
        position, marker = _next_marker(data, position)
        if marker == _TEM or marker in _RESTARTS:
            position += 2
            continue
        if marker in (_SOI, _EOI):
            raise ImageError("image.corrupt", "there is no scan")
        end = _segment_end(data, position)
        if marker == _SOS:
            break
        if marker not in _APPLICATION and marker != _COM:
            kept.append((position, end))
            if marker in _FRAMES and frame < 0:
                frame = position
        elif _is_kept(data, position, end):
            kept.append((position, end))
        elif marker == 0xE1 and not exif and data.startswith(EXIF_PREFIX, position + 4):
            exif = data[position + 4 : end]
        elif marker == 0xE2 and end - position >= 18 and data.startswith(_PROFILE_PREFIX, position + 4):
            profile.setdefault(data[position + 16], view[position + 4 : end])
        position = end
    else:
        raise ImageError("image.corrupt", f"more than {_MAX_SEGMENTS} segments before the first scan")
    if frame < 0 or _length(data, frame) < 8:
        raise ImageError("image.corrupt", "the frame header is missing or too short")
    kind, bits, components = data[frame + 1], data[frame + 4], data[frame + 9]
    if bits != 8:
        raise ImageError("image.unsupported_format", f"this is a JPEG of {bits} bits per sample")
    if kind in _UNSUPPORTED:
        raise ImageError("image.unsupported_format", "this is a hierarchical or lossless arithmetic JPEG")
    if components not in (1, 3, 4):
        raise ImageError("image.unsupported_format", f"this is a JPEG of {components} components")
    if _length(data, frame) != 8 + 3 * components:
        raise ImageError("image.corrupt", "the frame header has a wrong length")
    header = JpegHeader(
        width=int.from_bytes(data[frame + 7 : frame + 9], "big"),
        height=int.from_bytes(data[frame + 5 : frame + 7], "big"),
        frames=1,  # phones append further images (MPO); the first is the one that is shown
        channels=components,
        exif=exif,
        profile=_join(profile),
        plausible=True,
        kept=tuple(kept),
        first_scan=position,
        buffered=kind in _PROGRESSIVE or int.from_bytes(data[position + 4 : position + 5], "big") < components,
    )
    return replace(header, plausible=_is_plausible(data, header, frame))


def _is_plausible(data: bytes, header: JpegHeader, frame: int) -> bool:
    """Return whether the scans have a bit for every block (lossless: sample) of a progressive image, two otherwise.

    A Huffman code has at least one bit. In sequential scans a block has one for its first coefficient and one for the
    end of the others. Arithmetic coding may take less.
    """
    kind = data[frame + 1]
    if kind in _ARITHMETIC:
        return True
    factors = data[frame + 11 : frame + 10 + 3 * header.channels : 3]
    across, down = ([max(1, value) for value in part] for part in zip(*(divmod(f, 16) for f in factors), strict=True))
    unit = 1 if kind == _LOSSLESS else 8
    blocks = max(
        -(-header.width * a // (unit * max(across))) * -(-header.height * d // (unit * max(down)))
        for a, d in zip(across, down, strict=True)
    )
    fewest = blocks * (1 if kind in _PROGRESSIVE or kind == _LOSSLESS else 2) // 8
    least_end = header.first_scan + fewest
    if len(data) >= least_end and data.find(bytes((0xFF, _EOI)), header.first_scan, least_end) < 0:
        return True
    scans = walk_scans(data, header, len(data))
    return bool(scans.end >= least_end)


def count_scans(data: bytes, header: JpegHeader, limit: int) -> int:
    """Return the number of scans that the decoder reads, or more than ``limit`` when there are more.

    The first count takes a millisecond for 20 MiB and can be too high: markers may be part of metadata, or of images
    that are appended. Only a file above the limit is walked through.
    """
    if not header.buffered:
        return 1
    most = data.count(bytes((0xFF, _SOS)), header.first_scan)
    return most if most <= limit else walk_scans(data, header, limit).count


def walk_scans(data: bytes, header: JpegHeader, limit: int) -> Scans:
    """Walk from marker to marker through the scans, until the end marker or more than ``limit`` scans."""
    position, count = header.first_scan, 0
    seen: set[int] = set()
    while count <= limit and (found := _MARKER.search(data, position)):
        marker = data[found.start() + 1]
        complete = len(seen) >= header.channels
        if marker == _EOI:
            return Scans(count, True, complete, found.start())
        if marker == _SOS:
            count += 1
            first = found.start() + 5  # a count, then two bytes per component: its id and its tables
            ids = data[first : first + 2 * int.from_bytes(data[first - 1 : first], "big")]
            seen.update(ids[::2])
        position = found.end() + _length(data, found.start())
    return Scans(count, False, len(seen) >= header.channels, len(data))


def without_metadata(data: bytes, header: JpegHeader, ended: bool) -> bytes:
    """Return the file without metadata segments; the end marker is added where it is missing (``ended`` is false)."""
    parts = [data[:2], *(data[start:end] for start, end in header.kept), data[header.first_scan :]]
    if not ended:
        parts.append(b"\xd9" if data.endswith(b"\xff") else b"\xff\xd9")
    return b"".join(parts)


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """Return where the next marker begins and its second byte; fill bytes and garbage before it are passed over."""
    found = _ANY_MARKER.search(data, position)
    if found is None:
        raise ImageError("image.truncated")
    return found.start(), data[found.start() + 1]


def _is_kept(data: bytes, position: int, end: int) -> bool:
    prefix, shortest = _COLOUR_SEGMENTS.get(data[position + 1], (b"", 0))
    return bool(prefix) and end - position - 2 >= shortest and data.startswith(prefix, position + 4)


def _length(data: bytes, position: int) -> int:
    """Return the length of the segment at a marker: at least 2, since decoders take 0 and 1 for an empty segment."""
    return max(2, int.from_bytes(data[position + 2 : position + 4], "big"))


def _segment_end(data: bytes, position: int) -> int:
    end = position + 2 + _length(data, position)
    if end > len(data):
        raise ImageError("image.truncated")
    return end


def _join(parts: dict[int, memoryview]) -> bytes:
    """Return the profile whose numbered parts are given, or b"" where one is missing or it is too large to be used."""
    if sum(map(len, parts.values())) > MAX_PROFILE:
        return b""
    whole = parts and len(parts) == parts[min(parts)][13] and sorted(parts) == list(range(1, len(parts) + 1))
    return b"".join(parts[number][14:] for number in sorted(parts)) if whole else b""
