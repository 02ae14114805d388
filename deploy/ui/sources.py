"""Where items come from: images in a folder, which are judged, and JSON-lines files of answers, which are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridict.client import DetectorClient, ServerError, VeridictError
from veridict.forensics.contract import Verdict
from veridict.forensics.decode import Limits

from .images import ImageFolder
from .records import position, positions_below, refuse, remember_position
from .store import ReviewStore
from .urgency import needs_review

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
MAX_BYTES = Limits().max_bytes
#: Longest line of a JSON-lines file in bytes.
MAX_LINE = 4 * 1024 * 1024
_BATCH = 32
#: Returns the bytes of an image by its sha256, or None.
FindImage = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Feed:
    """The sources of one review. ``roots``: folders in which the paths of JSON lines may lie, besides the file's own.

    ``find_image`` finds the image of a line without a usable path by its sha256: in the store of explanations.
    """

    store: ReviewStore
    images: ImageFolder
    sources: tuple[Path, ...] = ()
    roots: tuple[Path, ...] = ()
    find_image: FindImage = lambda sha256: None

    def read(self, client: DetectorClient) -> int:
        """Read what is new in all sources; return how many items were added.

        Raises:
            ServerError: the detector gave no verdict; what was not judged is read again the next time.
            OSError: a source cannot be read.
        """
        added = 0
        for source in self.sources:
            added += self.read_folder(source, client) if source.is_dir() else self.read_lines(source)
        return added

    def read_folder(self, folder: Path, client: DetectorClient) -> int:
        """Judge the images below a folder that are new or have changed; add those of low confidence."""
        known = positions_below(self.store, str(folder))
        # The state before the file is read: if somebody still writes it, it is judged again the next time.
        states = {path: _state(path) for path in sorted(folder.rglob("*")) if _is_image(path)}
        fresh = [path for path, state in states.items() if known.get(str(path)) != state]
        added = 0
        for start in range(0, len(fresh), _BATCH):
            part = [path for path in fresh[start : start + _BATCH] if self._small_enough(path, states[path])]
            files = [path.read_bytes() for path in part]
            for result in client.detect_many(files):
                path, data = part[result.index], files[result.index]
                if isinstance(result.error, ServerError):
                    raise result.error
                if result.error is not None:
                    refuse(self.store, str(path), result.error.code, result.error.message)
                elif result.verdict is not None and needs_review(result.verdict):
                    self.images.put(data)
                    added += self.store.add(result.verdict, path.name, str(folder), queued=True)[1]
                remember_position(self.store, str(path), *states[path])
        return added

    def _small_enough(self, path: Path, state: tuple[int, int]) -> bool:
        if state[0] <= MAX_BYTES:
            return True
        refuse(self.store, str(path), "image.too_large", f"the file is too large ({state[0]} bytes, limit {MAX_BYTES})")
        remember_position(self.store, str(path), *state)
        return False

    def read_lines(self, file: Path) -> int:
        """Read the complete lines of a JSON-lines file that are new; add the answers of low confidence.

        A line is what ``veridict detect --json`` prints: an answer, with the image's ``path``.
        """
        stat = file.stat()
        known = position(self.store, str(file))
        at = known[0] if known is not None and known[0] <= stat.st_size else 0  # a shorter file was written anew
        added = 0
        with file.open("rb") as stream:
            stream.seek(at)
            for number, line in enumerate(_complete_lines(stream), 1):
                try:
                    added += self._add_line(line, file)
                except _LineError as error:
                    refuse(self.store, f"{file}, byte {at}", error.code, str(error))
                at += len(line)
                if number % _BATCH == 0:
                    remember_position(self.store, str(file), at, stat.st_mtime_ns)
        remember_position(self.store, str(file), at, stat.st_mtime_ns)
        return added

    def _add_line(self, line: bytes, file: Path) -> bool:
        if not line.strip():
            return False
        if len(line) > MAX_LINE:
            raise _LineError("queue.line", f"the line has more than {MAX_LINE} bytes")
        try:
            document = json.loads(line)
        except ValueError as error:
            raise _LineError("queue.line", f"no JSON: {error}") from None
        if isinstance(document, dict) and isinstance(document.get("error"), dict):  # an image that was not judged
            why = document["error"]
            raise _LineError(str(why.get("code", "queue.line")), str(why.get("message", "")))
        try:
            verdict = Verdict.from_json(line)
        except ValueError as error:
            raise _LineError("queue.line", str(error)) from None
        if not needs_review(verdict):
            return False
        path = document.pop("path", "")
        data = self._image(path, file, verdict.image.sha256)
        self.images.put(data)
        name = Path(path).name if isinstance(path, str) and path else verdict.image.sha256[:12]
        return self.store.add(verdict, name, str(file), queued=True, document=json.dumps(document))[1]

    def _image(self, path: Any, file: Path, sha256: str) -> bytes:
        """Return the image of a line: its bytes must have the sha256 of the answer, so no other file gets out."""
        for candidate in _inside([file.parent, *self.roots], path) if isinstance(path, str) and path else ():
            if candidate.stat().st_size <= MAX_BYTES:
                data = candidate.read_bytes()
                if hashlib.sha256(data).hexdigest() == sha256:
                    return data
        data = self.find_image(sha256) or b""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _LineError("queue.image", "no file with the sha256 of the answer was found")
        return data


class _LineError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _state(path: Path) -> tuple[int, int]:
    """Return the size and the modification time of a file; one that is gone has neither."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._") and path.is_file()


def _complete_lines(stream: Any) -> Iterator[bytes]:
    """Yield the lines that end in a newline; the last one may still be written."""
    while (line := stream.readline()).endswith(b"\n"):
        yield line


def _inside(roots: list[Path], path: str) -> Iterator[Path]:
    """Yield the files that ``path`` means below each root; links and ``..`` that lead out of the root are left out."""
    for root in roots:
        try:
            candidate = (root / path).resolve()
            if candidate.is_relative_to(root.resolve()) and candidate.is_file():
                yield candidate
        except (OSError, ValueError):  # a name that no file can have
            continue


def judge_and_add(
    client: DetectorClient, store: ReviewStore, images: ImageFolder, data: bytes, name: str, source: str
) -> int:
    """Judge one uploaded image and return the id of its item, new or known.

    Raises:
        VeridictError: the image is refused, or the detector gives no verdict; nothing was stored.
    """
    if len(data) > MAX_BYTES:
        raise VeridictError(f"the file is too large ({len(data)} bytes, limit {MAX_BYTES})", code="image.too_large")
    verdict = client.detect(data)
    images.put(data)
    return store.add(verdict, name, source)[0].id
