"""Files that are no accepted image, files of two formats at once, and files at the limits."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import zipfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .assemble import HEIGHT, PNG_MAGIC, WIDTH, chunk, picture, png_header, save, segment, with_chunk, with_segment
from .jpeg_kinds import CLOSE, baseline
from .kinds import Kind, judged, or_refused, refused, sized
from .png_kinds import plain
from .webp_kinds import lossless

_LIMIT = 20 * 1024 * 1024


def formats() -> Iterator[Kind]:
    """Image formats that are not accepted."""
    image = Image.fromarray(picture())
    for form in (
        "GIF",
        "BMP",
        "TIFF",
        "ICO",
        "PPM",
        "TGA",
        "PCX",
        "DIB",
        "ICNS",
        "JPEG2000",
        "EPS",
        "DDS",
        "AVIF",
    ):
        yield refused(f"format {form}", save(image, form), "unsupported_format")
    yield refused(
        "format GIF, animated", save(image, "GIF", save_all=True, append_images=[image]), "unsupported_format"
    )
    yield refused("format BigTIFF", b"II+\0\x08\0\0\0" + bytes(90), "unsupported_format")
    heads = {
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(90),
        "MP4": b"\0\0\0\x18ftypmp42" + bytes(90),
        "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(90),
        "JPEG XL stream": b"\xff\x0a" + bytes(90),
        "PDF": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj <</Type /Catalog>> endobj\n%%EOF",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "SVG of entities": b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>",
        "Photoshop": b"8BPS\0\1" + bytes(90),
        "WAVE": b"RIFF\x24\0\0\0WAVEfmt " + bytes(90),
        "AVI": b"RIFF\x24\0\0\0AVI LIST" + bytes(90),
        "MNG": b"\x8aMNG\r\n\x1a\n" + bytes(90),
        "WebM": b"\x1aE\xdf\xa3" + bytes(90),
        "ELF": b"\x7fELF\2\1\1" + bytes(90),
        "Windows program": b"MZ" + bytes(90),
        "EMF": b"\1\0\0\0" + bytes(90),
    }
    for name, data in heads.items():
        yield refused(f"format {name}", data, "unsupported_format")


def texts() -> Iterator[Kind]:
    """Text and other bytes in place of an image."""
    jpeg = baseline()
    parts = {
        "base64": base64.b64encode(jpeg),
        "a data URI": b"data:image/jpeg;base64," + base64.b64encode(jpeg),
        "hexadecimal text": jpeg.hex().encode(),
        "a URL": b"http://127.0.0.1/image.jpg",
        "a file URL": b"file:///etc/passwd",
        "a path": b"/etc/passwd",
        "JSON": b'{"image": "photo.jpg"}',
        "HTML": b"<!DOCTYPE html><img src=x onerror=alert(1)>",
        "a format string": b"%s%n%x" * 20,
        "a pickle": b"\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x01x\x94.",
        "a template": b"{{7*7}}${7*7}<%= 7*7 %>",
        "one byte": b"\xff",
        "two bytes": b"\xff\xd8",
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "noise": np.random.default_rng(6).integers(0, 255, 5000, np.uint8).tobytes(),
        "20 MiB of zeros": bytes(_LIMIT),
        "20 MiB of base64 letters": b"A" * _LIMIT,
        "20 MiB of spaces": b" " * _LIMIT,
        "a GIF comment of a picture": b"GIF89a" + jpeg,
    }
    for name, data in parts.items():
        codes = ("unsupported_format", "corrupt", "truncated") if name == "ones" else ("unsupported_format",)
        yield refused(f"text: {name}", data, *codes)
    yield refused("nothing", b"", "empty")
    yield refused("gzip of a JPEG", gzip.compress(jpeg, mtime=0), "unsupported_format")
    yield refused("ZIP of a JPEG", archive(), "unsupported_format")


def archive() -> bytes:
    """Return a ZIP archive with the test picture."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo("a.jpg"), baseline())
    return buffer.getvalue()


def polyglots() -> Iterator[Kind]:
    """Files that are two formats at once, or whose first bytes belong to another format."""
    jpeg, png, webp = baseline(), plain(), lossless()
    for name, data, tolerance in (("JPEG", jpeg, CLOSE), ("PNG", png, 0.0), ("WebP", webp, 0.0)):
        for other, tail in (
            ("ZIP", archive()),
            ("HTML", b"<html><script>alert(1)</script></html>"),
            ("PHP", b"<?php system($_GET[0]); ?>"),
            ("PDF", b"%PDF-1.4\n%%EOF"),
            ("JPEG", save(np.zeros_like(picture()), "JPEG")),
        ):
            yield judged(f"{name} that is also {other}", data + tail, picture(), tolerance)
        yield refused(f"PDF that is also {name}", b"%PDF-1.4\n" + data, "unsupported_format")
        yield refused(f"{name} after a line feed", b"\n" + data, "unsupported_format")
        changed = data.replace(b"\n", b"\r\n")
        yield or_refused(sized(f"{name} with line ends changed", changed, WIDTH, HEIGHT), *_ANY)
        yield refused(f"{name} read as text", data.decode("utf-8", "replace").encode(), *_ANY)
    script = segment(0xFE, b"*/=alert(1)/*<?php system($_GET[0]); ?>")
    yield judged("JPEG with a script in its comment", with_segment(jpeg, script), picture(), CLOSE)
    page = chunk(b"tEXt", b"Comment\0<html><script>alert(1)</script></html>")
    yield judged("PNG with a page in its text", with_chunk(png, page), picture())
    yield refused("JPEG after the first bytes of PNG", PNG_MAGIC + jpeg, "corrupt", "truncated")
    yield refused(
        "PNG after the first bytes of JPEG", b"\xff\xd8\xff" + png, "corrupt", "truncated", "unsupported_format"
    )
    yield refused("JPEG after the first bytes of WebP", b"RIFF\xff\0\0\0WEBP" + jpeg, "corrupt", "truncated")
    yield refused("PNG in a chunk of WebP", b"RIFF" + struct.pack("<I", 12 + len(png)) + b"WEBPVP8 " + png, *_ANY)
    yield refused("WebP in the pixels of PNG", PNG_MAGIC + png_header(WIDTH, HEIGHT) + chunk(b"IDAT", webp), *_ANY)
    lie = b"\xff\xd8\xff\xe0" + struct.pack(">H", len(png) + 2) + png + b"\xff\xd9"
    yield refused("PNG in a segment of JPEG", lie, *_ANY)


_ANY = ("corrupt", "truncated", "unsupported_format", "too_many_pixels")


def limits() -> Iterator[Kind]:
    """Files at the limits, and one byte or pixel above them."""
    for name, data, tolerance in (("JPEG", baseline(), CLOSE), ("PNG", plain(), 0.0)):
        full = data + bytes(_LIMIT - len(data))
        yield judged(f"{name} of 20 MiB", full, picture(), tolerance)
        yield refused(f"{name} of 20 MiB and a byte", full + b"\0", "too_large")
    for width, height in ((50_001, 1000), (1, 50_000_001)):
        data = PNG_MAGIC + png_header(width, height) + chunk(b"IDAT", bytes(50))
        yield refused(f"PNG header of {width}x{height}, just above the limit", data, "too_many_pixels")
    noise = np.random.default_rng(7).integers(0, 255, (600, 800, 3), np.uint8)
    yield judged("JPEG of noise, 800x600", save(noise, "JPEG", quality=100, subsampling=0), noise, CLOSE)
    yield or_refused(judged("PNG of noise, 800x600", save(noise, "PNG", compress_level=1), noise))


FAMILIES = (formats, texts, polyglots, limits)
