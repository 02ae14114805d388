"""PNG files of every bit depth, colour type and interlacing, of extreme sizes, and animations."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from veridict.forensics.arrays import Pixels

from .assemble import HEIGHT, WIDTH, animation, chunk, picture, png_file, png_header, png_rows, save
from .kinds import Kind, judged, or_refused, refused

#: Colour types by name, and the bit depths that each may have.
_LAYOUTS = {"grey": (0, (1, 2, 4, 8, 16)), "colour": (2, (8, 16)), "palette": (3, (1, 2, 4, 8))}
_LAYOUTS |= {"grey and alpha": (4, (8, 16)), "colour and alpha": (6, (8, 16))}
#: The seven passes of Adam7: first column and row, steps between columns and rows.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _packed_rows(samples: Pixels, depth: int) -> bytes:
    """Return samples [H, W, channels] (0 to 2**depth - 1) as unfiltered rows; 16-bit samples repeat their byte."""
    if depth == 16:
        samples = np.repeat(samples, 2, axis=2)
    elif depth < 8:
        bits = (samples >> np.arange(depth - 1, -1, -1, dtype=np.uint8)) & 1
        samples = np.packbits(bits.reshape(len(samples), -1), axis=1)[:, :, None]
    return png_rows(samples)


def _interlaced_rows(samples: Pixels, depth: int) -> bytes:
    passes = [samples[top::down, left::right] for left, top, right, down in _PASSES]
    return b"".join(_packed_rows(np.ascontiguousarray(part), depth) for part in passes if part.size)


def _on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[:, :, None] / 255.0
    return np.asarray((pixels * share + 255 * (1 - share)).round(), dtype=np.uint8)


def layouts() -> Iterator[Kind]:
    """Every bit depth of every colour type, with and without interlacing."""
    grey = np.repeat(picture()[:, :, :1], 3, axis=2)
    alpha = np.ascontiguousarray(picture()[:, :, 1])
    for name, (colour, depths) in _LAYOUTS.items():
        for depth in depths:
            shown: Pixels = picture() if colour in (2, 6) else grey
            samples: Pixels = shown if colour in (2, 6) else shown[:, :, :1]
            before = b""
            if depth < 8 or name == "palette":
                samples = np.right_shift(samples, np.uint8(8 - depth))
                step = 255 // (2**depth - 1)
                shown = np.repeat(samples * np.uint8(step), 3, axis=2)
            if name == "palette":
                palette = np.arange(2**depth)[:, None] * np.array([step, 0, 0]) + np.array([0, 40, 90])
                shown = palette.astype(np.uint8)[samples[:, :, 0]]
                before = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
            if "alpha" in name:
                samples, shown = np.dstack([samples, alpha]), _on_white(shown, alpha)
            for passes, rows in (("", _packed_rows), (" interlaced", _interlaced_rows)):
                header = png_header(WIDTH, HEIGHT, depth, colour, b"\0\0\1" if passes else b"\0\0\0")
                data = png_file(header, before, chunk(b"IDAT", zlib.compress(rows(samples, depth))))
                yield judged(f"PNG of {name}, {depth} bits{passes}", data, shown, 1.0)


def transparent_colours() -> Iterator[Kind]:
    """One colour that is transparent (tRNS), at 8 and at 16 bits."""
    for name, colour, channels in (("grey", 0, 1), ("colour", 2, 3)):
        for depth in (8, 16):
            samples = picture()[:, :, :channels] & np.uint8(0xE0)
            clear = (samples == samples[0, 0]).all(axis=2)[:, :, None]
            shown = np.where(clear, np.uint8(255), np.repeat(samples, 4 - channels, axis=2)[:, :, :3])
            value = b"".join(bytes((0 if depth == 8 else level, level)) for level in samples[0, 0])
            pixels = chunk(b"IDAT", zlib.compress(_packed_rows(samples, depth)))
            data = png_file(png_header(WIDTH, HEIGHT, depth, colour), chunk(b"tRNS", value), pixels)
            yield judged(f"PNG of {name} with a transparent colour of {depth} bits", data, shown, 1.0)


def sizes() -> Iterator[Kind]:
    """Extreme sizes and aspects, and an image that is all transparent."""
    for width, height in ((1, 1), (2, 3), (1, 100_000), (100_000, 1), (9, 60_000), (60_000, 9)):
        shown = np.repeat(np.repeat(picture(1, 1), height, 0), width, 1)
        yield judged(f"PNG of {width}x{height}", save(shown, "PNG", compress_level=1), shown)
    small = np.ascontiguousarray(picture()[:3, :3])
    header = png_header(3, 3, methods=b"\0\0\1")
    data = png_file(header, chunk(b"IDAT", zlib.compress(_interlaced_rows(small, 8))))
    yield judged("PNG of 3x3 interlaced", data, small)
    clear = np.dstack([picture(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    yield judged("PNG all transparent", save(clear, "PNG"), np.full_like(picture(), 255))
    for depth, colour in ((1, 0), (8, 2), (16, 6)):
        row = 1 + (7000 * depth * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8
        packer = zlib.compressobj(1)
        parts = [packer.compress(bytes(row * 100)) for _ in range(70)]
        pixels = chunk(b"IDAT", b"".join([*parts, packer.flush()]))
        yield Kind(
            f"PNG flat of 7000x7000, {depth} bits, colour type {colour}",
            png_file(png_header(7000, 7000, depth, colour), pixels),
            size=(7000, 7000),
            large=True,
        )


def animations() -> Iterator[Kind]:
    """Animations: a hidden default image, frames that lie or are missing, more frames than the limit."""
    black = np.zeros_like(picture())
    yield judged("APNG with a hidden default image", animation(picture(), black), picture())
    small = np.ascontiguousarray(picture()[:40, :50])
    placed = np.full_like(picture(), 255)
    placed[16:56, 24:74] = small
    yield judged("APNG of a small frame", animation(small, black, 24, 16), placed)
    whole = animation(picture(), black)
    vast = whole.replace(png_header(WIDTH, HEIGHT), png_header(7000, 7000))
    yield Kind("APNG of a small frame on 7000x7000", vast, size=(7000, 7000), large=True)
    pixels = chunk(b"IDAT", zlib.compress(png_rows(picture())))
    header = png_header(WIDTH, HEIGHT)

    def control(number: int, width: int = WIDTH, height: int = HEIGHT, left: int = 0, top: int = 0) -> bytes:
        return chunk(b"fcTL", struct.pack(">5IHHBB", number, width, height, left, top, 1, 9, 0, 0))

    def count(frames: int) -> bytes:
        return chunk(b"acTL", struct.pack(">II", frames, 0))

    def frame(number: int) -> bytes:
        return chunk(b"fdAT", struct.pack(">I", number) + zlib.compress(png_rows(picture())))

    for width, height, left, top in ((9999, 9999, 0, 0), (0, 0, 0, 0), (96, 80, 1, 0), (1, 1, 2**32 - 1, 0)):
        lie = png_file(header, count(1), pixels, control(0, width, height, left, top), frame(1))
        yield judged(f"APNG frame of {width}x{height} at {left},{top}", lie, picture())
    yield judged("APNG without frames", png_file(header, count(3), pixels), picture())
    yield judged("APNG of no frames", png_file(header, count(0), pixels), picture())
    for frames in (257, 2**31, 2**32 - 1):
        data = png_file(header, count(frames), control(0), pixels, control(1), frame(2))
        yield refused(f"APNG that declares {frames} frames", data, "too_many_frames")
    many = b"".join(control(2 * n + 1) + frame(2 * n + 2) for n in range(255))
    yield judged("APNG of 256 frames", png_file(header, count(256), control(0), pixels, many), picture(), frames=256)
    disorder = png_file(header, count(1), pixels, control(7), frame(3), frame(1))
    yield or_refused(judged("APNG of disordered frames", disorder, picture()), "corrupt", "truncated")
    short = png_file(header, count(1), pixels, control(0), chunk(b"fdAT", b"\0\0"))
    yield or_refused(judged("APNG of a frame of two bytes", short, picture()), "corrupt", "truncated")
    yield or_refused(judged("APNG cut in its frame", whole[: len(whole) * 9 // 10], picture()), "corrupt", "truncated")


FAMILIES = (layouts, transparent_colours, sizes, animations)
