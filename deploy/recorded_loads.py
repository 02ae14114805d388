"""Loads that were recorded from a server by ``python -m veridict.loadtests.load.record``, or written by hand."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from pathlib import Path

#: (share of the rate at saturation, seconds from admission to verdict), ascending.
Curve = tuple[tuple[float, float], ...]
#: Bands of the share of the capacity in which a recorded curve has one point each; above the last the server is full.
_BANDS = (0.15, 0.35, 0.55, 0.75, 1.0)


def read_numbers(path: Path) -> list[float]:
    """Return the first number of each line of a file; lines that begin with ``#`` are comments.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line begins with no number, no number is positive, or one is negative or not finite.
    """
    lines = [line.split()[0] for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    try:
        values = [float(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not all(0 <= value < math.inf for value in values) or not any(values):
        raise ValueError(f"{path}: a load needs rates of 0 and more, one per line, and one above 0")
    return values


def read_load(path: Path, peak: float, stretch: int) -> list[float]:
    """Return a load of a file (:func:`read_numbers`) with ``peak`` as its highest value; each lasts ``stretch`` s."""
    values = read_numbers(path)
    highest = max(values)
    return [value * peak / highest for value in values for _ in range(stretch)]


def read_curve(path: Path) -> Curve:
    """Return the curve of a recorded load: the median seconds in flight in each band of the share of the capacity.

    Raises:
        OSError: the file cannot be read.
        ValueError: it names no capacity, has no images in flight, or leaves a band without requests.
    """
    text = path.read_text()
    capacity = re.search(r"^#.*capacity ([0-9.]+)", text, re.MULTILINE)
    rows = [[float(word) for word in line.split()] for line in text.splitlines() if line and not line.startswith("#")]
    if capacity is None or any(len(row) < 2 for row in rows):
        raise ValueError(f"{path}: a curve needs the capacity of the server and the images in flight in each interval")
    points = [(rate / float(capacity[1]), flying / rate) for rate, flying, *_ in rows if rate > 0]
    curve, slowest = [], 0.0
    for low, high in itertools.pairwise(_BANDS):
        found = [seconds for share, seconds in points if low <= share < high]
        if not found:
            raise ValueError(f"{path}: no interval has {low:.0%} to {high:.0%} of the capacity")
        slowest = max(slowest, statistics.median(found))
        curve.append(((low + high) / 2, slowest))
    return (0.0, curve[0][1]), *curve, (1.0, curve[-1][1])
