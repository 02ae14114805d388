"""Waiting times of retries and of polling, shared by everything in this package that tries again."""

from __future__ import annotations

from collections.abc import Iterator


def backoff_seconds(first: float, failures: int) -> float:
    """Return the seconds to wait after so many failures (from 1): ``first``, doubled after each further failure."""
    return float(first * 2 ** (failures - 1))


def poll_intervals(first: float = 0.05, longest: float = 1.0) -> Iterator[float]:
    """Yield the seconds before each next poll, without end: ``first``, times 1.5 each time, at most ``longest``."""
    interval = first
    while True:
        yield interval
        interval = min(interval * 1.5, longest)
