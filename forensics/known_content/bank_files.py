"""Files of known hashes: text, CSV, JSON lines and ThreatExchange JSON, read strictly and written atomically.

Every entry has a PDQ hash (64 hexadecimal digits), and may have an id, a label and the hash's quality. A file with one
bad entry is refused as a whole; the error names each bad entry's line and cause.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Int64Array, Pixels
from .index import CODE_BYTES
from .pdq import DIGITS, NO_HASH
from .threatexchange import Skipped, read_descriptors

#: The columns of a CSV file and the keys of a JSON line; only ``hash`` is needed.
FIELDS = ("hash", "id", "label", "quality")
#: PDQ's published guidance: hashes below this quality match what they should not
#: (https://github.com/facebook/ThreatExchange/blob/main/pdq/README.md).
LEAST_QUALITY = 50
#: The longest id or label, in characters.
_LONGEST = 200
#: So many bad entries of a file are named; the others are counted.
_NAMED = 20


class BankError(ValueError):
    """A file cannot be used as a bank; the message names the file, the bad lines and their causes."""

    def __init__(self, path: Path | str, problems: Sequence[str]) -> None:
        """Take the file, and a sentence per problem."""
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        super().__init__(f"{path}: {'; '.join(problems[:_NAMED])}{more}")


@dataclass(frozen=True)
class Entry:
    """One known picture: its hash (64 hexadecimal digits in lower case), id and label ("" = none)."""

    hash: str
    id: str = ""
    label: str = ""


@dataclass(frozen=True, eq=False)
class Strings:
    """Many strings in one block of memory: UTF-8 ``data``, and where each string ends."""

    data: bytes
    ends: Int64Array

    @classmethod
    def pack(cls, strings: Iterable[str]) -> Strings:
        """Return the strings in one block."""
        encoded = [text.encode() for text in strings]
        return cls(b"".join(encoded), np.cumsum([len(text) for text in encoded], dtype=np.int64))

    def __getitem__(self, number: int) -> str:
        """Return a string by its number."""
        return self.data[self.ends[number - 1] if number else 0 : self.ends[number]].decode()


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of one file as columns: ``codes`` uint8 [N, 32], ids, and for each entry the number of its label.

    ``sha256``: of the file. ``skipped``: descriptors that are no entries, counted by reason.
    """

    codes: Pixels
    ids: Strings
    label_names: tuple[str, ...]
    label_numbers: Int64Array
    sha256: str
    skipped: Mapping[str, int]

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.codes)

    def __getitem__(self, number: int) -> Entry:
        """Return an entry by its number, from 0."""
        label = self.label_names[self.label_numbers[number]]
        return Entry(self.codes[number].tobytes().hex(), self.ids[number], label)

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in the order of the file."""
        return (self[number] for number in range(len(self)))


#: The place of an entry in its file, such as "line 3", and its fields; a string in their place says what is wrong.
_Item = tuple[str, Mapping[str, Any] | str]


def read_entries(path: Path) -> Entries:
    """Read a file of known hashes; its ending says the format.

    Raises:
        BankError: the file cannot be read, or an entry is bad.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise BankError(path, [f"a bank ends with {', '.join(READERS)}"])
    try:
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise BankError(path, [error.strerror or str(error)]) from error
    except UnicodeDecodeError as error:
        raise BankError(path, [f"line {data[: error.start].count(10) + 1}: not UTF-8"]) from error
    del data  # banks may be large
    columns = _Columns()
    try:
        for place, fields in reader(text):
            columns.add(place, fields)
    except (ValueError, csv.Error, RecursionError) as error:
        columns.problems.append(str(error))
    if columns.problems:
        raise BankError(path, columns.problems)
    return columns.pack(sha256)


class _Columns:
    """The entries that were read so far, and what is wrong with the others."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._codes = bytearray()
        self._ids: list[str] = []
        self._labels: dict[str, int] = {}
        self._numbers: list[int] = []
        self._skipped: Counter[str] = Counter()

    def add(self, place: str, fields: Mapping[str, Any] | str | Skipped) -> None:
        if isinstance(fields, Skipped):
            self._skipped[fields.reason] += 1
            return
        try:
            if isinstance(fields, str):
                raise ValueError(fields)
            entry = _read_entry(fields)
        except ValueError as error:
            self.problems.append(f"{place}: {error}")
            return
        self._codes += bytes.fromhex(entry.hash)
        self._ids.append(entry.id)
        self._numbers.append(self._labels.setdefault(entry.label, len(self._labels)))

    def pack(self, sha256: str) -> Entries:
        codes = np.frombuffer(bytes(self._codes), np.uint8).reshape(-1, CODE_BYTES)
        numbers = np.array(self._numbers, np.int64)
        return Entries(codes, Strings.pack(self._ids), tuple(self._labels), numbers, sha256, dict(self._skipped))


def _read_entry(fields: Mapping[str, Any]) -> Entry:
    """Return the entry of a row's fields.

    Raises:
        ValueError: a field is unknown, missing or out of range.
    """
    if unknown := fields.keys() - set(FIELDS):
        raise ValueError(f"unknown field {sorted(unknown)[0]!r}; the fields are {', '.join(FIELDS)}")
    value = fields.get("hash", "")
    digits = value.lower() if isinstance(value, str) else ""
    if len(digits) != DIGITS or not _is_hexadecimal(digits):
        raise ValueError(f"{value!r:.80} is no PDQ hash of {DIGITS} hexadecimal digits")
    if digits == NO_HASH:
        raise ValueError("the hash is zero: the picture could not be hashed")
    quality = fields.get("quality", "")
    if quality != "" and not (str(quality).isdecimal() and LEAST_QUALITY <= int(quality) <= 100):
        raise ValueError(f"quality {quality!r:.20}: a bank takes whole numbers from {LEAST_QUALITY} to 100")
    return Entry(digits, _read_text(fields, "id"), _read_text(fields, "label"))


def _is_hexadecimal(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) * 2 == len(text)
    except ValueError:
        return False


def _read_text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or len(value) > _LONGEST or not (value == "" or value.isprintable()):
        raise ValueError(f"{name} must be printable text of at most {_LONGEST} characters")
    return value


def _lines(text: str) -> Iterator[str]:
    """Yield the lines with their ends; a list or a stream of all of them would take several times the text's memory."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _text_items(text: str) -> Iterator[_Item]:
    """Yield one hash per line; empty lines and lines that begin with # are left out."""
    for number, line in enumerate(_lines(text), 1):
        if line.strip() and not line.startswith("#"):
            yield f"line {number}", {"hash": line.strip()}


def _csv_items(text: str) -> Iterator[_Item]:
    reader = csv.reader(_lines(text), strict=True)
    header = next(reader, [])
    if "hash" not in header or len(set(header)) != len(header) or not set(header) <= set(FIELDS):
        raise ValueError(f"line 1: the header must have the column hash, and may have {', '.join(FIELDS[1:])}")
    try:
        for cells in reader:
            if len(cells) == len(header):
                yield f"line {reader.line_num}", dict(zip(header, cells, strict=True))
            elif cells:
                yield f"line {reader.line_num}", f"{len(cells)} cells for {len(header)} columns"
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


def _json_line_items(text: str) -> Iterator[_Item]:
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            yield f"line {number}", f"no JSON: {error}"
            continue
        yield f"line {number}", fields if isinstance(fields, dict) else "not a JSON object"


#: How a file is read, by its ending.
READERS: Mapping[str, Callable[[str], Iterable[tuple[str, Any]]]] = {
    ".csv": _csv_items,
    ".json": read_descriptors,
    ".jsonl": _json_line_items,
    ".txt": _text_items,
}


def write_csv(path: Path, entries: Iterable[Entry]) -> None:
    """Write entries as a CSV file that appears complete or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden names are no banks.
    handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
    try:
        with os.fdopen(handle, "w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(FIELDS[:3])
            writer.writerows((entry.hash, entry.id, entry.label) for entry in entries)
            os.fchmod(stream.fileno(), 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
