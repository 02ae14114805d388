"""The few EXIF tags that say where a file comes from, read from TIFF data that may be damaged or hostile."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
#: Entries of an IFD that are read; cameras write at most 60.
_MOST_ENTRIES = 200
#: Bytes of a text that are read. Generators write their settings into UserComment.
_MOST_BYTES = 16 * 1024
#: Thumbnails of EXIF lie in one segment of 64 KiB.
_MOST_THUMBNAIL = 64 * 1024
_BYTE, _ASCII, _SHORT, _LONG, _UNDEFINED = 1, 2, 3, 4, 7
#: Bytes per value by TIFF type.
_SIZES = {_BYTE: 1, _ASCII: 1, _SHORT: 2, _LONG: 4, 5: 8, 6: 1, _UNDEFINED: 1, 8: 2, 9: 4, 10: 8}
_EXIF_IFD, _THUMBNAIL_START, _THUMBNAIL_BYTES = 0x8769, 0x0201, 0x0202
#: Texts by tag.
_TEXTS = {
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    0x9286: "UserComment",
}
_MAKER_NOTE, _WIDTH, _HEIGHT = 0x927C, 0xA002, 0xA003


@dataclass
class ExifTags:
    """What EXIF data say; "", 0 or b"" where they do not.

    ``texts``: by name, such as ``Make``. ``maker_note``: bytes of the maker note. ``size``: width and height in pixels
    that the camera wrote. ``thumbnail``: a small JPEG of the picture.
    """

    texts: dict[str, str] = field(default_factory=dict)
    maker_note: int = 0
    size: tuple[int, int] = (0, 0)
    thumbnail: bytes = b""


def read_exif_tags(tiff: bytes) -> ExifTags:
    """Return the tags of TIFF data, without an "Exif" prefix; what is damaged is left out."""
    tags = ExifTags()
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return tags
    reader = _Reader(tiff, order)
    first, following = reader.read_ifd(reader.long_at(4))
    exif, _ = reader.read_ifd(reader.number(first.get(_EXIF_IFD)))
    thumbnail, _ = reader.read_ifd(following)
    for number, name in _TEXTS.items():
        if text := reader.text(first.get(number) or exif.get(number)):
            tags.texts[name] = text
    tags.maker_note = exif[_MAKER_NOTE].length if _MAKER_NOTE in exif else 0
    tags.size = (reader.number(exif.get(_WIDTH)), reader.number(exif.get(_HEIGHT)))
    start, length = (reader.number(thumbnail.get(tag)) for tag in (_THUMBNAIL_START, _THUMBNAIL_BYTES))
    if start and length <= _MOST_THUMBNAIL:
        tags.thumbnail = tiff[start : start + length]
    return tags


@dataclass(frozen=True)
class _Entry:
    """One entry of an IFD: TIFF type, and where its ``length`` bytes begin."""

    kind: int
    start: int
    length: int


class _Reader:
    """Reads IFDs and values; what lies outside the data is taken for absent."""

    def __init__(self, tiff: bytes, order: str) -> None:
        self.tiff, self.order = tiff, order

    def long_at(self, position: int) -> int:
        """Return the unsigned 32-bit number at a position; 0 outside the data."""
        if not 0 <= position <= len(self.tiff) - 4:
            return 0
        return int(struct.unpack_from(f"{self.order}I", self.tiff, position)[0])

    def read_ifd(self, start: int) -> tuple[dict[int, _Entry], int]:
        """Return the entries of an IFD by tag, and where the next IFD begins (0 = there is none)."""
        entries: dict[int, _Entry] = {}
        if not 8 <= start <= len(self.tiff) - 2:
            return entries, 0
        (count,) = struct.unpack_from(f"{self.order}H", self.tiff, start)
        for index in range(min(count, _MOST_ENTRIES)):
            position = start + 2 + 12 * index
            if position + 12 > len(self.tiff):
                return entries, 0
            tag, kind, values = struct.unpack_from(f"{self.order}HHI", self.tiff, position)
            length = _SIZES.get(kind, 0) * values
            begin = position + 8 if length <= 4 else self.long_at(position + 8)
            if length and begin + length <= len(self.tiff):
                entries.setdefault(tag, _Entry(kind, begin, length))
        return entries, self.long_at(start + 2 + 12 * count)

    def number(self, entry: _Entry | None) -> int:
        """Return the value of a SHORT or LONG; 0 for anything else."""
        if entry is None or (entry.kind, entry.length) not in ((_SHORT, 2), (_LONG, 4)):
            return 0
        form = "H" if entry.kind == _SHORT else "I"
        return int(struct.unpack_from(f"{self.order}{form}", self.tiff, entry.start)[0])

    def text(self, entry: _Entry | None) -> str:
        """Return a text; UserComment begins with eight bytes that name its encoding (EXIF 2.3, 4.6.5)."""
        if entry is None or entry.kind not in (_BYTE, _ASCII, _UNDEFINED):  # Pillow writes UserComment as bytes
            return ""
        raw = self.tiff[entry.start : entry.start + min(entry.length, _MOST_BYTES)]
        if raw.startswith(b"UNICODE\0"):
            # Writers disagree on the byte order: the one with a zero first is big-endian.
            return raw[8:].decode("utf-16-be" if raw[8:9] == b"\0" else "utf-16-le", "replace").strip("\0 ")
        return raw.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace").strip("\0 ")
