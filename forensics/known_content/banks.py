"""Banks of known content: a folder of files, and the search in all of them at once.

A bank is a file ``DISPOSITION/NAME.ENDING`` in the folder, such as ``deepfake/elections-2026.csv``. The disposition
says what its pictures are known to be; the policy says what follows from a match.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..contract import KnownContent, KnownMatch
from ..observation import Observation
from ..policy import KnownContentPolicy
from .bank_files import READERS, BankError, Entries, read_entries
from .index import HashIndex
from .pdq import DIGITS

#: So many entries of each bank are named in an answer, the nearest first.
NAMED_PER_BANK = 8
_DISPOSITION = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_LONGEST_NAME = 80
_BAD_DISPOSITION = "a disposition has lower-case letters, digits, - and _, at most 40"
_BAD_NAME = f"a bank's name is printable and has at most {_LONGEST_NAME} characters"
#: Made by file systems.
_IGNORED = ("lost+found",)


@dataclass(frozen=True, eq=False)
class Bank:
    """One bank: its name, what its pictures are known to be, and its entries."""

    name: str
    disposition: str
    entries: Entries


def find_bank_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file of a folder of banks, in order, and why it cannot be one ("" = it can).

    Names that begin with a dot are left out.

    Raises:
        OSError: the folder cannot be read.
    """
    taken: dict[str, Path] = {}
    for place in sorted(_visible(folder)):
        if not place.is_dir():
            yield place, "a bank lies in a folder that says what its pictures are, such as deepfake/"
            continue
        if not _DISPOSITION.fullmatch(place.name):
            yield place, _BAD_DISPOSITION
            continue
        try:
            inside = sorted(_visible(place))
        except OSError as error:
            yield place, error.strerror or str(error)
            continue
        for path in inside:
            if not path.is_file():
                yield path, "a bank is a file; folders of banks have no folders in them"
            elif path.suffix not in READERS:
                yield path, f"a bank ends with {', '.join(READERS)}"
            elif not _is_name(path.stem):
                yield path, _BAD_NAME
            elif path.stem in taken:
                yield path, f"there is a bank of this name already: {taken[path.stem]}"
            else:
                taken[path.stem] = path
                yield path, ""


def place_for_bank(folder: Path, disposition: str, name: str) -> Path:
    """Return where a bank in CSV belongs in a folder of banks, which need not exist.

    Raises:
        BankError: the disposition or the name cannot be used, or another bank has the name.
        OSError: the folder cannot be read.
    """
    place = folder / disposition / f"{name}.csv"
    if not _DISPOSITION.fullmatch(disposition):
        raise BankError(place, [_BAD_DISPOSITION])
    if not _is_name(name) or "/" in name or name.startswith("."):
        raise BankError(place, [_BAD_NAME])
    for path, _ in find_bank_files(folder) if folder.exists() else ():
        if path.stem == name and path != place:
            raise BankError(place, [f"there is a bank of this name already: {path}"])
    return place


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable()


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _IGNORED]


def read_bank(path: Path) -> Bank:
    """Read a bank; its folder's name is its disposition, the file's name without the ending its own.

    Raises:
        BankError: the file cannot be read, or an entry is bad.
    """
    return Bank(path.stem, path.absolute().parent.name, read_entries(path))


class Banks:
    """Several banks under one index. They never change: a reload makes new ones."""

    def __init__(self, banks: Sequence[Bank]) -> None:
        """Build the index over the entries of all banks."""
        self.banks = tuple(banks)
        lengths = [len(bank.entries) for bank in self.banks]
        self._begins = np.cumsum([0, *lengths])
        codes = [bank.entries.codes for bank in self.banks]
        self.index = HashIndex(np.concatenate(codes) if codes else np.empty((0, DIGITS // 2), np.uint8))
        parts = (f"{bank.disposition}/{bank.name}/{bank.entries.sha256}" for bank in self.banks)
        #: The first 12 digits of a sha256 that changes with any bank.
        self.version = hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:12]

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.index)

    def match(self, pdq: str, distance: int) -> tuple[KnownMatch, ...]:
        """Return the entries within ``distance`` (0..31 bits) of a hash: of each bank the 8 nearest, nearest first.

        Raises:
            ValueError: the hash or the distance is out of range.
        """
        rows, distances = self.index.search(bytes.fromhex(pdq), distance)
        numbers = np.searchsorted(self._begins, rows, side="right") - 1
        nearest = [np.flatnonzero(numbers == number)[:NAMED_PER_BANK] for number in np.unique(numbers)]
        found = []
        for place in np.sort(np.concatenate(nearest)) if nearest else ():
            bank = self.banks[numbers[place]]
            entry = bank.entries[int(rows[place] - self._begins[numbers[place]])]
            found.append(KnownMatch(bank.name, bank.disposition, entry.label, entry.id, int(distances[place])))
        return tuple(found)


def load_banks(folder: Path) -> Banks:
    """Load all banks of a folder, strictly.

    Raises:
        BankError: a file is no bank.
        OSError: the folder cannot be read.
    """
    banks = []
    for path, problem in find_bank_files(folder):
        if problem:
            raise BankError(path, [problem])
        banks.append(read_bank(path))
    return Banks(banks)


def look_up(observation: Observation, banks: Banks | None, policy: KnownContentPolicy) -> KnownContent | None:
    """Return what is known about an observed picture; None where it was not hashed.

    Without banks, and for a hash of too little quality, there is the hash and nothing was searched.
    """
    if not observation.pdq:
        return None
    if banks is None or observation.pdq_quality < policy.quality:
        return KnownContent(observation.pdq, observation.pdq_quality)
    matches = banks.match(observation.pdq, policy.distance)
    return KnownContent(observation.pdq, observation.pdq_quality, matches, banks.version)
