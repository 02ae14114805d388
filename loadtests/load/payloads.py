"""The files that a load test sends: photographs, a mix of sizes, and invalid files with their correct error codes."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

_JPEG_START = b"\xff\xd8"
#: (Width, height) -> how often the size is in the mix: mostly previews for phones, some originals.
SIZES = {(320, 240): 4, (640, 480): 8, (1280, 960): 4, (1920, 1080): 3, (4000, 3000): 1}
_PHOTO = (640, 480)
#: One file in this many is invalid.
_INVALID_EVERY = 4


@dataclass(frozen=True)
class Sample:
    """A file to send; ``expected_codes`` are its correct error codes, none for a file that gets a verdict."""

    name: str
    data: bytes
    expected_codes: tuple[str, ...] = ()


def with_comment(data: bytes, text: str) -> bytes:
    """Return the JPEG with ``text`` in a comment segment; other files unchanged.

    The comment changes the file's sha256 but no pixel, so that an answer to another request is detected.
    """
    if not data.startswith(_JPEG_START):
        return data
    comment = text.encode()
    return _JPEG_START + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def sample_set(name: str) -> list[Sample]:
    """Return the samples of a set (``photo``, ``sizes`` or ``damaged``), each repeated according to its share.

    Raises:
        KeyError: there is no such set.
    """
    return {"photo": _photo, "sizes": _sizes, "damaged": _damaged}[name]()


def shuffled_order(count: int, samples: int, seed: int = 0) -> list[int]:
    """Return ``count`` indices below ``samples``: random permutations of all samples, one after the other.

    Every stretch of the order thus has nearly the same mix.
    """
    rng = random.Random(seed)  # noqa: S311 - an order of requests, not a secret
    order: list[int] = []
    while len(order) < count:
        permutation = list(range(samples))
        rng.shuffle(permutation)
        order += permutation
    return order[:count]


def _photo() -> list[Sample]:
    from ..sample_images import photograph  # loads OpenCV, which the generator's process does not need

    return [Sample("{}x{}.jpg".format(*_PHOTO), photograph(*_PHOTO))]


def _sizes() -> list[Sample]:
    from ..sample_images import photograph

    made = [(Sample(f"{w}x{h}.jpg", photograph(w, h)), share) for (w, h), share in SIZES.items()]
    return [sample for sample, share in made for _ in range(share)]


def _damaged() -> list[Sample]:
    (valid,) = _photo()
    invalid = invalid_samples(valid.data)
    return invalid + [valid] * (len(invalid) * (_INVALID_EVERY - 1))


def invalid_samples(photo: bytes) -> list[Sample]:
    """Return files that must be refused, made from a JPEG.

    There is none for ``image.too_large``: messages of 20 MiB would measure the generator and the loopback device.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(photo))

    def save(form: str) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form)
        return buffer.getvalue()

    cut = ("image.truncated", "image.corrupt")
    complete: Sequence[tuple[str, bytes]] = (("jpeg", photo), ("png", save("PNG")), ("webp", save("WEBP")))
    return [
        Sample("empty", b"", ("image.empty",)),
        Sample("text", b"not an image, whatever its name says", ("image.unsupported_format",)),
        Sample("gif", save("GIF"), ("image.unsupported_format",)),
        Sample("huge.png", _png_header(20_000, 20_000), ("image.too_many_pixels",)),
        Sample("zero.png", _png_header(0, 50), ("image.corrupt",)),
        *(Sample(f"half.{form}", data[: len(data) // 2], cut) for form, data in complete),
    ]


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG file with a header for this size and without pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b"")
    )
