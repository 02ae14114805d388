"""Hot reload: follows the files of a folder of banks, from a thread of its own.

A new state takes the place of the old one at once. A file that cannot be used leaves its last good version in force.
A file is read when it did not change between two looks, so one that is being written is not read halfway; writing
beside it and renaming is safer still.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..follow import PERIOD, Follower, Signature, sign_files
from .bank_files import BankError
from .banks import Bank, Banks, find_bank_files, read_bank


class BankWatcher:
    """The banks of a folder, as they are now.

    ``banks`` is what to search, and ``refused`` names each file whose present content is not in force, and why. Both
    may be read from any thread.
    """

    def __init__(self, folder: Path, report: Callable[[str, bool], None], period: float = PERIOD) -> None:
        """Load the folder, then follow it every ``period`` seconds.

        ``report`` receives a sentence for each file that is loaded, removed or refused, and whether it is sound; it is
        called from the thread.
        """
        self._folder = folder
        self._report = report
        self._good: dict[Path, Bank] = {}
        self._read: dict[Path, Signature] = {}
        self._seen: dict[Path, Signature] = {}
        self.refused: dict[Path, str] = {}
        self.banks = Banks(())
        self._look(settled=False)
        self._follower = Follower("known-content", self._look, self._fail, period)

    def close(self) -> None:
        """End the thread."""
        self._follower.close()

    def _fail(self, error: Exception) -> None:
        self._report(f"{self._folder}: {type(error).__name__}: {error}", False)

    def _look(self, settled: bool = True) -> None:
        """Read what changed. ``settled``: only files that are as they were at the last look."""
        refused: dict[Path, str] = {}
        try:
            found = self._find(refused)
        except OSError as error:
            # A folder that cannot be read, such as a volume that is gone, says nothing about the banks.
            self._refuse({**self.refused, self._folder: f"{self._folder}: {error.strerror or error}"})
            return
        # Nothing is known about the files of a folder that cannot be read.
        changed = [path for path in self._good if path not in found and path.parent not in refused]
        for path in changed:
            del self._good[path]
            self._report(f"{path} is gone", True)
        for path, signature in found.items():
            ready = not settled or self._seen.get(path) == signature
            if self._read.get(path) != signature and ready:
                self._read[path] = signature
                try:
                    self._good[path] = read_bank(path)
                    changed.append(path)
                except BankError as error:
                    refused[path] = str(error)
                except Exception as error:  # whatever it is, the banks in force stay
                    refused[path] = f"{path}: {type(error).__name__}: {error}"
            elif path in self.refused:
                refused[path] = self.refused[path]
        self._seen = found
        self._read = {path: signature for path, signature in self._read.items() if path in found}
        if changed:
            self.banks = Banks([self._good[path] for path in sorted(self._good)])
            for path in changed:
                if path in self._good:
                    self._report(f"{path}: {len(self._good[path].entries)} entries", True)
        self._refuse(refused)

    def _find(self, refused: dict[Path, str]) -> dict[Path, Signature]:
        """Return the signature of each bank, and add what is none to ``refused``."""
        files = list(find_bank_files(self._folder))
        refused |= {path: f"{path}: {problem}" for path, problem in files if problem}
        return sign_files(path for path, problem in files if not problem)

    def _refuse(self, refused: dict[Path, str]) -> None:
        for path, problem in refused.items():
            if self.refused.get(path) != problem:
                kept = "its last good version stays in force" if path in self._good else "it is not in force"
                self._report(f"{problem} ({kept})", False)
        self.refused = refused
