"""Hostile WebP files: cut off, with lengths and sizes that lie, odd chunks, transparency and animations."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from veridict.forensics.arrays import Pixels

from .assemble import HEIGHT, WIDTH, patched, picture, riff, riff_chunks, save
from .kinds import Kind, judged, or_refused, refused, sized

#: Mean difference (levels) of the picture from its lossy WebP.
CLOSE = 3.0


def lossless(pixels: Pixels | None = None) -> bytes:
    """Return the test picture, or other pixels, as a lossless WebP."""
    return save(picture() if pixels is None else pixels, "WEBP", lossless=True)


def lossy() -> bytes:
    """Return the test picture as a lossy WebP of high quality."""
    return save(picture(), "WEBP", quality=95)


def extended(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    """Return a VP8X chunk as (kind, body)."""
    return b"VP8X", bytes((flags, 0, 0, 0)) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def flat_lossless(width: int, height: int) -> bytes:
    """Return the shortest lossless WebP: every pixel costs no bit, since each Huffman code has one symbol."""
    # The version is 0; no transform, no colour cache, no meta codes; five codes of one symbol, the alpha 255.
    bits = f"{0x2F:08b}"[::-1] + f"{width - 1:014b}"[::-1] + f"{height - 1:014b}"[::-1] + "0" + "000" + "000"
    for symbol in (0, 0, 0, 255, 0):
        bits += "10" + ("1" + f"{symbol:08b}"[::-1] if symbol else "00")
    bits += "0" * (-len(bits) % 8)
    body = bytes(int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8))
    return riff([(b"VP8L", body + bytes(8))])


def truncations() -> Iterator[Kind]:
    """Files that end too early, and files that only seem to."""
    for name, data in (("lossy", lossy()), ("lossless", lossless())):
        for percent in (20, 40, 60, 95):
            yield refused(f"WebP {name} cut at {percent}%", data[: len(data) * percent // 100], "truncated", "corrupt")
    data = lossless()
    yield refused("WebP of its first 12 bytes", data[:12], "truncated", "corrupt")
    yield refused("WebP of its first 20 bytes", data[:20], "truncated", "corrupt")
    yield judged("WebP with 100,000 bytes after its end", data + bytes(range(250)) * 400, picture())
    yield judged("WebP followed by another", data + data, picture())


def lengths() -> Iterator[Kind]:
    """Lengths of the file and of its chunks that lie."""
    chunks = riff_chunks(lossless())
    data = riff(chunks)
    for size in (0, 4, 30):
        yield refused(f"WebP that declares {size} bytes", riff(chunks, size), "corrupt", "truncated")
    for size in (len(data) + 1000, 2**32 - 1):
        lie = riff(chunks, size)
        yield or_refused(
            judged(f"WebP of {len(data)} bytes that declares {size}", lie, picture()), "truncated", "corrupt"
        )
    for length in (0, 3, len(data), 2**31, 2**32 - 1):
        lie = patched(data, 16, struct.pack("<I", length))
        yield refused(f"WebP of a pixel chunk that declares {length} bytes", lie, "truncated", "corrupt")
    yield judged("WebP with a private chunk of a lie", data + b"prIv\xff\xff\xff\xff", picture())
    yield judged("WebP with an odd length", riff([*chunks, (b"prIv", b"odd")]), picture())


def sizes() -> Iterator[Kind]:
    """Sizes that lie or are extreme."""
    coded, (_, body) = lossy(), riff_chunks(lossless())[0]
    for width, height in ((0, 80), (96, 0), (16383, 16383), (7000, 7000), (16383, 3000)):
        lie = patched(coded, 26, struct.pack("<HH", width, height))
        codes = ("too_many_pixels",) if width == height == 16383 else ("corrupt", "truncated")
        yield refused(f"WebP lossy that declares {width}x{height}", lie, *codes)
    for width, height in ((16384, 16384), (7000, 7000), (16384, 3000)):
        head = struct.pack("<I", width - 1 | height - 1 << 14 | 1 << 28)
        codes = ("too_many_pixels",) if width == height == 16384 else ("corrupt", "truncated")
        yield refused(
            f"WebP lossless that declares {width}x{height}", riff([(b"VP8L", patched(body, 1, head))]), *codes
        )
    for width, height in ((2**24, 2**24), (16384, 16384)):
        lie = riff([extended(width, height), (b"VP8L", body)])
        yield refused(f"WebP canvas of {width}x{height}", lie, "too_many_pixels")
    for width, height in ((97, 80), (95, 80), (7000, 7000)):
        lie = riff([extended(width, height), (b"VP8L", body)])
        yield refused(f"WebP canvas of {width}x{height} for 96x80", lie, "corrupt", "truncated")
    yield refused("WebP of 268 million pixels in 40 bytes", flat_lossless(16384, 16384), "too_many_pixels")
    yield judged("WebP of the shortest coding", flat_lossless(WIDTH, HEIGHT), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for width, height in ((1, 1), (1, 16383), (16383, 1), (16383, 20)):
        shown = np.repeat(np.repeat(picture(1, 1), height, 0), width, 1)
        yield judged(f"WebP of {width}x{height}", lossless(shown), shown)
    yield Kind("WebP flat of 7000x7000", flat_lossless(7000, 7000), size=(7000, 7000), large=True)


def streams() -> Iterator[Kind]:
    """Damaged headers and data of the two codings."""
    coded, data = lossy(), lossless()
    yield refused("WebP lossy of a wrong start code", patched(coded, 23, b"abc"), "corrupt")
    yield refused("WebP lossy that is no key frame", patched(coded, 20, bytes((coded[20] | 1,))), "corrupt")
    yield refused("WebP lossy of version 7", patched(coded, 20, bytes((coded[20] | 0x0E,))), "corrupt")
    yield refused("WebP lossy that is not shown", patched(coded, 20, bytes((coded[20] & ~0x10,))), "corrupt")
    yield refused("WebP lossy of a partition beyond the file", patched(coded, 21, b"\xff\xff"), "corrupt", "truncated")
    noise = np.random.default_rng(3).integers(0, 255, 3000, np.uint8).tobytes()
    lie = riff([(b"VP8 ", coded[20:30] + noise)])
    yield or_refused(sized("WebP lossy of noise", lie, WIDTH, HEIGHT), "corrupt", "truncated")
    yield refused("WebP lossless of a wrong signature", patched(data, 20, b"\x2e"), "corrupt")
    yield refused("WebP lossless of version 7", patched(data, 24, bytes((data[24] | 0xE0,))), "corrupt")
    yield refused("WebP lossless of noise", riff([(b"VP8L", data[20:25] + noise)]), "corrupt", "truncated")
    yield refused("WebP lossless of zeros", riff([(b"VP8L", data[20:25] + b"\xff" * 900)]), "corrupt", "truncated")
    yield refused("WebP of an empty pixel chunk", riff([(b"VP8L", b"")]), "corrupt", "truncated")


def structures() -> Iterator[Kind]:
    """Chunks that are missing, repeated, misplaced or many."""
    coded, data = riff_chunks(lossy())[0], riff_chunks(lossless())[0]
    other = riff_chunks(lossless(np.zeros_like(picture())))[0]
    canvas = extended(WIDTH, HEIGHT)
    yield refused("WebP without chunks", riff([]), "corrupt", "truncated")
    yield refused("WebP of a canvas alone", riff([canvas]), "corrupt", "truncated")
    yield refused("WebP of a canvas of 4 bytes", riff([(b"VP8X", bytes(4)), data]), "corrupt")
    yield refused("WebP of transparency alone", riff([canvas, (b"ALPH", bytes(9))]), "corrupt", "truncated")
    yield judged("WebP of two images", riff([data, other]), picture())
    twice = riff([canvas, canvas, data])
    yield or_refused(judged("WebP of two canvases", twice, picture()), "corrupt")
    yield or_refused(judged("WebP whose canvas follows", riff([data, extended(9, 9)]), picture()), "corrupt")
    claims = riff([extended(WIDTH, HEIGHT, 0x2C), data])
    yield judged("WebP that claims metadata", claims, picture())
    unclaimed = riff([data, (b"EXIF", b"II*\0" + b"\xff" * 90), (b"ICCP", b"\0" * 90), (b"XMP ", b"<x")])
    yield judged("WebP of metadata that it does not claim", unclaimed, picture())
    many = riff([canvas, *[(b"prIv", b"")] * 20_000, data])
    yield judged("WebP of 20,000 private chunks", many, picture())
    yield refused("WebP of 120,000 private chunks", riff([canvas, *[(b"prIv", b"")] * 120_000, data]), "corrupt")
    yield refused("WebP of 120,000 canvases", riff([*[canvas] * 120_000, data]), "corrupt")
    large = riff([extended(WIDTH, HEIGHT, 4), data, (b"XMP ", b"x" * 8_000_000)])
    yield judged("WebP of XMP of 8 MB", large, picture())
    for name, alpha in (("garbage", b"\1garbage"), ("of an unknown method", b"\xff" * 90), ("empty", b"")):
        lie = riff([extended(WIDTH, HEIGHT, 0x10), (b"ALPH", alpha), coded])
        yield or_refused(sized(f"WebP transparency {name}", lie, WIDTH, HEIGHT), "corrupt", "truncated")
    half = np.dstack([picture(), np.full((HEIGHT, WIDTH), 128, np.uint8)])
    shown = ((picture().astype(int) * 128 + 255 * 127) / 255).round().astype(np.uint8)
    yield judged("WebP half transparent", save(half, "WEBP", lossless=True, exact=True), shown, 1.0)


def animations() -> Iterator[Kind]:
    """Animations with frames that lie, and more frames than the limit."""
    black = np.zeros_like(picture())
    buffer = io.BytesIO()
    frames = [Image.fromarray(black) for _ in range(2)]
    Image.fromarray(picture()).save(buffer, "WEBP", save_all=True, append_images=frames, lossless=True, duration=9)
    chunks = riff_chunks(buffer.getvalue())
    head = [(kind, body) for kind, body in chunks if kind in (b"VP8X", b"ANIM")]
    frame = next(body for kind, body in chunks if kind == b"ANMF")
    moving = [(b"ANMF", frame)]
    count = sum(kind == b"ANMF" for kind, _ in chunks)
    yield judged("WebP animation", buffer.getvalue(), picture(), frames=count)
    yield judged("WebP animation of 256 frames", riff(head + moving * 256), picture(), frames=256)
    yield refused("WebP animation of 257 frames", riff(head + moving * 257), "too_many_frames")
    hollow = riff(head + [(b"ANMF", bytes(16))] * 20_000)
    yield refused("WebP animation of 20,000 frames", hollow, "too_many_frames", "corrupt")
    yield from _first_frames(head)
    yield refused("WebP animation without frames", riff(head), "corrupt", "truncated")
    yield refused("WebP frame of 16 bytes", riff([*head, (b"ANMF", frame[:16])]), "corrupt", "truncated")
    yield refused("WebP frame of 3 bytes", riff([*head, (b"ANMF", frame[:3])]), "corrupt", "truncated")
    outside = patched(frame, 0, b"\xff\xff\xff\xff\xff\xff")
    yield refused("WebP frame outside of its canvas", riff([*head, (b"ANMF", outside)]), "corrupt", "truncated")
    larger = patched(frame, 6, b"\xff\xff\xff\xff\xff\xff")
    yield refused("WebP frame larger than its canvas", riff([*head, (b"ANMF", larger)]), "corrupt", "truncated")
    cut = riff([*head, (b"ANMF", frame[: len(frame) // 2])])
    yield refused("WebP frame cut off", cut, "corrupt", "truncated")
    nested = riff([*head, (b"ANMF", frame[:16] + b"ANMF" + struct.pack("<I", len(frame)) + frame)])
    yield or_refused(judged("WebP frame in a frame", nested, picture()), "corrupt", "truncated")
    corner = patched(frame, 0, bytes(6))
    vast = riff([extended(7000, 7000, 2), *[part for part in head if part[0] == b"ANIM"], (b"ANMF", corner)])
    yield Kind("WebP animation on a canvas of 7000x7000", vast, size=(7000, 7000), large=True)
    still = riff([extended(WIDTH, HEIGHT), *moving])
    yield or_refused(judged("WebP animation that does not say so", still, picture()), "corrupt", "truncated")


def _first_frames(head: list[tuple[bytes, bytes]]) -> Iterator[Kind]:
    """Animations whose first frame covers a part of the canvas."""
    part = picture()[16:56, 24:74]
    clear = np.dstack([part, np.where(part[:, :, 2] > 100, np.uint8(255), np.uint8(0))])
    shown = np.where(clear[:, :, 3:] > 0, part, np.uint8(255))
    for name, pixels, expected, options in (
        ("opaque", part, part, {"lossless": True}),
        ("transparent", clear, shown, {"lossless": True, "exact": True}),
        ("lossy", part, part, {"quality": 95}),
        ("lossy and transparent", clear, shown, {"quality": 95, "exact": True}),
    ):
        chunks = [(kind, body) for kind, body in riff_chunks(save(pixels, "WEBP", **options)) if kind != b"VP8X"]
        place = b"".join(value.to_bytes(3, "little") for value in (24 // 2, 16 // 2, 50 - 1, 40 - 1, 9))
        canvas = np.full_like(picture(), 255)
        canvas[16:56, 24:74] = expected
        data = riff([*head, (b"ANMF", place + b"\0" + riff(chunks)[12:]), (b"ANMF", bytes(16))])
        yield judged(
            f"WebP animation of a small first frame, {name}", data, canvas, 0.0 if "lossless" in options else CLOSE, 2
        )


FAMILIES = (truncations, lengths, sizes, streams, structures, animations)
