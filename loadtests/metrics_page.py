"""Reads a server's metrics page, once or again and again in a thread."""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from typing import Self


def sum_series(text: str, name: str, label: str = "") -> float:
    """Return the sum over the series of a metric in Prometheus's text format; ``label`` picks those that have it.

    Raises:
        ValueError: there is no such series.
    """
    found = re.findall(rf"^{name}\{{[^}}]*{re.escape(label)}[^}}]*\}} (\S+)$", text, re.MULTILINE)
    if not found:
        raise ValueError(f"the metrics page lacks {name}")
    return sum(map(float, found))


class Repeated(ABC):
    """Looks again and again inside a ``with``, in a thread of its own."""

    def __init__(self, interval: float) -> None:
        """Take the seconds between two looks."""
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @abstractmethod
    def look(self, seconds: float) -> None:
        """Look once; ``seconds`` have passed since the first look."""

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stopped.is_set():
            self.look(time.monotonic() - began)
            self._stopped.wait(self._interval)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End, after the look that is going on."""
        self._stopped.set()
        self._thread.join()
