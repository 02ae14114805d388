"""What a load test sends: photographs, a mix of sizes, and files that must be refused, with their right answers."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

_JPEG_START = b"\xff\xd8"
#: Width, height and share of the mix: mostly phone-sized previews, some originals.
SIZES = {(320, 240): 4, (640, 480): 8, (1280, 960): 4, (1920, 1080): 3, (4000, 3000): 1}
_PHOTO = (640, 480)
_BAD_SHARE = 4  # one file in so many


@dataclass(frozen=True)
class Sample:
    """A file to send; ``codes`` are the refusals that are right for it, empty where a verdict is."""

    name: str
    data: bytes
    codes: tuple[str, ...] = ()


def stamp(data: bytes, text: str) -> bytes:
    """Return the JPEG with ``text`` in a comment segment; other files as they are.

    The picture stays the same and its sha256 does not, so an answer that belongs to another request shows.
    """
    if not data.startswith(_JPEG_START):
        return data
    comment = text.encode()
    return _JPEG_START + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def sample_set(name: str) -> list[Sample]:
    """Return the samples of a set (``photo``, ``sizes`` or ``damaged``); each stands as often as its share is.

    Raises:
        KeyError: there is no such set.
    """
    return {"photo": _photo, "sizes": _sizes, "damaged": _damaged}[name]()


def deal(count: int, samples: int, seed: int = 0) -> list[int]:
    """Return ``count`` indices below ``samples``, shuffled deck by deck, so that every stretch holds the same mix."""
    rng = random.Random(seed)  # noqa: S311 - an order of requests, not a secret
    chosen: list[int] = []
    while len(chosen) < count:
        deck = list(range(samples))
        rng.shuffle(deck)
        chosen += deck
    return chosen[:count]


def _photo() -> list[Sample]:
    from ..sample_images import photograph

    return [Sample("{}x{}.jpg".format(*_PHOTO), photograph(*_PHOTO))]


def _sizes() -> list[Sample]:
    from ..sample_images import photograph

    made = [(Sample(f"{w}x{h}.jpg", photograph(w, h)), share) for (w, h), share in SIZES.items()]
    return [sample for sample, share in made for _ in range(share)]


def _damaged() -> list[Sample]:
    (good,) = _photo()
    bad = bad_samples(good.data)
    return bad + [good] * (len(bad) * (_BAD_SHARE - 1))


def bad_samples(photo: bytes) -> list[Sample]:
    """Return files that must be refused, made from a JPEG.

    ``image.too_large`` is not among them: messages of 20 MiB would measure the generator and the loopback device.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(photo))

    def save(form: str) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form)
        return buffer.getvalue()

    cut = ("image.truncated", "image.corrupt")
    wholes: Sequence[tuple[str, bytes]] = (("jpeg", photo), ("png", save("PNG")), ("webp", save("WEBP")))
    return [
        Sample("empty", b"", ("image.empty",)),
        Sample("text", b"not an image, whatever its name says", ("image.unsupported_format",)),
        Sample("gif", save("GIF"), ("image.unsupported_format",)),
        Sample("huge.png", _png_header(20_000, 20_000), ("image.too_many_pixels",)),
        Sample("zero.png", _png_header(0, 50), ("image.corrupt",)),
        *(Sample(f"half.{form}", whole[: len(whole) // 2], cut) for form, whole in wholes),
    ]


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG that announces a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b"")
    )
