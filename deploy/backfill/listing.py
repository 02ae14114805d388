"""What a backfill judges: images in folders and object storage, and lists of images in Parquet files."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq

from veridict.client.cli_detect import is_image_name

from .storage import BackfillError, open_filesystem

_LIST_SUFFIX = ".parquet"


def find_sources(inputs: Sequence[str], column: str, limit: int | None = None) -> list[str]:
    """Return the images of all inputs, each once and sorted: absolute paths, and URLs of object stores.

    An input is an image; a folder or prefix (searched through; images by their suffix, as ``veridict detect`` does); or
    a Parquet file, or a folder of such files named ``*.parquet``, with the name of an image per row in ``column``.
    Relative names count from the folder of their file.

    Raises:
        BackfillError: an input does not exist, cannot be read or names no image.
    """
    found: set[str] = set()
    for url in inputs:
        filesystem, root = open_filesystem(url)
        try:
            paths = [str(path) for path in filesystem.find(root)]
            images = list(_images(filesystem, root, paths, column))
        except BackfillError:
            raise
        except Exception as error:  # pyarrow's errors and those of every object store
            raise BackfillError(f"cannot read {url}: {type(error).__name__}: {error}") from error
        if not images:
            raise BackfillError(f"no image in {url}" if paths else f"no such file or folder: {url}")
        found.update(map(_storable, images))
    for scheme in {source.partition("://")[0] for source in found if "://" in source}:
        open_filesystem(f"{scheme}://")
    return sorted(found)[:limit]


def _storable(name: str) -> str:
    """Return a name that Parquet can hold: bytes that are not UTF-8 are escaped, and no such file will be found."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _images(filesystem: Any, root: str, paths: list[str], column: str) -> Iterator[str]:
    """Yield the images that the files at ``paths`` are or name."""
    is_local = "file" in filesystem.protocol
    is_list = root.rstrip("/").lower().endswith(_LIST_SUFFIX)
    for path in paths:
        url = path if is_local else str(filesystem.unstrip_protocol(path))
        if not is_list:
            if path == root or is_image_name(posixpath.basename(path)):
                yield url
        elif path.lower().endswith(_LIST_SUFFIX):
            with filesystem.open(path, "rb") as stream:
                yield from _read_list(pq.ParquetFile(stream), url, column)


def _read_list(table: pq.ParquetFile, url: str, column: str) -> Iterator[str]:
    """Yield the images that a Parquet file names."""
    if column not in table.schema_arrow.names:
        names = ", ".join(table.schema_arrow.names)
        raise BackfillError(f"{url} has no column {column!r}; its columns are: {names} (--column)")
    row = 0
    for batch in table.iter_batches(columns=[column]):
        for value in batch.column(0).to_pylist():
            if not isinstance(value, str) or not value:
                raise BackfillError(f"{url}: row {row} of the column {column!r} names no image: {value!r}")
            yield value if "://" in value else posixpath.join(posixpath.dirname(url), value)
            row += 1
