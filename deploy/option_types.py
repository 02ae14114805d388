"""Types of command-line numbers: each has a range, and a number outside it is a usage error (exit status 2)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

#: The largest number of things (images, steps, samples) that an option accepts.
MANY = 1_000_000_000
#: The longest time in seconds that an option accepts: a week.
WEEK = 7 * 86400.0


def whole(low: int, high: int = MANY) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]} is not in the range {low} to {high}")
        return value

    return read


def real(low: float, high: float = WEEK, *, above: bool = False) -> Callable[[str], float]:
    """Return an argparse type for numbers from ``low`` to ``high``; ``above`` excludes ``low`` itself.

    Not a number and infinity are refused.
    """

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from None
        if not (math.isfinite(value) and low <= value <= high and (value > low or not above)):
            begin = f"above {low:g}, at most" if above else f"in the range {low:g} to"
            raise argparse.ArgumentTypeError(f"{text[:40]} is not {begin} {high:g}")
        return value

    return read


#: A port to listen on; 0 picks a free one.
port = whole(0, 65535)
#: A duration in seconds.
seconds = real(0.0, above=True)
