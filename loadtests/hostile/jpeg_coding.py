"""Entropy-coded JPEGs that common encoders do not write: many empty scans, lossless, arithmetic coding.

The coding is that of ITU-T T.81.
"""

from __future__ import annotations

import struct

from veridict.forensics.arrays import Pixels

from .assemble import segment

_SOF_PROGRESSIVE, _SOF_LOSSLESS, _SOF_ARITHMETIC = 0xC2, 0xC3, 0xC9
_DHT, _DQT, _SOS = 0xC4, 0xDB, 0xDA
#: Table D.3 of T.81, as far as the encoder below gets: probability, next state after the less and the more probable
#: decision, and whether the less probable one then becomes the more probable one.
_STATES = (
    (0x5A1D, 1, 1, 1), (0x2586, 14, 2, 0), (0x1114, 16, 3, 0), (0x080B, 18, 4, 0), (0x03D8, 20, 5, 0),
    (0x01DA, 23, 6, 0), (0x00E5, 25, 7, 0), (0x006F, 28, 8, 0), (0x0036, 30, 9, 0), (0x001A, 33, 10, 0),
    (0x000D, 35, 11, 0), (0x0006, 9, 12, 0), (0x0003, 10, 13, 0), (0x0001, 12, 13, 0), (0x5A7F, 15, 15, 1),
    (0x3F25, 36, 16, 0), (0x2CF2, 38, 17, 0), (0x207C, 39, 18, 0), (0x17B9, 40, 19, 0), (0x1182, 42, 20, 0),
    (0x0CEF, 43, 21, 0), (0x09A1, 45, 22, 0), (0x072F, 46, 23, 0), (0x055C, 48, 24, 0), (0x0406, 49, 25, 0),
    (0x0303, 51, 26, 0), (0x0240, 52, 27, 0), (0x01B1, 54, 28, 0), (0x0144, 56, 29, 0), (0x00F5, 57, 30, 0),
    (0x00B7, 59, 31, 0), (0x008A, 60, 32, 0), (0x0068, 62, 33, 0), (0x004E, 63, 34, 0), (0x003B, 32, 35, 0),
    (0x002C, 33, 9, 0),
)  # fmt: skip


def frame(marker: int, width: int, height: int, bits: int = 8, components: bytes = b"\x01\x11\x00") -> bytes:
    """Return a frame header; ``components``: id, sampling factors and quantisation table of each."""
    return segment(marker, struct.pack(">BHHB", bits, height, width, len(components) // 3) + components)


def pack_bits(bits: str) -> bytes:
    """Return bits as entropy-coded bytes, padded with ones and with zeros stuffed after 0xFF."""
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def many_scans(width: int, height: int, scans: int) -> bytes:
    """Return a valid progressive grey JPEG whose AC scans say in a few bytes that every block is empty."""
    blocks = -(-width // 8) * -(-height // 8)
    left, runs = blocks, ""
    while left:
        run = min(left, (1 << 15) - 1)
        bits = run.bit_length() - 1
        runs += format(14 - bits, "04b") + (format(run - (1 << bits), f"0{bits}b") if bits else "")
        left -= run
    start = b"\xff\xd8" + segment(_DQT, b"\0" + bytes([16] * 64)) + frame(_SOF_PROGRESSIVE, width, height)
    start += segment(_DHT, b"\0" + bytes([1] + [0] * 15) + b"\0")
    start += segment(_DHT, b"\x10" + bytes([0, 0, 0, 15] + [0] * 12) + bytes(k << 4 for k in range(14, -1, -1)))
    direct = segment(_SOS, bytes((1, 1, 0, 0, 0, 0))) + pack_bits("0" * blocks)
    return start + direct + (segment(_SOS, bytes((1, 1, 0, 1, 63, 0))) + pack_bits(runs)) * scans + b"\xff\xd9"


def flat_baseline(width: int, height: int, factors: bytes = b"\x11") -> bytes:
    """Return the shortest sequential JPEG: two bits per block, every sample 128; ``factors``: of each component."""
    counted = factors if len(factors) > 1 else b"\x11"  # the blocks of a single component are not grouped
    across, down = max(factor >> 4 for factor in counted), max(factor & 15 for factor in counted)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    blocks = units * sum((factor >> 4) * (factor & 15) for factor in counted)
    components = b"".join(bytes((number + 1, factor, 0)) for number, factor in enumerate(factors))
    scan = b"".join(bytes((number + 1, 0)) for number in range(len(factors)))
    start = b"\xff\xd8" + segment(_DQT, b"\0" + bytes([16] * 64)) + frame(0xC0, width, height, 8, components)
    for table in (b"\0", b"\x10"):
        start += segment(_DHT, table + bytes([1] + [0] * 15) + b"\0")
    head = segment(_SOS, bytes((len(factors),)) + scan + bytes((0, 63, 0)))
    return start + head + pack_bits("00" * blocks) + b"\xff\xd9"


def lossless(grey: Pixels, bits: int = 8) -> bytes:
    """Return grey pixels [H, W] as a lossless JPEG: each sample is predicted by its left neighbour (process 14)."""
    height, width = grey.shape
    coded = []
    for row in range(height):
        for column in range(width):
            left = int(grey[row, column - 1]) if column else int(grey[row - 1, 0]) if row else 1 << (bits - 1)
            difference = int(grey[row, column]) - left
            size = abs(difference).bit_length()
            value = difference if difference > 0 else difference + (1 << size) - 1
            coded.append(format(size, "04b") + (format(value, f"0{size}b") if size else ""))
    tables = segment(_DHT, b"\0" + bytes([0, 0, 0, 10] + [0] * 12) + bytes(range(10)))
    start = b"\xff\xd8" + frame(_SOF_LOSSLESS, width, height, bits) + tables
    return start + segment(_SOS, bytes((1, 1, 0, 1, 0, 0))) + pack_bits("".join(coded)) + b"\xff\xd9"


class _Coder:
    """The arithmetic encoder of T.81, Annex D."""

    def __init__(self) -> None:
        self._low, self._range, self._shifts = 0, 0x10000, 11
        self._contexts: dict[str, tuple[int, int]] = {}  # state, more probable decision
        self._bytes: list[int] = []

    def encode(self, context: str, decision: int) -> None:
        """Code one binary decision."""
        state, likely = self._contexts.get(context, (0, 0))
        unlikely_share, next_unlikely, next_likely, switch = _STATES[state]
        self._range -= unlikely_share
        if decision == likely:
            if self._range >= 0x8000:
                return
            if self._range < unlikely_share:  # the two sub-intervals are exchanged
                self._low, self._range = self._low + self._range, unlikely_share
            self._contexts[context] = (next_likely, likely)
        else:
            if self._range >= unlikely_share:
                self._low, self._range = self._low + self._range, unlikely_share
            self._contexts[context] = (next_unlikely, likely ^ switch)
        while self._range < 0x8000:
            self._low, self._range, self._shifts = self._low << 1, self._range << 1, self._shifts - 1
            if not self._shifts:
                self._emit()

    def _emit(self) -> None:
        value = self._low >> 19
        if value > 0xFF:  # the carry
            last = len(self._bytes) - 1
            while self._bytes[last] == 0xFF:
                self._bytes[last] = 0
                last -= 1
            self._bytes[last] += 1
        self._bytes.append(value & 0xFF)
        self._low, self._shifts = self._low & 0x7FFFF, 8

    def flush(self) -> bytes:
        """Return the coded bytes with zeros stuffed after 0xFF."""
        self._low <<= self._shifts
        self._emit()
        self._low <<= 8
        self._emit()
        return bytes(self._bytes).replace(b"\xff", b"\xff\0")


def arithmetic(width: int, height: int) -> bytes:
    """Return an arithmetic-coded grey JPEG of one colour: the first block is 32 levels above 128, no other differs."""
    coder = _Coder()
    for number in range(-(-width // 8) * -(-height // 8)):
        if number == 0:  # a difference of +1: not zero, positive, no larger than one
            for context, decision in (("zero", 1), ("sign", 0), ("one", 0)):
                coder.encode(context, decision)
        else:
            coder.encode("zero after one" if number == 1 else "zero", 0)
        coder.encode("end", 1)
    start = b"\xff\xd8" + segment(_DQT, b"\0\xff" + bytes([16] * 63)) + frame(_SOF_ARITHMETIC, width, height)
    return start + segment(_SOS, bytes((1, 1, 0, 0, 63, 0))) + coder.flush() + b"\xff\xd9"
