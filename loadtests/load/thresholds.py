"""Checks the figures of a run against a TOML file with thresholds per profile."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tables import markdown_table

DEFAULT_FILE = Path(__file__).parent / "thresholds.toml"
_COMMON = "all"
_KEYS = {"min", "max", "optional"}


class ThresholdError(ValueError):
    """The file of thresholds is invalid; the message says why."""


@dataclass(frozen=True)
class Threshold:
    """A figure's inclusive bounds; an ``optional`` threshold holds if the run does not yield the figure."""

    figure: str
    minimum: float | None = None
    maximum: float | None = None
    optional: bool = False

    def __str__(self) -> str:
        """Return the bounds in words, such as ``>= 1 and <= 4``."""
        low = [] if self.minimum is None else [f">= {self.minimum:g}"]
        high = [] if self.maximum is None else [f"<= {self.maximum:g}"]
        return " and ".join(low + high)


@dataclass(frozen=True)
class Check:
    """A threshold, the measured figure, and whether the threshold held."""

    threshold: Threshold
    measured: float | None
    passed: bool


def load_thresholds(path: Path, profile: str, known: Sequence[str]) -> list[Threshold]:
    """Return the thresholds of a profile: those of ``[all]``, overridden by the profile's own table.

    Args:
        path: the TOML file.
        profile: the profile's name.
        known: the names of all figures.

    Raises:
        ThresholdError: the file is unreadable, names an unknown figure, or has a bound that is not a number.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ThresholdError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ThresholdError(f"{path} is not a TOML file: {error}") from error
    if profile not in tables:
        raise ThresholdError(f"{path} has no table [{profile}]")
    merged = {**tables.get(_COMMON, {}), **tables[profile]}
    return [_read(path, name, bounds, known) for name, bounds in merged.items()]


def _read(path: Path, name: str, bounds: Any, known: Sequence[str]) -> Threshold:
    if name not in known:
        raise ThresholdError(f"{path}: unknown figure {name!r}; the figures are {', '.join(sorted(known))}")
    if not isinstance(bounds, dict) or not bounds.keys() <= _KEYS or not bounds.keys() & {"min", "max"}:
        raise ThresholdError(f"{path}: {name} needs min or max, and may have optional; not {bounds!r}")
    lowest, highest, optional = bounds.get("min"), bounds.get("max"), bounds.get("optional", False)
    if any(isinstance(v, bool) or not isinstance(v, int | float | None) for v in (lowest, highest)) or optional not in (
        True,
        False,
    ):
        raise ThresholdError(f"{path}: the bounds of {name} must be numbers, not {bounds!r}")
    return Threshold(name, lowest, highest, bool(optional))


def check_thresholds(thresholds: Sequence[Threshold], figures: Mapping[str, float | None]) -> list[Check]:
    """Check every threshold; a figure that was not measured passes only if it is optional."""
    return [Check(t, figures[t.figure], _holds(t, figures[t.figure])) for t in thresholds]


def _holds(threshold: Threshold, measured: float | None) -> bool:
    if measured is None:
        return threshold.optional
    above = threshold.minimum is None or measured >= threshold.minimum
    return above and (threshold.maximum is None or measured <= threshold.maximum)


def format_checks(checks: Sequence[Check]) -> str:
    """Return the Markdown table: figure, bounds, measured value, and PASS, FAIL or n/a (optional and not measured)."""
    rows = []
    for c in checks:
        measured = "-" if c.measured is None else f"{c.measured:.3g}" if abs(c.measured) < 100 else f"{c.measured:.0f}"
        result = "n/a" if c.measured is None and c.passed else "PASS" if c.passed else "FAIL"
        rows.append((c.threshold.figure, str(c.threshold), measured, result))
    return markdown_table(("figure", "threshold", "measured", "result"), rows)
