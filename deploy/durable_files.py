"""Writing a file so that it is there completely or not at all, also after a crash."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

#: Between the name of a file and the random end of its unfinished copy, whose name also begins with a dot.
PARTIAL = ".partial-"


def write_durably(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, synced to disk; folders are made as needed.

    A process that is killed meanwhile leaves ``.NAME.partial-XXXXXXXX`` beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL}{secrets.token_hex(4)}")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
