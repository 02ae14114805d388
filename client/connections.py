"""Connection age: a channel is replaced after a while, and closed when its last call has ended."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")


class Connections(Generic[C]):
    """The channel of one replica, and its predecessors that still have calls in flight; safe to share between threads.

    A new channel connects anew, so that a balancer between client and servers chooses a server again. Each lives
    between 0.9 and 1.1 times ``age`` seconds, so that many clients do not reconnect together; 0: forever.
    """

    def __init__(
        self,
        open_channel: Callable[[], C],
        age: float,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Open the first channel."""
        self._open, self._age, self._clock, self._draw = open_channel, age, clock, draw
        self._changed = threading.Condition()
        self._calls: dict[C, int] = {}
        self._current = self._renew()

    def _renew(self) -> C:
        self._ends = self._clock() + self._age * (0.9 + 0.2 * self._draw())
        channel = self._open()
        self._calls[channel] = 0
        return channel

    def take(self) -> C:
        """Return the channel for one call, a new one when the present one is too old."""
        with self._changed:
            if self._age and self._clock() >= self._ends:
                self._current = self._renew()
            self._calls[self._current] += 1
            return self._current

    def give_back(self, channel: C) -> None:
        """Say that a call has ended."""
        with self._changed:
            self._calls[channel] -= 1
            if not any(self._calls.values()):
                self._changed.notify_all()

    def retired(self) -> list[C]:
        """Return replaced channels with no call in flight, each once: the caller closes them."""
        with self._changed:
            found = [c for c, calls in self._calls.items() if not calls and c is not self._current]
            for channel in found:
                del self._calls[channel]
            return found

    def wait(self, timeout: float) -> list[C]:
        """Wait until no call is in flight, at most ``timeout`` seconds; return all channels, to be closed."""
        with self._changed:
            self._changed.wait_for(lambda: not any(self._calls.values()), timeout)
            return list(self._calls)
