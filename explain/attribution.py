"""The types of every explanation method: its budget, its cancellation token and its result."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from veridict.forensics.arrays import Float32Array

from .errors import ExplainError

if TYPE_CHECKING:
    from .jobs.duty_cycle import DutyCycleLimiter

#: signed: positive speaks for fake, negative for real. strength: how much a pixel matters, in either direction.
#: measurement: a quantity of the file itself, measured without a network.
Kind = Literal["signed", "strength", "measurement"]


@dataclass(frozen=True)
class Budget:
    """Bounds of one explanation.

    ``steps``: gradient evaluations of integrated gradients. ``samples``: perturbed images that SHAP and LIME may
    score. ``seconds``: wall time without pauses for verdicts, after which the method stops with
    ``explain.over_budget``. Integrated gradients stops refining before that.
    """

    steps: int = 256
    samples: int = 300
    seconds: float = 60.0

    def __post_init__(self) -> None:
        """Check the ranges; raise ExplainError, which names the bound."""
        limits = {"steps": (8, 4096), "samples": (20, 20_000), "seconds": (0.1, 3600.0)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
                raise ExplainError("explain.bad_request", f"{name} must be {low:g}..{high:g}, not {value!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Budget:
        """Return the budget of decoded JSON; unknown names are refused, missing ones have their default."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ExplainError("explain.bad_request", f"no such bound: {', '.join(unknown)}")
        return replace(cls(), **dict(values))


class Cancellation:
    """Tells a running method to stop when it is cancelled or its seconds are over. It can be shared between threads.

    Methods call :meth:`check` between units of work of some 50 ms. It also pauses them while the server gives verdicts.
    """

    def __init__(self, seconds: float | None = None, limiter: DutyCycleLimiter | None = None) -> None:
        """Start the clock; without ``seconds`` only :meth:`cancel` stops the method. ``limiter`` decides on pauses."""
        self._started = time.monotonic()
        self._seconds = math.inf if seconds is None else seconds
        self._event = threading.Event()
        self._limiter = limiter
        #: Seconds paused so far; they do not count as the method's seconds.
        self.waited = 0.0

    def cancel(self) -> None:
        """Make the next :meth:`check` raise."""
        self._event.set()

    @property
    def elapsed(self) -> float:
        """Return the method's seconds so far, without pauses."""
        return time.monotonic() - self._started - self.waited

    @property
    def remaining(self) -> float:
        """Return the seconds until the method is over its budget; infinite without a limit."""
        return self._seconds - self.elapsed

    @property
    def cancelled(self) -> bool:
        """Return whether :meth:`cancel` was called."""
        return self._event.is_set()

    def check(self) -> None:
        """Return when the method may go on: at once, or after a pause for verdicts.

        Raises:
            ExplainError: ``explain.cancelled`` or ``explain.over_budget``.
        """
        self._raise_if_over()
        if self._limiter is not None:
            self.waited += self._limiter.pause(self._event)
            self._raise_if_over()

    def _raise_if_over(self) -> None:
        if self._event.is_set():
            raise ExplainError("explain.cancelled")
        if self.remaining < 0:
            raise ExplainError("explain.over_budget")


@dataclass(frozen=True)
class Attribution:
    """One finished explanation.

    ``values``: float32 [H, W]; ``kind`` says what they mean, ``unit`` is their unit. ``region``: the rectangle [x, y,
    width, height] of the upright image that the values cover. ``score``: the explained output (a logit or a margin;
    positive means fake), None for a measurement. ``quality``: the method's own figures, such as ``completeness_delta``.
    ``seconds``: the time it took, without pauses for verdicts.
    """

    method: str
    kind: Kind
    values: Float32Array
    unit: str
    region: tuple[int, int, int, int]
    score: float | None
    settings: dict[str, Any]
    quality: dict[str, float]
    seconds: float
    model: str
    model_version: str

    def __post_init__(self) -> None:
        """Refuse values that are not finite float32 [H, W]."""
        if self.values.dtype != np.float32 or self.values.ndim != 2 or not np.isfinite(self.values).all():
            raise ExplainError("explain.internal", f"{self.method} did not return a finite float32 map")

    def document(self) -> dict[str, Any]:
        """Return everything except the values, ready for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "values"}
        return {**plain, "shape": list(self.values.shape)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any], values: Float32Array) -> Attribution:
        """Return the attribution from its document and its values; unknown fields are ignored.

        Raises:
            ExplainError: ``explain.store`` if the document lacks a field.
        """
        try:
            known = {f.name: document[f.name] for f in fields(cls) if f.name != "values"}
            known["region"] = tuple(document["region"])
            return cls(values=values, **known)
        except (KeyError, TypeError) as error:
            raise ExplainError("explain.store", f"a stored result lacks {error}") from error
