"""Times the search among known hashes, and the PDQ hash of an image, on one thread."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from veridict.forensics.arrays import Pixels
from veridict.forensics.decode import decode_image
from veridict.forensics.known_content.index import CODE_BYTES, LARGEST_DISTANCE, HashIndex
from veridict.forensics.known_content.pdq import BITS, hash_pixels
from veridict.forensics.preprocess import shrink_for_views

from ..sample_images import SIZES, photograph
from ..tables import format_number, markdown_table
from .forensics_cost import one_thread

#: Entries of the index that is measured.
ENTRIES = 1_000_000
_QUERIES = 64
_IMAGE = "1920x1080"


@dataclass(frozen=True)
class SearchTimes:
    """One index: seconds to build it, MiB that the process grew by, and milliseconds per search.

    ``processor``: milliseconds of processor time per search, which other load changes less. ``exact``: it found the
    searched entry in every query, each of which differs from one in 31 bits.
    """

    name: str
    build: float
    memory: float
    milliseconds: Sequence[float]
    processor: Sequence[float]
    exact: bool


def make_hashes(entries: int, queries: int = _QUERIES) -> tuple[Pixels, Pixels]:
    """Return random hashes [entries, 32] and [queries, 32]; each query differs from one of the hashes in 31 bits."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (entries, CODE_BYTES), dtype=np.uint8)
    bits = np.unpackbits(codes[rng.integers(0, entries, queries)], axis=1)
    for row in bits:
        row[rng.choice(BITS, LARGEST_DISTANCE, replace=False)] ^= 1
    return codes, np.packbits(bits, axis=1)


def time_searches(entries: int, seconds: float) -> list[SearchTimes]:
    """Return the times of our index, and of faiss's exact ones where faiss is installed; ``seconds`` per index."""
    codes, queries = make_hashes(entries)
    builders: dict[str, Callable[[], Callable[[Pixels], int]]] = {"ours: 16 parts of 16 bits": lambda: _ours(codes)}
    if importlib.util.find_spec("faiss") is not None:
        builders["faiss IndexBinaryFlat"] = lambda: _faiss(codes, multi=False)
        builders["faiss IndexBinaryMultiHash, 16 x 16 bits, 1 flip"] = lambda: _faiss(codes, multi=True)
    with one_thread():
        return [_time_index(name, build, queries, seconds) for name, build in builders.items()]


def _ours(codes: Pixels) -> Callable[[Pixels], int]:
    index = HashIndex(codes)
    return lambda query: len(index.search(query.tobytes())[0])


def _faiss(codes: Pixels, multi: bool) -> Callable[[Pixels], int]:
    import faiss

    faiss.omp_set_num_threads(1)
    index: Any = faiss.IndexBinaryMultiHash(BITS, 16, 16) if multi else faiss.IndexBinaryFlat(BITS)
    if multi:
        index.nflip = 1
    index.add(codes)
    # Its radius is exclusive.
    return lambda query: int(index.range_search(query[None], LARGEST_DISTANCE + 1)[0][1])


def _time_index(
    name: str, build: Callable[[], Callable[[Pixels], int]], queries: Pixels, seconds: float
) -> SearchTimes:
    before = _resident()
    started = time.perf_counter()
    search = build()
    built = time.perf_counter() - started
    memory = (_resident() - before) / 2**20
    exact = all(search(query) >= 1 for query in queries)
    times: list[float] = []
    processor: list[float] = []
    ends = time.perf_counter() + seconds
    while not times or time.perf_counter() < ends:
        started, computed = time.perf_counter(), time.thread_time()
        search(queries[len(times) % len(queries)])
        processor.append(1e3 * (time.thread_time() - computed))
        times.append(1e3 * (time.perf_counter() - started))
    return SearchTimes(name, built, memory, times, processor, exact)


def _resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def search_table(found: Sequence[SearchTimes], entries: int) -> str:
    """Return the Markdown table of searches."""
    header = (
        f"index of {entries} hashes",
        "build, s",
        "memory, MiB",
        "search p50, ms",
        "p99, ms",
        "processor time p50, ms",
        "p99, ms",
        "all found",
    )
    lines = []
    for times in found:
        taken = [*np.percentile(times.milliseconds, (50, 99)), *np.percentile(times.processor, (50, 99))]
        figures = (format_number(float(value), 2) for value in taken)
        memory = format_number(times.memory, 0)
        lines.append((times.name, format_number(times.build, 1), memory, *figures, "yes" if times.exact else "no"))
    return markdown_table(header, lines)


def hash_table(seconds: float) -> str:
    """Return the Markdown table of the PDQ hash: ours of the reduced copy, and pdqhash's where it is installed."""
    decoded = decode_image(photograph(*SIZES[_IMAGE]))
    small, size = shrink_for_views(decoded.preview), (decoded.width, decoded.height)
    work: dict[str, Callable[[], object]] = {"ours, of the copy of 512 pixels": lambda: hash_pixels(small, size)}
    if importlib.util.find_spec("pdqhash") is not None:
        import pdqhash

        work["pdqhash, of the copy of 512 pixels"] = lambda: pdqhash.compute(small)
        work["pdqhash, of all pixels"] = lambda: pdqhash.compute(decoded.pixels)
    lines = []
    with one_thread():
        for name, call in work.items():
            times: list[float] = []
            ends = time.perf_counter() + seconds
            while not times or time.perf_counter() < ends:
                computed = time.thread_time()
                call()
                times.append(1e3 * (time.thread_time() - computed))
            lines.append((name, format_number(float(np.median(times)), 2)))
    return markdown_table((f"PDQ hash of {_IMAGE} pixels", "processor time p50, ms"), lines)
