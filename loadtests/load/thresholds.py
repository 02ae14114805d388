"""Pass or fail: the figures of a run against a TOML file of bounds per profile."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_FILE = Path(__file__).parent / "thresholds.toml"
_COMMON = "all"
_KEYS = {"min", "max", "optional"}


class ThresholdError(ValueError):
    """The thresholds file cannot be used; the message says why."""


@dataclass(frozen=True)
class Threshold:
    """A figure's bounds, both inclusive; ``optional`` ones pass when the run does not yield the figure."""

    figure: str
    minimum: float | None = None
    maximum: float | None = None
    optional: bool = False

    def __str__(self) -> str:
        """Return the bounds as people write them."""
        low = [] if self.minimum is None else [f">= {self.minimum:g}"]
        high = [] if self.maximum is None else [f"<= {self.maximum:g}"]
        return " and ".join(low + high)


@dataclass(frozen=True)
class Check:
    """A threshold with what was measured, and whether it held."""

    threshold: Threshold
    measured: float | None
    passed: bool


def load_thresholds(path: Path, profile: str, known: Sequence[str]) -> list[Threshold]:
    """Return the thresholds of a profile: the file's ``[all]`` and its own table, which overrides.

    Args:
        path: the TOML file.
        profile: the profile's name.
        known: the figures that can be named.

    Raises:
        ThresholdError: the file is unreadable, names an unknown figure, or a bound is no number.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ThresholdError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ThresholdError(f"{path} is no TOML file: {error}") from error
    if profile not in tables:
        raise ThresholdError(f"{path} has no table [{profile}]")
    merged = {**tables.get(_COMMON, {}), **tables[profile]}
    return [_read(path, name, bounds, known) for name, bounds in merged.items()]


def _read(path: Path, name: str, bounds: Any, known: Sequence[str]) -> Threshold:
    if name not in known:
        raise ThresholdError(f"{path} names the figure {name!r}; there are: {', '.join(sorted(known))}")
    if not isinstance(bounds, dict) or not bounds.keys() <= _KEYS or not bounds.keys() & {"min", "max"}:
        raise ThresholdError(f"{path}: {name} needs min or max (and may have optional), not {bounds!r}")
    lowest, highest, optional = bounds.get("min"), bounds.get("max"), bounds.get("optional", False)
    if any(isinstance(v, bool) or not isinstance(v, int | float | None) for v in (lowest, highest)) or optional not in (
        True,
        False,
    ):
        raise ThresholdError(f"{path}: the bounds of {name} must be numbers, not {bounds!r}")
    return Threshold(name, lowest, highest, bool(optional))


def check(thresholds: Sequence[Threshold], figures: Mapping[str, float | None]) -> list[Check]:
    """Return every threshold with its figure; a figure that is missing passes only where it is optional."""
    return [Check(t, figures[t.figure], _holds(t, figures[t.figure])) for t in thresholds]


def _holds(threshold: Threshold, measured: float | None) -> bool:
    if measured is None:
        return threshold.optional
    above = threshold.minimum is None or measured >= threshold.minimum
    return above and (threshold.maximum is None or measured <= threshold.maximum)


def format_checks(checks: Sequence[Check]) -> str:
    """Return the Markdown table: figure, bound, measured value, PASS or FAIL (n/a: optional and not measured)."""
    lines = ["| figure | threshold | measured | |", "| --- | --- | --- | --- |"]
    for c in checks:
        measured = "-" if c.measured is None else f"{c.measured:.3g}" if abs(c.measured) < 100 else f"{c.measured:.0f}"
        result = "n/a" if c.measured is None and c.passed else "PASS" if c.passed else "FAIL"
        lines.append(f"| {c.threshold.figure} | {c.threshold} | {measured} | {result} |")
    return "\n".join(lines)
