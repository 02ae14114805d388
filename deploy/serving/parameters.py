"""The numbers in a model's configuration, checked when the server starts."""

from __future__ import annotations

import math


def parse_number(name: str, text: str, lowest: float, highest: float) -> float:
    """Return the number that the parameter ``name`` has.

    Raises:
        ValueError: it is no number, or out of range.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not lowest <= value <= highest:
        raise ValueError(f"the parameter {name} is {text!r}, and must be a number from {lowest:g} to {highest:g}")
    return value
