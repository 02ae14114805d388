"""Hostile metadata in all formats: EXIF that turns, lies, loops or is garbage, and colour profiles."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageCms

from veridict.forensics.arrays import Pixels

from .assemble import (
    DISPLAY_P3,
    HEIGHT,
    SRGB,
    WIDTH,
    chunk,
    exif,
    icc,
    orientation,
    patched,
    picture,
    profile,
    profile_tags,
    riff,
    riff_chunks,
    segment,
    with_chunk,
    with_segment,
)
from .jpeg_kinds import CLOSE, COARSE, baseline, grey
from .kinds import Kind, judged, sized
from .png_kinds import plain
from .webp_kinds import extended, lossless

_TURN = {2: 2, 3: 4, 4: 1}
_PROFILE = b"ICC_PROFILE\0"


def turned(pixels: Pixels, value: int) -> Pixels:
    """Return stored pixels as an EXIF orientation (1 to 8) shows them."""
    # Where the first row and the first column of the stored pixels are shown (Exif 2.32, tag 274).
    row, column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[value]
    if row in ("left", "right"):
        pixels, row, column = pixels.transpose(1, 0, 2), column, row
    pixels = pixels[::-1] if row == "bottom" else pixels
    return np.ascontiguousarray(pixels[:, ::-1] if column == "right" else pixels)


def _with_exif(form: str, data: bytes) -> bytes:
    if form == "JPEG":
        return with_segment(baseline(), segment(0xE1, data))
    if form == "PNG":
        return with_chunk(plain(), chunk(b"eXIf", data.removeprefix(b"Exif\0\0")))
    return riff([extended(WIDTH, HEIGHT, 0x08), *riff_chunks(lossless()), (b"EXIF", data.removeprefix(b"Exif\0\0"))])


def orientations() -> Iterator[Kind]:
    """The eight orientations in every format, and values that are none."""
    for form in ("JPEG", "PNG", "WebP"):
        tolerance = CLOSE if form == "JPEG" else 0.0
        for value in range(1, 9):
            data = _with_exif(form, orientation(value))
            yield judged(f"{form} of orientation {value}", data, turned(picture(), value), tolerance)
        for value in (0, 9, 65535):
            yield judged(f"{form} of orientation {value}", _with_exif(form, orientation(value)), picture(), tolerance)
    for name, entry in (("LONG", (274, 4, 1, 6)), ("BYTE", (274, 1, 1, 6)), ("two SHORTs", (274, 3, 2, 6))):
        yield judged(f"JPEG of an orientation that is {name}", _with_exif("JPEG", exif(entry)), picture(), CLOSE)
    large = _with_exif("JPEG", exif((274, 3, 1, 6), order=">"))
    yield judged("JPEG of a big-endian orientation", large, turned(picture(), 6), CLOSE)
    twice = with_segment(_with_exif("JPEG", orientation(1)), segment(0xE1, orientation(8)))
    yield judged("JPEG of two EXIF that contradict each other", twice, turned(picture(), 8), CLOSE)


def garbage_exif() -> Iterator[Kind]:
    """EXIF data that loop, point beyond their end, or are no EXIF."""
    tiff = b"Exif\0\0II*\0"
    noise = np.random.default_rng(4).integers(0, 255, 60_000, np.uint8).tobytes()
    parts = {
        "empty": b"Exif\0\0",
        "of its byte order": tiff,
        "of noise": b"Exif\0\0" + noise,
        "of noise after its header": tiff + noise,
        "of zeros": b"Exif\0\0" + bytes(60_000),
        "whose directory is itself": tiff + struct.pack("<I", 0) + b"\xff" * 900,
        "whose directory lies beyond": tiff + b"\xff\xff\xff\xff",
        "of 65,535 entries": tiff + struct.pack("<IH", 8, 65535) + struct.pack("<HHII", 34665, 4, 1, 8) * 5400,
        "of a directory that points to itself": tiff + struct.pack("<IHHHIII", 8, 1, 34665, 4, 1, 8, 8),
        "of a chain of directories that loops": tiff + struct.pack("<IHHHIII", 8, 1, 271, 2, 1, 0, 8),
        "of values of 4 GB": tiff + struct.pack("<IHHHIII", 8, 1, 271, 2, 2**32 - 1, 2**32 - 1, 0),
        "of unknown types": tiff + struct.pack("<IHHHIII", 8, 1, 274, 999, 1, 6, 0),
        "of a cut entry": tiff + struct.pack("<IHHH", 8, 1, 274, 3),
        "of mixed byte orders": b"Exif\0\0II\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0),
    }
    for form in ("JPEG", "PNG", "WebP"):
        for name, data in parts.items():
            yield judged(
                f"{form} with EXIF {name}", _with_exif(form, data), picture(), CLOSE if form == "JPEG" else 0.0
            )
    for name, body in (
        ("that asks to be turned", b"<x:xmpmeta><rdf:Description tiff:Orientation='6'/></x:xmpmeta>"),
        ("of a billion laughs", b"<!DOCTYPE l [<!ENTITY a 'a'><!ENTITY b '&a;&a;&a;&a;'>]><l>&b;</l>"),
        ("that includes a file", b"<!DOCTYPE l [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><l>&a;</l>"),
    ):
        part = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + body)
        yield judged(f"JPEG with XMP {name}", with_segment(baseline(), part), picture(), CLOSE)


def _linear(pixels: Pixels) -> Pixels:
    """Return sRGB pixels as they are stored under a profile with a linear curve (IEC 61966-2-1)."""
    level = pixels / 255.0
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return np.asarray((light * 255).round(), dtype=np.uint8)


def _png_profile(pixels: Pixels, data: bytes) -> bytes:
    return with_chunk(plain_of(pixels), chunk(b"iCCP", b"profile\0\0" + zlib.compress(data)))


def plain_of(pixels: Pixels) -> bytes:
    """Return pixels [H, W, 3] as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def profiles() -> Iterator[Kind]:
    """Profiles that move colours: the right answer is what a viewer with colour management shows."""
    stored = _linear(picture())
    yield judged("PNG of a linear profile", _png_profile(stored, profile(1.0)), picture(), COARSE)
    coded = save_jpeg(stored, profile(1.0))
    yield judged("JPEG of a linear profile", coded, picture(), COARSE)
    swapped = profile(2.2, SRGB[::-1])
    yield judged(
        "PNG of a profile of swapped primaries", _png_profile(picture()[:, :, ::-1], swapped), picture(), COARSE
    )
    yield sized("PNG of Display P3", _png_profile(picture(), profile(2.2, DISPLAY_P3)), WIDTH, HEIGHT)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    undated = patched(srgb, 24, bytes(12))  # littlecms writes the time
    yield judged("PNG of sRGB", _png_profile(picture(), undated), picture())
    lone = _linear(grey())[:, :, 0]
    yield judged("PNG of a linear grey profile", _png_profile(lone, profile(1.0, None)), grey(), COARSE)


def save_jpeg(pixels: Pixels, data: bytes) -> bytes:
    """Return pixels as a JPEG of high quality with a profile."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=98, subsampling=0, icc_profile=data)
    return buffer.getvalue()


def ignored_profiles() -> Iterator[Kind]:
    """Profiles that no viewer applies: damaged, for other channels, of another class, too large."""
    tags = profile_tags(1.0)
    sound = icc(tags)
    entry = 132 + 12 * 2
    count = {
        "of noise": np.random.default_rng(5).integers(0, 255, 3000, np.uint8).tobytes(),
        "of its header": sound[:128],
        "of 131 bytes": sound[:131],
        "cut off": sound[: len(sound) // 2],
        "without its signature": patched(sound, 36, b"abcd"),
        "of 2^32 tags": patched(sound, 128, b"\xff\xff\xff\xff"),
        "of grey": profile(1.0, None),
        "of inks": icc(tags, b"CMYK"),
        "of Lab": icc(tags, b"Lab "),
        "of named colours": icc(tags, b"RGB ", b"nmcl"),
        "of a link between devices": icc(tags, b"RGB ", b"link"),
        "without tags": icc({}),
        "of tags beyond its end": patched(sound, entry + 4, b"\xff\xff\xff\x00\xff\xff\xff\xff"),
        "of tags on its header": patched(sound, entry + 4, struct.pack(">II", 0, 20)),
        "of curves of 2^32 points": icc(tags | {b"rTRC": b"curv\0\0\0\0\xff\xff\xff\xff"}),
        "of zero primaries": icc(tags | {name: tags[name][:8] + bytes(12) for name in (b"rXYZ", b"gXYZ", b"bXYZ")}),
        "of tables of a lie": icc(tags | {b"A2B0": b"mft2\0\0\0\0\3\3\xff\0" + b"\xff" * 60}),
    }
    for name, data in count.items():
        for form, make in _MAKERS.items():
            kind = judged(f"{form} with a profile {name}", make(data), picture(), CLOSE if form == "JPEG" else 0.0)
            # Where only a table is damaged, viewers fall back to the curves or ignore the profile.
            yield (
                kind if "tables" not in name and "primaries" not in name else sized(kind.name, kind.data, WIDTH, HEIGHT)
            )
    parts = [sound[:200], sound[200:]]
    for name, numbers in (("a missing part", ((2, 2),)), ("two first parts", ((1, 2), (1, 2))), ("part 0", ((0, 1),))):
        pieces = b"".join(
            segment(0xE2, _PROFILE + bytes(number) + part) for number, part in zip(numbers, parts, strict=False)
        )
        yield judged(f"JPEG with a profile of {name}", with_segment(baseline(), pieces), picture(), CLOSE)
    large = b"".join(segment(0xE2, _PROFILE + bytes((n + 1, 255)) + bytes(65000)) for n in range(255))
    yield judged("JPEG with a profile of 16 MB", with_segment(baseline(), large), picture(), CLOSE)


_MAKERS: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": lambda data: with_segment(baseline(), segment(0xE2, _PROFILE + b"\1\1" + data)),
    "PNG": lambda data: with_chunk(plain(), chunk(b"iCCP", b"profile\0\0" + zlib.compress(data))),
    "WebP": lambda data: riff([extended(WIDTH, HEIGHT, 0x20), (b"ICCP", data), *riff_chunks(lossless())]),
}


def costly_profiles() -> Iterator[Kind]:
    """Profiles whose tables and curves take long to read."""
    grid = np.zeros((33, 33, 33, 3), ">u2")
    head = (
        b"mft2\0\0\0\0\3\3\x21\0"
        + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
        + struct.pack(">HH", 4096, 4096)
    )
    ramp = np.linspace(0, 65535, 4096).astype(">u2").tobytes() * 3
    table = head + ramp + grid.tobytes() + ramp
    curve = b"curv\0\0\0\0" + struct.pack(">I", 500_000) + np.linspace(0, 65535, 500_000).astype(">u2").tobytes()
    tags = profile_tags(2.2)
    for name, data in (
        ("tables of 33 points", icc(tags | {b"A2B0": table})),
        ("curves of 500,000 points", icc(tags | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})),
        ("10,000 tags", icc(tags | {struct.pack(">I", 0x61000000 + n): b"text\0\0\0\0a" for n in range(10_000)})),
    ):
        yield sized(f"PNG with a profile of {name}", _MAKERS["PNG"](data), WIDTH, HEIGHT)


FAMILIES = (orientations, garbage_exif, profiles, ignored_profiles, costly_profiles)
