"""How far a backfill is: a line every few seconds, and the summary at its end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from .plan import Plan
from .results import PartFacts, Totals

#: Seconds between two lines.
INTERVAL = 10.0


class Progress:
    """Counts what is stored: ``totals`` of the whole backfill, and how many images this run has added."""

    def __init__(self, plan: Plan, totals: Totals, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with what earlier runs have stored."""
        self._plan, self.totals, self._clock = plan, totals, clock
        self._before = totals.images
        self._lock = threading.Lock()
        self._began = self._ended = clock()

    def begin(self) -> None:
        """Start the clock of the rate: the workers are about to start."""
        self._began = self._ended = self._clock()

    def add(self, facts: PartFacts) -> None:
        """Count a chunk that was stored."""
        with self._lock:
            self.totals.add(facts)
            self._ended = self._clock()

    @property
    def added(self) -> int:
        """Return the number of images of this run."""
        return self.totals.images - self._before

    @property
    def seconds(self) -> float:
        """Return the seconds from the start of this run to its last chunk."""
        return self._ended - self._began

    def rate(self) -> float:
        """Return the images per second of this run; 0 before its first chunk."""
        return self.added / self.seconds if self.added and self.seconds > 0 else 0.0

    def line(self) -> str:
        """Return one line for people; another thread may add chunks meanwhile."""
        with self._lock:
            done, rate, errors = self.totals.images, self.rate(), self.totals.errors.total()
        all_images = self._plan.images
        parts = [f"{done:,} of {all_images:,} images ({done / all_images:.1%})"]
        if rate:
            parts.append(f"{rate:.1f} images/s")
        parts.append(f"{errors:,} with an error")
        if rate and done < all_images:
            parts.append(f"{_duration((all_images - done) / rate)} left")
        return "backfill: " + ", ".join(parts)

    def summary(self) -> dict[str, Any]:
        """Return the summary as a JSON document."""
        totals = self.totals
        return {
            "plan": self._plan.id,
            "complete": len(totals.chunks) == self._plan.chunks and totals.images == self._plan.images,
            "images": self._plan.images,
            "done": totals.images,
            "verdicts": dict(sorted(totals.verdicts.items())),
            "low_confidence": totals.low_confidence,
            "errors": dict(sorted(totals.errors.items())),
            "models": vars(self._plan.models),
            "this_run": {
                "images": self.added,
                "seconds": round(self.seconds, 1),
                "images_per_second": round(self.rate(), 2),
            },
        }


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


@contextlib.contextmanager
def every(seconds: float, say: Callable[[], None]) -> Iterator[None]:
    """Call ``say`` every so many seconds in a thread until the end of the ``with``."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            say()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
