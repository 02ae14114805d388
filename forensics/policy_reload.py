"""Hot reload of policies: follows a folder, from a thread of its own.

A folder is read when none of its files changed between two looks, so one that is being written is not read halfway.
Its new state takes the place of the old one at once and as a whole. A state that cannot be used leaves the policies in
force that were.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .follow import PERIOD, Follower, Signature, sign_files
from .named_policies import Policies, PolicyFilesError, find_policy_files


class PolicyWatcher:
    """The policies of a folder, as they are now; ``policies`` and ``refused`` may be read from any thread.

    ``refused`` says why the folder's present state is not in force; "" while it is.
    """

    def __init__(
        self,
        folder: Path,
        load: Callable[[Path], Policies],
        report: Callable[[str, bool], None],
        period: float = PERIOD,
    ) -> None:
        """Load the folder, then follow it every ``period`` seconds.

        ``report`` receives a sentence for each new state, and whether it is in force; it is called from the thread.

        Raises:
            PolicyFilesError: a file cannot be used.
            OSError: the folder cannot be read.
        """
        self._folder, self._load, self._report = folder, load, report
        #: The files as they were read; None: they are to be read again, whether they change or not.
        self._read: dict[Path, Signature] | None = self._sign()
        self._seen = self._read
        self.policies = load(folder)
        self.refused = ""
        self._follower = Follower("policies", self._look, self._fail, period)

    def close(self) -> None:
        """End the thread."""
        self._follower.close()

    def _sign(self) -> dict[Path, Signature]:
        return sign_files(find_policy_files(self._folder))

    def _look(self) -> None:
        try:
            found = self._sign()
            settled, self._seen = found == self._seen, found
            if not settled or found == self._read:
                return
            self._read = found
            self.policies = self._load(self._folder)
        except PolicyFilesError as error:
            self._refuse(str(error))
        except OSError as error:  # such as a volume that is gone
            self._read = None
            self._refuse(f"{self._folder}: {error.strerror or error}")
        else:
            self.refused = ""
            self._report(f"in force: {', '.join(self.policies.by_name) or 'none'}", True)

    def _fail(self, error: Exception) -> None:
        self._read = None
        self._refuse(f"{self._folder}: {type(error).__name__}: {error}")

    def _refuse(self, problem: str) -> None:
        if self.refused != problem:
            self.refused = problem
            self._report(f"{problem} (the policies that were in force stay)", False)
