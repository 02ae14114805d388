"""All hostile images, in a fixed order; the same bytes at every call with the same versions of the encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import jpeg_kinds, metadata_kinds, other_kinds, png_kinds, png_layouts, webp_kinds
from .kinds import Kind

#: Functions that yield kinds. To add a kind: yield it in one of them.
FAMILIES: tuple[Callable[[], Iterator[Kind]], ...] = (
    *jpeg_kinds.FAMILIES,
    *png_kinds.FAMILIES,
    *png_layouts.FAMILIES,
    *webp_kinds.FAMILIES,
    *metadata_kinds.FAMILIES,
    *other_kinds.FAMILIES,
)


def hostile_images() -> Iterator[Kind]:
    """Yield every kind; names are unique. Together 250 MB, so do not collect them."""
    for family in FAMILIES:
        yield from family()


def small_files(most: int = 30_000) -> list[bytes]:
    """Return the files of up to ``most`` bytes that are judged and quick to decode: what mutants are made of."""
    return [
        kind.data
        for kind in hostile_images()
        if len(kind.data) <= most and kind.size and kind.size[0] * kind.size[1] <= 100_000
    ]
