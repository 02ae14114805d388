"""What the header of an image file says, and what a file is that is none of the accepted formats."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

#: First bytes of the accepted formats.
JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
#: Largest colour profile (bytes) that is read; larger ones are ignored. Profiles of printing presses have 3 MB.
MAX_PROFILE = 4 * 1024 * 1024

_SIGNATURES = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"<svg": "SVG",
    b"<?xml": "SVG or XML",
    b"<!doctype": "HTML",
    b"<html": "HTML",
    b"%pdf": "PDF",
    b"8BPS": "a Photoshop file",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "gzip data",
}
_BASE64 = re.compile(rb"[A-Za-z0-9+/_=\s-]{64,}")
_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f\s]{32,}")
_URL = re.compile(rb"[a-z][a-z0-9+.-]{1,15}://", re.IGNORECASE)
_NAME = re.compile(rb"[^\0\r\n]{1,4096}\.(?:jpe?g|jpe|jfif|png|apng|webp|gif|bmp|tiff?|heic|avif)", re.IGNORECASE)
_SEND_BYTES = "send the bytes of the image (over HTTP: as binary tensor data)"


@dataclass(frozen=True)
class Header:
    """The header of an accepted file.

    ``width`` and ``height`` are as stored, in pixels. ``frames`` counts the frames that are shown. ``channels`` is 1
    for grey, 3 for colour and 4 for CMYK, transparency not counted. ``exif`` and ``profile`` (ICC) are b"" where the
    file has none. ``plausible``: the coded data are long enough for so many pixels in the best case; else decoding
    would cost memory and time for pixels that do not exist.
    """

    width: int
    height: int
    frames: int
    channels: int
    exif: bytes
    profile: bytes
    plausible: bool


def format_of(data: bytes) -> str:
    """Return JPEG, PNG, WEBP or "" by the first bytes."""
    if data.startswith(JPEG_MAGIC):
        return "JPEG"
    if data.startswith(PNG_MAGIC):
        return "PNG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def describe_unknown(data: bytes) -> str:
    """Return a clause that says what the data are, for a file of no accepted format: "this is GIF"."""
    # A JSON string keeps its quotation mark when it is sent as bytes; a text file may begin with a byte order mark.
    head = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\"'")
    lower = head[:16].lower()
    if head[4:8] == b"ftyp":
        return "this is HEIC, AVIF or a video"
    found = next((name for magic, name in _SIGNATURES.items() if head.startswith(magic) or lower.startswith(magic)), "")
    if found:
        return f"this is {found}"
    if lower.startswith(b"data:"):
        return f"this is a data: URI; {_SEND_BYTES}"
    if _URL.match(head):
        return f"this is a URL; {_SEND_BYTES}"
    text = head.rstrip(b" \t\r\n\"'")
    if _NAME.fullmatch(text):
        return f"this is the name of a file; {_SEND_BYTES}"
    if _HEXADECIMAL.fullmatch(text):
        return f"this is hexadecimal text; {_SEND_BYTES}"
    if _is_encoded_image(text) or _BASE64.fullmatch(text):
        return f"this is base64 text; {_SEND_BYTES}"
    return "this is no known image format"


def _is_encoded_image(text: bytes) -> bool:
    """Return whether base64 text of any length decodes to the beginning of an accepted format."""
    start = re.sub(rb"\s", b"", text[:64]).replace(b"-", b"+").replace(b"_", b"/")[:16]
    try:
        return bool(format_of(base64.b64decode(start, validate=True)))
    except binascii.Error:
        return False
