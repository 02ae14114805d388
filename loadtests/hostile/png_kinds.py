"""Hostile PNG files: cut off, with headers that lie, damaged or endless data, palettes, checksums, text bombs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .assemble import (
    HEIGHT,
    PNG_MAGIC,
    WIDTH,
    before_pixels,
    chunk,
    patched,
    picture,
    png_file,
    png_header,
    png_rows,
    save,
    with_chunk,
)
from .kinds import Kind, judged, or_refused, refused, sized

_END = chunk(b"IEND", b"")


def _pixels(data: bytes) -> bytes:
    """Return an IDAT chunk of raw rows."""
    return chunk(b"IDAT", zlib.compress(data, 9))


def plain() -> bytes:
    """Return the test picture as a PNG of three chunks."""
    return png_file(png_header(WIDTH, HEIGHT), _pixels(png_rows(picture())))


def truncations() -> Iterator[Kind]:
    """Files that end too early, and files that only seem to."""
    data, coded = plain(), save(picture(), "PNG")
    for percent in (5, 30, 60, 90):
        yield refused(f"PNG cut at {percent}%", coded[: len(coded) * percent // 100], "truncated")
    for length in (8, 12, 20, 33, 41):
        yield refused(f"PNG of its first {length} bytes", data[:length], "truncated", "corrupt")
    for missing in (4, 12, 16):
        yield judged(f"PNG without the last {missing} bytes", data[:-missing], picture())
    yield judged("PNG with 100,000 bytes after its end", data + bytes(range(250)) * 400, picture())
    yield judged("PNG followed by another", data + data, picture())
    yield refused("PNG without pixels", png_file(png_header(WIDTH, HEIGHT)), "corrupt")


def headers() -> Iterator[Kind]:
    """Headers that are impossible or that the rest of the file contradicts."""
    pixels = _pixels(png_rows(picture()))
    for width, height in ((0, 80), (96, 0), (0, 0)):
        yield refused(f"PNG of {width}x{height}", png_file(png_header(width, height), pixels), "corrupt")
    for width, height in ((2**31 - 1, 1), (2**32 - 1, 2**32 - 1), (65535, 65535), (7072, 7072), (1, 50_000_001)):
        yield refused(f"PNG header of {width}x{height}", png_file(png_header(width, height), pixels), "too_many_pixels")
    for width, height in ((7000, 7000), (50_000_000, 1), (1, 50_000_000), (3000, 2000)):
        lie = png_file(png_header(width, height), pixels)
        yield refused(f"PNG of 96x80 that declares {width}x{height}", lie, "truncated", "corrupt")
    for depth, colour in ((3, 0), (0, 0), (32, 2), (1, 2), (4, 2), (16, 3), (8, 1), (8, 5), (8, 7), (4, 4), (2, 6)):
        lie = png_file(png_header(WIDTH, HEIGHT, depth, colour), chunk(b"PLTE", bytes(768)), pixels)
        yield refused(f"PNG of depth {depth} and colour type {colour}", lie, "corrupt")
    for name, methods in (("compression", b"\1\0\0"), ("filter", b"\0\1\0"), ("interlace", b"\0\0\2")):
        lie = png_file(png_header(WIDTH, HEIGHT, methods=methods), pixels)
        yield refused(f"PNG of unknown {name} method", lie, "corrupt")
    header = png_header(WIDTH, HEIGHT)
    yield refused("PNG of a header with a wrong checksum", png_file(patched(header, 21, b"abcd"), pixels), "corrupt")
    yield refused("PNG without a header", png_file(pixels), "corrupt")
    yield refused("PNG of a header of 12 bytes", png_file(chunk(b"IHDR", header[8:20]), pixels), "corrupt")
    yield refused("PNG of a header of 14 bytes", png_file(chunk(b"IHDR", header[8:22]), pixels), "corrupt")
    yield or_refused(
        judged("PNG of two headers", png_file(header, png_header(9000, 9000), pixels), picture()),
        "corrupt",
        "too_many_pixels",
    )
    late = png_file(chunk(b"tIME", bytes(7)), header, pixels)
    yield refused("PNG whose header is its second chunk", late, "corrupt")
    bare = PNG_MAGIC + header + struct.pack(">I", 2**31) + pixels[4:] + _END
    yield or_refused(judged("PNG chunk that is longer than the file", bare, picture()), "truncated", "corrupt")
    yield refused(
        "PNG chunk of no letters", PNG_MAGIC + header + chunk(b"\0\1\2\3", b"") + pixels, "truncated", "corrupt"
    )


def data_faults() -> Iterator[Kind]:
    """Deflate streams that are damaged, too short, too long or split in odd ways."""
    rows = png_rows(picture())
    stream = zlib.compress(rows, 9)
    header = png_header(WIDTH, HEIGHT)

    def of(data: bytes) -> bytes:
        return png_file(header, chunk(b"IDAT", data))

    yield refused("PNG of half of its rows", of(zlib.compress(rows[: len(rows) // 2])), "truncated", "corrupt")
    yield refused("PNG of an empty stream", of(zlib.compress(b"")), "truncated", "corrupt")
    yield refused("PNG of empty pixel chunks", png_file(header, chunk(b"IDAT", b"") * 9), "truncated", "corrupt")
    noise = np.random.default_rng(2).integers(0, 255, 5000, np.uint8).tobytes()
    yield refused("PNG of noise in place of its stream", of(noise), "corrupt", "truncated")
    yield refused("PNG of a stream that breaks off in noise", of(stream[:300] + noise), "corrupt", "truncated")
    yield refused("PNG of a stream with a dictionary", of(b"\x78\xbb" + bytes(4) + stream[2:]), "corrupt", "truncated")
    yield or_refused(judged("PNG of a stream with a wrong sum", of(stream[:-4] + b"\0\0\0\0"), picture()), "corrupt")
    yield judged("PNG of stored blocks", of(zlib.compress(rows, 0)), picture())
    yield judged("PNG of more rows than it declares", of(zlib.compress(rows * 3)), picture())
    yield judged("PNG whose rows are followed by 64 MB of zeros", of(_bomb(rows, 64)), picture())
    yield judged("PNG of chunks of one byte", png_file(header, *_split(stream, 1)), picture())
    yield judged(
        "PNG of 20,000 empty chunks", png_file(header, chunk(b"IDAT", b"") * 20_000, *_split(stream, 99)), picture()
    )
    mixed = [part + chunk(b"prIv", b"between") for part in _split(stream, 50)]
    yield or_refused(judged("PNG of pixels split by other chunks", png_file(header, *mixed), picture()), "corrupt")
    for value in (5, 255):
        wrong = patched(rows, 0, bytes((value,)))
        yield refused(f"PNG of a row with filter {value}", of(zlib.compress(wrong)), "corrupt", "truncated")
    cyclic = b"".join(bytes((n % 5,)) + rows[n * 289 + 1 : n * 289 + 289] for n in range(HEIGHT))
    yield sized("PNG of every filter", of(zlib.compress(cyclic)), WIDTH, HEIGHT)
    yield refused("PNG of 150,000 chunks", png_file(header, chunk(b"prIv", b"") * 150_000, _pixels(rows)), "corrupt")


def _split(stream: bytes, size: int) -> list[bytes]:
    return [chunk(b"IDAT", stream[start : start + size]) for start in range(0, len(stream), size)]


def _bomb(start: bytes, megabytes: int) -> bytes:
    """Return a deflate stream of some bytes and then megabytes of zeros."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(start)] + [packer.compress(bytes(1_000_000)) for _ in range(megabytes)]
    return b"".join([*parts, packer.flush()])


def checksums() -> Iterator[Kind]:
    """Wrong checksums: they do not matter but in the header and in the palette."""
    rows, header = png_rows(picture()), png_header(WIDTH, HEIGHT)
    wrong = png_file(header, chunk(b"IDAT", zlib.compress(rows), crc=1))
    yield judged("PNG of pixels with a wrong checksum", wrong, picture())
    yield judged("PNG of an end with a wrong checksum", plain()[:-4] + b"\0\0\0\0", picture())
    for kind in (b"tEXt", b"tRNS", b"gAMA", b"eXIf", b"iCCP", b"acTL"):
        part = chunk(kind, bytes(8), crc=3)
        yield judged(f"PNG of {kind.decode()} with a wrong checksum", with_chunk(plain(), part), picture())
    coded = save(Image.fromarray(picture()).convert("P"), "PNG")
    palette = coded.index(b"PLTE")
    yield refused("PNG of a palette with a wrong checksum", patched(coded, palette + 5, b"\x99"), "corrupt")


def palettes() -> Iterator[Kind]:
    """Palettes that are missing, short, long, misplaced or not used."""
    indices = (picture()[:, :, 0] // 16).astype(np.uint8)
    colours = np.stack([np.arange(16) * 16, 255 - np.arange(16) * 16, np.arange(16) * 5], axis=-1).astype(np.uint8)
    shown = colours[indices]
    header, pixels = png_header(WIDTH, HEIGHT, 8, 3), _pixels(png_rows(indices[:, :, None]))
    palette = chunk(b"PLTE", colours.tobytes())
    yield judged("PNG of 16 colours", png_file(header, palette, pixels), shown)
    yield refused("PNG without a palette", png_file(header, pixels), "corrupt")
    yield refused("PNG of an empty palette", png_file(header, chunk(b"PLTE", b""), pixels), "corrupt")
    yield refused("PNG of a palette of 17 bytes", png_file(header, chunk(b"PLTE", bytes(17)), pixels), "corrupt")
    long = chunk(b"PLTE", colours.tobytes() + bytes(900))
    yield or_refused(judged("PNG of a palette of 316 colours", png_file(header, long, pixels), shown), "corrupt")
    short = chunk(b"PLTE", colours[:4].tobytes())
    yield or_refused(
        sized("PNG of indices beyond its palette", png_file(header, short, pixels), WIDTH, HEIGHT), "corrupt"
    )
    yield refused("PNG of a palette after its pixels", png_file(header, pixels, palette), "corrupt")
    twice = png_file(header, palette, chunk(b"PLTE", bytes(48)), pixels)
    yield or_refused(judged("PNG of two palettes", twice, shown), "corrupt")
    clear = np.where((indices == 0)[:, :, None], np.uint8(255), shown)
    for count in (1, 3, 16, 256, 400):
        part = chunk(b"tRNS", b"\0" + b"\xff" * (count - 1))
        yield judged(f"PNG of {count} transparent entries", png_file(header, palette, part, pixels), clear)
    yield judged("PNG of no transparent entries", png_file(header, palette, chunk(b"tRNS", b""), pixels), shown)
    yield judged("PNG of colour with a palette", with_chunk(plain(), palette), picture())
    grey = png_file(png_header(WIDTH, HEIGHT, 8, 0), palette, _pixels(png_rows(picture()[:, :, :1])))
    yield judged("PNG of grey with a palette", grey, np.repeat(picture()[:, :, :1], 3, axis=2))


def metadata() -> Iterator[Kind]:
    """Text and other ancillary chunks that are large when unpacked, many, or damaged."""
    bomb = _bomb(b"", 64)
    parts = {
        "a text of 64 MB": chunk(b"zTXt", b"Comment\0\0" + bomb),
        "an international text of 64 MB": chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        "a profile of 64 MB": chunk(b"iCCP", b"profile\0\0" + bomb),
        "80 texts of 1 MB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000))) * 80,
        "5,000 texts": chunk(b"tEXt", b"Comment\0text") * 5000,
        "a text of 8 MB": chunk(b"tEXt", b"Comment\0" + b"x" * 8_000_000),
        "a text without a key": chunk(b"tEXt", b""),
        "a text that is not Latin": chunk(b"iTXt", b"a\0\0\0\0\0\xff\xfe"),
        "a text of unknown compression": chunk(b"zTXt", b"x\0\x09" + bomb[:9]),
        "a text of damaged deflate": chunk(b"zTXt", b"x\0\0" + bomb[5:90]),
        "a private chunk of 1 MB": chunk(b"prIv", bytes(1_000_000)),
        "an unknown critical chunk": chunk(b"ABCD", b"data"),
        "a suggested palette of a lie": chunk(b"sPLT", b"name\0\x10" + b"\xff" * 11),
        "a histogram without a palette": chunk(b"hIST", b"\xff" * 7),
        "a gamma of zero": chunk(b"gAMA", bytes(4)),
        "colours of zero": chunk(b"gAMA", b"\0\0\xb1\x8f") + chunk(b"cHRM", bytes(32)),
        "colours of 2^32": chunk(b"gAMA", b"\xff\xff\xff\xff") + chunk(b"cHRM", b"\xff" * 32),
        "unknown code points": chunk(b"cICP", bytes((200, 200, 0, 1))),
        "two transparencies": chunk(b"tRNS", b"\0") + chunk(b"tRNS", b"\0\0"),
    }
    for name, part in parts.items():
        yield judged(f"PNG with {name}", before_pixels(plain(), part), picture())


FAMILIES = (truncations, headers, data_faults, checksums, palettes, metadata)
