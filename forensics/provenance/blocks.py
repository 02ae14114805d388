"""The metadata blocks of an image file, cut out without interpreting them.

The file may be hostile: nothing here raises, the number of steps is bounded, and so is what is kept of each block.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..containers import JPEG_MAGIC, PNG_MAGIC
from ..exif import EXIF_PREFIX

#: Blocks that are looked at; files of cameras and generators have tens.
_MOST_BLOCKS = 512
#: Bytes that are kept of each kind of metadata. Generator settings and camera data stand at their beginning.
_MOST_BYTES = 128 * 1024
#: Texts that are kept, and compressed ones that are unpacked: together at most 2 ms.
_MOST_TEXTS = 32
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP_PREFIX = b"Photoshop 3.0\0"
#: The keyword of a JPEG's comments.
COMMENT = "JPEG comment"
_XMP_KEYWORD = "XML:com.adobe.xmp"
_LUMA_TABLE = 64


@dataclass
class Blocks:
    """What a file carries beside its pixels; b"", () or 0 stand for none.

    ``exif``: TIFF data without prefix. ``xmp``: the XMP packet. ``resources``: Photoshop's image resources, which hold
    IPTC data. ``texts``: keyword and text of PNG text chunks; JPEG comments have the keyword :data:`COMMENT`.
    ``luma_table``: a JPEG's first quantisation table [64] in zigzag order. ``credentials``: the size of C2PA content
    credentials in bytes.
    """

    exif: bytes = b""
    xmp: bytes = b""
    resources: bytes = b""
    texts: list[tuple[str, str]] = field(default_factory=list)
    luma_table: tuple[int, ...] = ()
    credentials: int = 0

    def add_text(self, keyword: str, text: str) -> None:
        """Keep a text, up to the limit on their number; an XMP packet goes to :attr:`xmp`."""
        if keyword == _XMP_KEYWORD:
            self.xmp = self.xmp or text.encode()
        elif text and len(self.texts) < _MOST_TEXTS:
            self.texts.append((keyword, text))


def read_blocks(data: bytes) -> Blocks:
    """Return the metadata blocks of a JPEG, PNG or WebP file; what is damaged is left out."""
    blocks = Blocks()
    if data.startswith(JPEG_MAGIC):
        for marker, start, end in _jpeg_segments(data):
            _add_segment(blocks, data, marker, start, end)
    elif data.startswith(PNG_MAGIC):
        for kind, start, end in _chunks(data, len(PNG_MAGIC), ">I4s", overhead=12):
            _add_png_chunk(blocks, data, kind, start, end)
    else:
        for kind, start, end in _chunks(data, 12, "<4sI", overhead=8):
            _add_webp_chunk(blocks, data, kind, start, end)
    return blocks


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of the bodies of the segments before the first scan."""
    position = 2
    for _ in range(_MOST_BLOCKS):
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            return
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            return
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            position += 1
            continue
        end = position + 2 + max(length, 2)
        yield marker, position + 4, min(end, len(data))
        position = end


def _chunks(data: bytes, position: int, form: str, overhead: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the bodies of PNG chunks, or of RIFF chunks (which are padded to even lengths)."""
    for _ in range(_MOST_BLOCKS):
        if position + 8 > len(data):
            return
        first, second = struct.unpack_from(form, data, position)
        kind, length = (first, second) if isinstance(first, bytes) else (second, first)
        yield kind, position + 8, min(position + 8 + length, len(data))
        position += overhead + length + (length & 1 if overhead == 8 else 0)


def _add_segment(blocks: Blocks, data: bytes, marker: int, start: int, end: int) -> None:
    if marker == 0xE1 and data.startswith(EXIF_PREFIX, start):
        blocks.exif = blocks.exif or data[start + len(EXIF_PREFIX) : end]
    elif marker == 0xE1 and data.startswith(_XMP_PREFIX, start):
        blocks.xmp = blocks.xmp or data[start + len(_XMP_PREFIX) : end]
    elif marker == 0xEB and data.startswith(b"JP", start) and b"jumb" in data[start : start + 32]:
        blocks.credentials += end - start
    elif marker == 0xED and data.startswith(_PHOTOSHOP_PREFIX, start):
        blocks.resources = blocks.resources or data[start + len(_PHOTOSHOP_PREFIX) : end]
    elif marker == 0xFE:
        blocks.add_text(COMMENT, data[start:end].decode("latin-1").strip("\0"))
    elif marker == 0xDB and not blocks.luma_table and end - start > _LUMA_TABLE and data[start] == 0:
        blocks.luma_table = tuple(data[start + 1 : start + 1 + _LUMA_TABLE])


def _add_png_chunk(blocks: Blocks, data: bytes, kind: bytes, start: int, end: int) -> None:
    body = data[start : min(end, start + _MOST_BYTES)]
    if kind == b"eXIf":
        blocks.exif = blocks.exif or body.removeprefix(EXIF_PREFIX)
    elif kind == b"caBX":
        blocks.credentials += end - start
    elif kind == b"tEXt":
        keyword, _, text = body.partition(b"\0")
        blocks.add_text(keyword.decode("latin-1"), text.decode("latin-1"))
    elif kind == b"zTXt":
        keyword, _, text = body.partition(b"\0")
        blocks.add_text(keyword.decode("latin-1"), _unpack(text[1:]).decode("latin-1"))
    elif kind == b"iTXt":
        keyword, _, rest = body.partition(b"\0")
        # A flag for compression, its method, then language and translated keyword, which end with a zero each.
        text = rest[2:].split(b"\0", 2)[-1]
        blocks.add_text(
            keyword.decode("latin-1"), (_unpack(text) if rest[:1] == b"\1" else text).decode(errors="replace")
        )


def _add_webp_chunk(blocks: Blocks, data: bytes, kind: bytes, start: int, end: int) -> None:
    body = data[start : min(end, start + _MOST_BYTES)]
    if kind == b"EXIF":
        blocks.exif = blocks.exif or body.removeprefix(EXIF_PREFIX)
    elif kind == b"XMP ":
        blocks.xmp = blocks.xmp or body
    elif kind == b"C2PA":
        blocks.credentials += end - start


def _unpack(packed: bytes) -> bytes:
    """Return the beginning of deflated data, or b"" where they are damaged."""
    try:
        return zlib.decompressobj().decompress(packed, _MOST_BYTES)
    except zlib.error:
        return b""
