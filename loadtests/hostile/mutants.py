"""Mutants: hostile images with random damage, each fixed by a seed and a number."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

from .assemble import PNG_MAGIC

#: Largest mutant in bytes.
_MOST = 200_000
_EDGES = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
#: Share of damaged PNG files whose checksums are set right again, since a wrong one hides the damage from the decoder.
_REPAIRED = 0.7
#: Share of mutants that keep the first bytes of their format: a file that is refused for them tests little.
_KEPT = 0.95
_MAGIC = (PNG_MAGIC, b"\xff\xd8\xff", b"RIFF")


class Mutator:
    """Makes mutants of given files."""

    def __init__(self, seeds: Sequence[bytes], seed: int) -> None:
        """Take the files to begin with, none of them empty, and the seed of the run."""
        self._seeds, self._seed = seeds, seed

    def mutant(self, number: int) -> bytes:
        """Return a mutant; the same number gives the same bytes."""
        rng = random.Random(f"{self._seed}-{number}")  # noqa: S311 - reproducible damage, not a secret
        data = first = rng.choice(self._seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            data = rng.choice(_OPERATIONS)(data, rng, rng.choice(self._seeds)) or data
        if rng.random() < _KEPT:
            data = next((magic + data[len(magic) :] for magic in _MAGIC if first.startswith(magic)), data)
        if data.startswith(PNG_MAGIC) and rng.random() < _REPAIRED:
            data = with_right_checksums(data)
        return data[:_MOST]


def parts_of(data: bytes) -> list[tuple[int, int]]:
    """Return the chunks of a PNG or WebP, or the segments of a JPEG before its first scan, as offsets (start, end)."""
    if data.startswith(PNG_MAGIC):
        position, order, extra = 8, ">I", 12
    elif data.startswith(b"RIFF"):
        position, order, extra = 12, "<4xI", 8
    elif data.startswith(b"\xff\xd8"):
        position, order, extra = 2, ">2xH", 2
    else:
        return []
    found = []
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(order, data, position)
        end = position + extra + length + (length & 1 if extra == 8 else 0)
        found.append((position, min(end, len(data))))
        if extra == 2 and data[position + 1] == 0xDA:
            break
        position = end
    return found


def with_right_checksums(png: bytes) -> bytes:
    """Return a PNG whose chunks have right checksums, as far as they can be told apart."""
    parts = [PNG_MAGIC]
    end = len(PNG_MAGIC)
    for start, end in parts_of(png):
        if end - start < 12:
            parts.append(png[start:end])
            continue
        body = png[start + 4 : end - 4]
        parts += [png[start : start + 4], body, struct.pack(">I", zlib.crc32(body))]
    return b"".join([*parts, png[end:]])


def _flip(data: bytes, rng: random.Random, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 40))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    part = rng.choice(
        (rng.randbytes(rng.choice((1, 2, 4, 30))), b"\xff" * rng.randrange(1, 20), bytes(rng.randrange(1, 20)))
    )
    return data[:start] + part + data[start + len(part) :]


def _cut(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _remove(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice((1, 2, 4, 20, 200)) :]


def _insert(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.choice((1, 2, 4, 20, 200))) + data[start:]


def _splice(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _number(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Set 2 or 4 bytes to a value at an edge: near the beginning, where sizes are, or anywhere."""
    start = rng.randrange(min(len(data), rng.choice((40, 200, len(data)))))
    size, value = rng.choice((2, 4)), rng.choice(_EDGES) + rng.choice((-1, 0, 0, 1))
    part = (value % (1 << 8 * size)).to_bytes(size, "big")
    return data[:start] + rng.choice((part, part[::-1])) + data[start + size :]


def _length(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Change the length of a chunk or segment."""
    parts = parts_of(data)
    if not parts:
        return b""
    start, end = rng.choice(parts)
    value = rng.choice((rng.choice(_EDGES), end - start + rng.randrange(-20, 20)))
    if data.startswith(b"\xff\xd8"):
        return data[: start + 2] + (value % 65536).to_bytes(2, "big") + data[start + 4 :]
    part = (value % 2**32).to_bytes(4, "big")
    at, part = (start, part) if data.startswith(PNG_MAGIC) else (start + 4, part[::-1])
    return data[:at] + part + data[at + 4 :]


def _rearrange(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Repeat, remove, move or exchange a chunk or segment."""
    parts, others = parts_of(data), parts_of(other)
    if not parts:
        return b""
    start, end = rng.choice(parts)
    place = rng.choice(parts)[0]
    part = data[start:end] * rng.choice((1, 1, 2, 50))
    if rng.random() < 0.3 and others and data[:4] == other[:4]:
        first, last = rng.choice(others)
        part = other[first:last]
    elif rng.random() < 0.3:
        return data[:start] + data[end:]
    return data[:place] + part + data[place:]


_OPERATIONS: tuple[Callable[[bytes, random.Random, bytes], bytes], ...] = (
    _flip,
    _flip,
    _overwrite,
    _cut,
    _remove,
    _insert,
    _splice,
    _number,
    _number,
    _length,
    _rearrange,
)
