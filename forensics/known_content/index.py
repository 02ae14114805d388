"""An exact index of 256-bit hashes: every entry within a Hamming distance of 31 is found.

Multi-index hashing (Norouzi, Punjani, Fleet: "Fast Exact Search in Hamming Space with Multi-Index Hashing", 2014): the
256 bits are dealt into 16 parts of 16 bits. Two hashes that differ in at most 31 bits differ in at most one bit of at
least one part, since two differing bits in each of 16 parts would be 32. So it is enough to compare the entries whose
part is the searched one or has one bit flipped: 17 values in each of 16 tables, about 4,100 of a million entries.

numpy and OpenCV release Python's lock in most of this work. An index never changes, so threads may share it.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ..arrays import Int64Array, Pixels
from .pdq import BITS

#: The largest Hamming distance up to which the index finds every entry.
LARGEST_DISTANCE = 31
CODE_BYTES = BITS // 8
UInt16Array = npt.NDArray[np.uint16]
_PARTS = 16
_VALUES = 1 << 16
#: Deals the bits into the parts. Neighbouring bits of PDQ depend on each other: without this a search among hashes of
#: real pictures compares a quarter more entries, and three times as many in the worst case.
_DEAL = np.random.default_rng(256).permutation(BITS)
#: What a part is changed by: nothing, or one of its bits.
_FLIPS = np.array([0, *(1 << bit for bit in range(16))], np.int64)
#: Entries whose bits are dealt at once, so that the work stays in the processor's caches.
_CHUNK = 65_536
#: So many candidates come from copies of one picture, each a candidate in up to 16 parts. Then numpy compares faster
#: than OpenCV, which makes a Python object of every match.
_REPEATED = 20_000
#: How many bits of a byte are 1.
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


class HashIndex:
    """Hashes in memory, about 100 bytes each."""

    def __init__(self, codes: Pixels) -> None:
        """Build the tables for codes uint8 [N, 32], the bytes of the hashes; a second per million.

        Raises:
            ValueError: the codes have another shape, or there are more than 2**31 - 1.
        """
        if codes.ndim != 2 or codes.shape[1] != CODE_BYTES or len(codes) >= 1 << 31:
            raise ValueError(f"codes must be [N, {CODE_BYTES}], not {list(codes.shape)}")
        self._codes = np.ascontiguousarray(codes)
        count = len(codes)
        # Per part: the numbers of the entries sorted by the part's value, and where each value begins.
        self._rows = np.empty((_PARTS, count), np.int32)
        self._begins = np.zeros((_PARTS, _VALUES + 1), np.int32)
        parts = np.empty((_PARTS, count), np.uint16)
        for start in range(0, count, _CHUNK):
            parts[:, start : start + _CHUNK] = _parts(self._codes[start : start + _CHUNK])
        for part, values in enumerate(parts):
            self._rows[part] = np.argsort(values, kind="stable")
            self._begins[part, 1:] = np.cumsum(np.bincount(values, minlength=_VALUES))
        # The matcher keeps no state between calls.
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._codes)

    @property
    def nbytes(self) -> int:
        """Return the bytes of memory that the arrays take."""
        return self._codes.nbytes + self._rows.nbytes + self._begins.nbytes

    def search(self, code: bytes, distance: int = LARGEST_DISTANCE) -> tuple[Int64Array, Int64Array]:
        """Return the numbers [M] of the entries within ``distance`` (0..31) of a hash (32 bytes), and their distances.

        They are sorted by distance, then by number.

        Raises:
            ValueError: the hash or the distance is out of range.
        """
        if len(code) != CODE_BYTES or not 0 <= distance <= LARGEST_DISTANCE:
            raise ValueError(f"cannot search {len(code)} bytes within distance {distance}")
        wanted = np.frombuffer(code, np.uint8)[None]
        rows = self._candidates(wanted)
        if len(rows) > _REPEATED:
            named = np.zeros(len(self._codes), np.bool_)
            named[rows] = True
            near = np.flatnonzero(named)
            distances = _ONES[self._codes[near] ^ wanted].sum(axis=1, dtype=np.int64)
            near, distances = near[distances <= distance], distances[distances <= distance]
        else:
            found = self._matcher.radiusMatch(wanted, self._codes[rows], distance + 0.5)[0] if len(rows) else ()
            # An entry is found once per part in which it is near.
            near, once = np.unique(rows[[match.trainIdx for match in found]], return_index=True)
            distances = np.array([int(match.distance) for match in found], np.int64)[once]
        order = np.lexsort((near, distances))
        return near[order], distances[order]

    def _candidates(self, code: Pixels) -> Int64Array:
        """Return the numbers of the entries that share a part with the code [1, 32], up to one bit; some repeat."""
        bits = np.unpackbits(code[0], bitorder="little")[_DEAL]
        values = np.packbits(bits, bitorder="little").view("<u2").astype(np.int64)[:, None] ^ _FLIPS
        part = np.arange(_PARTS)[:, None]
        begins = self._begins[part, values].astype(np.int64)
        lengths = (self._begins[part, values + 1] - begins).ravel()
        places = (begins + part * len(self._codes)).ravel()[lengths > 0]
        lengths = lengths[lengths > 0]
        if not len(lengths):
            return np.empty(0, np.int64)
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1]) + np.repeat(places - (ends - lengths), lengths)
        return np.asarray(self._rows.ravel()[within], dtype=np.int64)


def _parts(codes: Pixels) -> UInt16Array:
    """Return the 16 parts [16, N] of codes [N, 32]."""
    columns = np.ascontiguousarray(codes.T)
    parts = np.zeros((_PARTS, len(codes)), np.uint16)
    # Bit by bit over all codes: five times as fast as numpy's unpackbits and packbits along this axis.
    for place, bit in enumerate(_DEAL):
        parts[place // 16] |= (columns[bit // 8] >> (bit % 8) & 1).astype(np.uint16) << (place % 16)
    return parts
