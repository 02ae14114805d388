"""Waiting for a service or a store that is away: for how long, and whether it or the image is to blame in the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from .storage import BackfillError

#: The wait before try n is random between 0 and ``_FIRST`` x 2^n seconds, but at most ``_LONGEST``.
_FIRST, _LONGEST = 0.5, 15.0


class Patience:
    """Shared by all that one worker asks of one service; threads may share it."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Wait for up to ``seconds`` per image. :meth:`stop` ends all waits, unless ``sleep`` replaces ours."""
        self._seconds, self._clock = seconds, clock
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._answered = -float("inf")

    def now(self) -> float:
        """Return the time that :meth:`wait` takes as ``began``."""
        return self._clock()

    def answered(self) -> None:
        """Note that the service has answered: it is there."""
        self._answered = self._clock()

    def stop(self) -> None:
        """End all waits: the chunk has failed already."""
        self._stopped.set()

    def wait(self, began: float, tries: int, error: Exception) -> bool:
        """Wait before another try; ``tries`` of an image have failed since ``began``.

        Returns False when its time is up although the service has answered about other images meanwhile: this image
        fails alone.

        Raises:
            BackfillError: its time is up, and the service has not answered since ``began`` at all.
        """
        left = began + self._seconds - self._clock()
        if left <= 0 or self._stopped.is_set():
            if self._answered >= began:
                return False
            raise BackfillError(f"no answer for {self._seconds:g} s (--patience), the last error: {error}")
        self._sleep(min(left, _LONGEST, random.uniform(0, _FIRST * 2 ** min(tries, 10))))  # noqa: S311 - jitter
        return True
