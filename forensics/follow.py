"""Following files: what a file looks like, and a thread that looks again at intervals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

#: Seconds between two looks at files.
PERIOD = 2.0
#: What a file looks like: its time of change, size and inode.
Signature = tuple[int, int, int]


def sign_files(paths: Iterable[Path]) -> dict[Path, Signature]:
    """Return the signature of each file; those that are gone meanwhile are left out."""
    found = {}
    for path in paths:
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        found[path] = (state.st_mtime_ns, state.st_size, state.st_ino)
    return found


class Follower:
    """A thread that calls ``look`` every ``period`` seconds, until it is closed.

    ``fail`` receives an error that ``look`` raised, such as no memory; the thread goes on.
    """

    def __init__(
        self, name: str, look: Callable[[], None], fail: Callable[[Exception], None], period: float = PERIOD
    ) -> None:
        """Start the thread."""
        self._look, self._fail, self._period = look, fail, period
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._period):
            try:
                self._look()
            except Exception as error:  # whatever it is, what is in force stays
                self._fail(error)

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()
