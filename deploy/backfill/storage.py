"""The output folder: a local folder or a prefix in an object store, through fsspec.

A file is there completely or not at all: locally it is written under another name and renamed, and an object store
keeps an object only when its single PUT has ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec

from veridict.deploy.durable_files import PARTIAL, write_durably


class BackfillError(RuntimeError):
    """The run cannot start or go on; the message says why, and what to do."""


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's filesystem of a path or URL, and the path on it; options come from the environment.

    Raises:
        BackfillError: no filesystem has this URL's scheme, or its package is not installed.
    """
    try:
        # Without the listing cache: files come and go while the run lasts.
        filesystem, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise BackfillError(f"{url}: {error}") from error
    return filesystem, str(path)


class Folder:
    """Reads and writes the files of one folder; threads may share it."""

    def __init__(self, url: str) -> None:
        """Take a path, or a URL of fsspec such as ``s3://bucket/prefix``."""
        self.url = url
        self._filesystem, self._root = open_filesystem(url)
        self._is_local = "file" in self._filesystem.protocol

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _explained(self, action: str, name: str) -> Iterator[None]:
        """Turn every error but that of a missing file into a BackfillError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # every object store has its own exception types
            raise BackfillError(f"cannot {action} {name} in {self.url}: {type(error).__name__}: {error}") from error

    def read(self, name: str) -> bytes | None:
        """Return a file, or None where there is none.

        Raises (as all methods):
            BackfillError: the storage refuses it.
        """
        try:
            with self._explained("read", name):
                return bytes(self._filesystem.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file completely or not at all."""
        with self._explained("write", name):
            if self._is_local:
                write_durably(Path(self._path(name)), data)
            else:
                self._filesystem.pipe_file(self._path(name), data)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading; raise FileNotFoundError where there is none."""
        with self._explained("read", name):
            stream: IO[bytes] = self._filesystem.open(self._path(name), "rb")
            return stream

    def names(self, subfolder: str) -> list[str]:
        """Return the names of the files in a subfolder, sorted, unfinished ones left out; [] where there is none."""
        try:
            with self._explained("list", subfolder):
                found = self._filesystem.ls(self._path(subfolder), detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if name and not name.startswith("."))

    def remove_partial(self, subfolder: str) -> None:
        """Remove the unfinished files that killed workers have left in a local subfolder."""
        if self._is_local:
            for path in Path(self._path(subfolder)).glob(f".*{PARTIAL}*"):
                path.unlink(missing_ok=True)
