"""Hostile JPEG files: cut off, with headers that lie, of rare codings, with odd scans and segments."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

from .assemble import HEIGHT, WIDTH, orientation, patched, picture, save, segment, with_segment
from .jpeg_coding import arithmetic, flat_baseline, frame, lossless, many_scans
from .kinds import Kind, judged, or_refused, refused, sized

#: Mean difference (levels) of a picture from its JPEG of high quality, and of low resolution of colour.
CLOSE, COARSE = 2.0, 8.0
_SOF, _DHT, _DQT, _SOS, _EOI = b"\xff\xc0", b"\xff\xc4", b"\xff\xdb", b"\xff\xda", b"\xff\xd9"


def baseline(**options: object) -> bytes:
    """Return the test picture as a JPEG of high quality."""
    return save(picture(), "JPEG", **{"quality": 95, "subsampling": 0, **options})


def flat(level: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return a picture of one grey."""
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


def truncations() -> Iterator[Kind]:
    """Files that end too early, and files that only seem to."""
    coded = {"baseline": baseline(), "progressive": baseline(progressive=True)}
    coded |= {
        "grey": save(picture()[:, :, 0], "JPEG"),
        "CMYK": save(Image.fromarray(picture()).convert("CMYK"), "JPEG"),
    }
    for name, data in coded.items():
        for percent in (10, 50, 90):
            yield refused(f"JPEG {name} cut at {percent}%", data[: len(data) * percent // 100], "truncated")
    data = coded["baseline"]
    yield refused("JPEG of its start marker", data[:3], "truncated")
    yield refused("JPEG cut in a segment", data[: data.index(_DQT) + 20], "truncated")
    yield refused("JPEG cut before its scan", data[: data.index(_SOS)], "truncated")
    yield refused("JPEG cut after the header of its scan", data[: data.index(_SOS) + 14], "truncated")
    yield refused("JPEG of a start and an end", b"\xff\xd8\xff\xd9", "corrupt", "truncated")
    for missing in (1, 2):
        yield judged(f"JPEG without the last {missing} bytes", data[:-missing], picture(), CLOSE)
    yield judged("JPEG with 100,000 bytes after its end", data + bytes(range(250)) * 400, picture(), CLOSE)
    yield judged("JPEG followed by another", data + save(flat(0), "JPEG"), picture(), CLOSE)
    yield judged("JPEG with an end of zeros", data[:-2] + bytes(500) + _EOI, picture(), CLOSE)


def headers() -> Iterator[Kind]:
    """Headers that say what the rest of the file contradicts."""
    data = baseline()
    start = data.index(_SOF)
    for width, height in ((0, 80), (96, 0), (0, 0)):
        yield refused(
            f"JPEG of {width}x{height}", patched(data, start + 5, struct.pack(">HH", height, width)), "corrupt"
        )
    for width, height in ((65535, 65535), (65500, 800), (7072, 7072)):
        lie = patched(data, start + 5, struct.pack(">HH", height, width))
        yield refused(f"JPEG header of {width}x{height}", lie, "too_many_pixels")
    for width, height in ((7000, 7000), (65535, 700), (1, 65535), (3000, 2000)):
        lie = patched(data, start + 5, struct.pack(">HH", height, width))
        yield refused(f"JPEG of 96x80 that declares {width}x{height}", lie, "truncated", "corrupt")
    lie = patched(data, start + 5, struct.pack(">HH", 7000, 7000)) + bytes(3_000_000)
    yield refused("JPEG of 96x80 that declares 7000x7000 and ends in zeros", lie, "truncated", "corrupt")
    taller = patched(data, start + 5, struct.pack(">HH", HEIGHT + 16, WIDTH))
    yield or_refused(
        sized("JPEG that declares two more rows of blocks", taller, WIDTH, HEIGHT + 16), "truncated", "corrupt"
    )
    shorter = patched(data, start + 5, struct.pack(">HH", HEIGHT - 16, WIDTH))
    yield or_refused(judged("JPEG that declares fewer rows", shorter, picture()[:-16], CLOSE), "corrupt")
    for bits in (2, 12, 16):
        yield refused(f"JPEG of {bits} bits", patched(data, start + 4, bytes((bits,))), "unsupported_format")
    for count in (0, 2, 5, 255):
        lie = patched(data, start + 9, bytes((count,)))
        yield refused(f"JPEG of {count} components", lie, "unsupported_format", "corrupt")
    for factors in (0x00, 0x15, 0xF1):
        lie = patched(data, start + 11, bytes((factors,)))
        yield refused(f"JPEG of sampling factors {factors:02x}", lie, "corrupt", "unsupported_format")
    yield refused("JPEG of an absent quantisation table", patched(data, start + 12, b"\x03"), "corrupt")
    yield refused(
        "JPEG frame of 7 bytes", patched(data, start + 2, b"\0\7"), "corrupt", "truncated", "unsupported_format"
    )
    yield refused("JPEG frame beyond the file", patched(data, start + 2, b"\xff\xff"), "truncated", "corrupt")
    yield refused("JPEG without a frame", data[:start] + data[start + 19 :], "corrupt")
    yield refused("JPEG of two frames", data[:start] + data[start : start + 19] * 2 + data[start + 19 :], "corrupt")
    yield refused("JPEG of two start markers", data[:2] + data, "corrupt")
    for marker in (0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF):
        yield refused(
            f"JPEG of frame type {marker:02x}", patched(data, start + 1, bytes((marker,))), "unsupported_format"
        )
    lines = patched(data, start + 5, bytes(2))
    end = lines.rindex(_EOI)
    yield refused("JPEG whose height follows its scan", lines[:end] + segment(0xDC, b"\0\x50") + lines[end:], "corrupt")


def tables() -> Iterator[Kind]:
    """Damaged tables and entropy-coded data."""
    data = baseline()
    huffman, quantisation, scan = data.index(_DHT), data.index(_DQT), data.index(_SOS)
    yield refused("JPEG of more Huffman codes than there can be", patched(data, huffman + 5, b"\xff"), "corrupt")
    yield refused("JPEG of a Huffman table with index 9", patched(data, huffman + 4, b"\x09"), "corrupt")
    yield refused("JPEG of an empty Huffman table", patched(data, huffman + 5, bytes(16)), "corrupt", "truncated")
    yield refused("JPEG of a quantisation table with index 7", patched(data, quantisation + 4, b"\7"), "corrupt")
    zeros = patched(data, quantisation + 5, bytes(64))
    yield or_refused(sized("JPEG of quantisation by zero", zeros, WIDTH, HEIGHT), "corrupt")
    yield or_refused(sized("JPEG of one flipped bit", patched(data, scan + 900, b"\x55"), WIDTH, HEIGHT), "corrupt")
    noise = np.random.default_rng(1).integers(0, 255, 4000, np.uint8).tobytes()
    yield or_refused(
        sized("JPEG of random entropy-coded data", data[: scan + 14] + noise + _EOI, WIDTH, HEIGHT),
        "corrupt",
        "truncated",
    )
    ones = data[: scan + 14] + b"\xff\0" * 3000 + _EOI
    yield or_refused(sized("JPEG of entropy-coded ones", ones, WIDTH, HEIGHT), "corrupt", "truncated")
    reset = baseline(restart_marker_blocks=4)
    yield judged("JPEG with restart markers", reset, picture(), CLOSE)
    first = reset.index(b"\xff\xd0")
    yield or_refused(
        sized("JPEG with restart markers out of order", patched(reset, first, b"\xff\xd5"), WIDTH, HEIGHT), "corrupt"
    )
    yield or_refused(
        sized("JPEG without a restart marker", reset[:first] + reset[first + 2 :], WIDTH, HEIGHT), "corrupt"
    )


def codings() -> Iterator[Kind]:
    """Rare codings and colour spaces."""
    ink = 255 - picture()
    printed = np.dstack([ink, np.zeros(ink.shape[:2], np.uint8)])
    cmyk = save(Image.fromarray(printed, "CMYK"), "JPEG", quality=95)
    yield judged("JPEG of CMYK", cmyk, picture(), COARSE)
    ycck = simplejpeg.encode_jpeg(255 - printed, quality=95, colorspace="CMYK", colorsubsampling="444")
    yield judged("JPEG of YCCK", ycck, picture(), CLOSE)
    adobe = ycck.index(b"\xff\xee")
    bare = ycck[:adobe] + ycck[adobe + 16 :]
    yield or_refused(sized("JPEG of four components without Adobe segment", bare, WIDTH, HEIGHT), "corrupt")
    yield judged("JPEG of RGB components", baseline(keep_rgb=True), picture(), CLOSE)
    lie = with_segment(baseline(), segment(0xEE, b"Adobe\0\x64\0\0\0\0\x09"))
    yield or_refused(sized("JPEG of an unknown Adobe transform", lie, WIDTH, HEIGHT), "corrupt")
    yield judged("JPEG of one component", save(picture()[:, :, 1], "JPEG", quality=95), grey(), CLOSE)
    for name in ("4:2:2", "4:2:0", "4:1:1"):
        yield judged(f"JPEG of {name}", baseline(subsampling=name), picture(), COARSE)
    for name in ("440", "411"):
        coded = simplejpeg.encode_jpeg(picture(), quality=95, colorsubsampling=name)
        yield judged(f"JPEG of subsampling {name}", coded, picture(), COARSE)
    yield judged("JPEG of quality 1", baseline(quality=1), picture(), 40.0)
    yield judged("JPEG arithmetic-coded", arithmetic(WIDTH, HEIGHT), flat(160))
    coded = arithmetic(WIDTH, HEIGHT)
    yield refused(
        "JPEG arithmetic-coded of 12 bits", patched(coded, coded.index(b"\xff\xc9") + 4, b"\x0c"), "unsupported_format"
    )
    mixed = patched(baseline(), baseline().index(_SOF) + 1, b"\xc9")
    yield or_refused(sized("JPEG that claims arithmetic coding", mixed, WIDTH, HEIGHT), "corrupt", "truncated")
    yield judged("JPEG lossless", lossless(picture()[:, :, 1]), grey())
    for bits in (4, 12, 16):
        yield refused(
            f"JPEG lossless of {bits} bits", lossless(picture()[:, :, 1] & np.uint8(15), bits), "unsupported_format"
        )
    extended = patched(baseline(), baseline().index(_SOF) + 1, b"\xc1")
    yield judged("JPEG extended sequential", extended, picture(), CLOSE)
    twelve = (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + bytes([1] * 64))
        + frame(0xC1, WIDTH, HEIGHT, 12)
        + baseline()[baseline().index(_SOS) :]
    )
    yield refused("JPEG of 12 bits, extended sequential", twelve, "unsupported_format")


def samplings() -> Iterator[Kind]:
    """Sampling factors that are allowed and that few decoders or programs know."""
    for factors in (
        "141111", "411111", "241111", "421111", "131111", "311111", "221111", "222111", "112211", "111122", "121211",
        "112111", "221221", "14", "42", "11111111", "22111122", "41111111",
    ):  # fmt: skip
        data = flat_baseline(WIDTH, HEIGHT, bytes.fromhex(factors))
        inks = len(factors) == 8
        yield judged(f"JPEG of sampling factors {factors}", data, flat(64 if inks else 128), 1.0)


def grey() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the green channel of the test picture as a grey picture [H, W, 3]."""
    return np.repeat(picture()[:, :, 1:2], 3, axis=2)


def scans() -> Iterator[Kind]:
    """Many scans, scans of a lie, scans that are missing."""
    yield sized("JPEG of 400 scans", many_scans(WIDTH, HEIGHT, 399), WIDTH, HEIGHT)
    for width, height, count in ((96, 80, 501), (96, 80, 60000), (1000, 1000, 520), (7000, 7000, 30)):
        data = many_scans(width, height, count)
        yield refused(f"JPEG {width}x{height} of {count} scans", data, "too_many_scans")
    data = baseline(progressive=True)
    starts = [n for n in range(len(data)) if data.startswith(_SOS, n)]
    yield judged("JPEG progressive", data, picture(), CLOSE)
    yield or_refused(sized("JPEG progressive of its first scan", data[: starts[1]] + _EOI, WIDTH, HEIGHT), "truncated")
    swapped = data[: starts[0]] + data[starts[-1] : -2] + data[starts[0] :]
    yield or_refused(sized("JPEG progressive that begins with its last scan", swapped, WIDTH, HEIGHT), "corrupt")
    twice = data[:-2] + data[starts[1] :]
    yield or_refused(sized("JPEG progressive with its scans twice", twice, WIDTH, HEIGHT), "corrupt")
    plain = baseline()
    start = plain.index(_SOS)
    for name, offset, value in (
        ("of an unknown component", 5, b"\x09"),
        ("of the same component thrice", 5, b"\1\0\1\0\1\0"),
        ("of no component", 4, b"\0"),
        ("of nine components", 4, b"\x09"),
        ("of absent Huffman tables", 6, b"\x33"),
    ):
        yield refused(f"JPEG scan {name}", patched(plain, start + offset, value), "corrupt", "truncated")
    odd = patched(plain, start + 11, b"\5\x3f\x11")
    yield or_refused(sized("JPEG scan of impossible coefficients", odd, WIDTH, HEIGHT), "corrupt")
    yield refused(
        "JPEG progressive scan of impossible coefficients", patched(data, starts[0] + 11, b"\x3f\1\0"), "corrupt"
    )


def segments() -> Iterator[Kind]:
    """Metadata segments that are many, large, short or misleading."""
    data = baseline()
    parts = {
        "4,000 empty segments": segment(0xE5, b"") * 4000,
        "200 segments of 64 KiB": segment(0xE5, bytes(65533)) * 200,
        "empty application segments": b"".join(segment(marker, b"") for marker in range(0xE0, 0xF0)),
        "a segment of length 0": b"\xff\xe3\0\0",
        "a segment of length 1": b"\xff\xe3\0\1",
        "fill bytes": b"\xff" * 1000,
        "a comment of markers": segment(0xFE, b"\xff\xda\xff\xc0\xff\xd9" * 200),
        "a thumbnail with scans": segment(0xE1, orientation(1) + save(picture(32, 32), "JPEG")),
        "a short JFIF segment": segment(0xE0, b"JFIF\0\1"),
        "a short Adobe segment": segment(0xEE, b"Adobe"),
        "a JFIF thumbnail of a lie": segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\xff\xff"),
        "Photoshop data cut off": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"),
        "a multi-picture index of a lie": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 60),
    }
    for name, part in parts.items():
        yield judged(f"JPEG with {name}", with_segment(data, part), picture(), CLOSE)
    start = data.index(_DQT)
    yield judged("JPEG with garbage between segments", data[:start] + b"garbage" + data[start:], picture(), CLOSE)
    yield refused("JPEG of 500,000 empty segments", b"\xff\xd8" + segment(0xE5, b"") * 500_000, "corrupt")
    yield refused("JPEG of fill bytes alone", b"\xff\xd8" + b"\xff" * 1_000_000, "truncated", "corrupt")
    yield refused(
        "JPEG of a segment beyond the file", data[:2] + b"\xff\xe4\xff\xff" + data[2:], "truncated", "corrupt"
    )


def sizes() -> Iterator[Kind]:
    """Extreme sizes and aspects."""
    for width, height in ((1, 1), (1, 65500), (65500, 1), (17, 30000), (30000, 17)):
        shown = np.repeat(np.repeat(picture(1, 1), height, 0), width, 1)
        yield judged(f"JPEG of {width}x{height}", save(shown, "JPEG", quality=95, subsampling=0), shown, CLOSE)
    yield Kind("JPEG flat of 7000x7000", flat_baseline(7000, 7000), size=(7000, 7000), large=True)


FAMILIES = (truncations, headers, tables, codings, samplings, scans, segments, sizes)
