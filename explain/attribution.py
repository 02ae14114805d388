"""What every method takes and gives: the subject, a budget, a cancellation token, and a frozen :class:`Attribution`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import ExplainError

if TYPE_CHECKING:
    from .jobs.gate import Gate

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]
#: signed: positive speaks for fake, negative for real. strength: how much a pixel matters, either way. measurement: a
#: quantity of the file itself, which no network has seen.
Kind = Literal["signed", "strength", "measurement"]


@dataclass(frozen=True)
class Budget:
    """Bounds of one explanation.

    ``steps``: gradient evaluations of integrated gradients. ``samples``: perturbed pictures that SHAP and LIME may
    score. ``seconds``: wall time without waits at the gate, after which the method stops with ``explain.over_budget``.
    """

    steps: int = 256
    samples: int = 300
    seconds: float = 60.0

    def __post_init__(self) -> None:
        """Check ranges; raise ExplainError naming the bound."""
        limits = {"steps": (8, 4096), "samples": (20, 20_000), "seconds": (0.1, 3600.0)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
                raise ExplainError("explain.bad_request", f"{name} must be {low:g}..{high:g}, not {value!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Budget:
        """Return the budget of decoded JSON; unknown names are refused, missing ones take their default."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ExplainError("explain.bad_request", f"no such bound: {', '.join(unknown)}")
        return replace(cls(), **dict(values))


class Cancellation:
    """Tells a running method to stop: when somebody cancels it, or when its seconds are over. Safe between threads.

    Methods call :meth:`check` between units of work of some 50 ms, which is also where they wait at the gate.
    """

    def __init__(self, seconds: float | None = None, gate: Gate | None = None) -> None:
        """Start the clock; without ``seconds`` only :meth:`cancel` stops the method. It waits at ``gate``, if any."""
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._event = threading.Event()
        self._gate = gate
        #: Seconds waited at the gate so far; they are not charged.
        self.waited = 0.0

    def cancel(self) -> None:
        """Make the next :meth:`check` raise."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Return whether somebody cancelled."""
        return self._event.is_set()

    def check(self) -> None:
        """Return while the method may go on: at once, or after a wait at the gate.

        Raises:
            ExplainError: ``explain.cancelled`` or ``explain.over_budget``.
        """
        self._raise_if_over()
        if self._gate is not None:
            self.waited += self._gate.wait(self._event)
            self._raise_if_over()

    def _raise_if_over(self) -> None:
        if self._event.is_set():
            raise ExplainError("explain.cancelled")
        if self._ends is not None and time.monotonic() > self._ends + self.waited:
            raise ExplainError("explain.over_budget")


@dataclass(frozen=True)
class Attribution:
    """One finished explanation.

    ``values``: float32 [H, W]; its meaning by ``kind``, its unit in ``unit``. ``region``: the rectangle [x, y, width,
    height] of the upright picture that the values cover. ``score``: the explained output (a logit or a margin; positive
    means fake), None for a measurement. ``quality``: the method's own figures, such as ``completeness_delta``.
    ``seconds``: what it took, without waits at the gate.
    """

    method: str
    kind: Kind
    values: Values
    unit: str
    region: tuple[int, int, int, int]
    score: float | None
    settings: dict[str, Any]
    quality: dict[str, float]
    seconds: float
    model: str
    model_version: str

    def __post_init__(self) -> None:
        """Hold every method to finite float32 values [H, W]."""
        if self.values.dtype != np.float32 or self.values.ndim != 2 or not np.isfinite(self.values).all():
            raise ExplainError("explain.internal", f"{self.method} gave no finite float32 map")

    def document(self) -> dict[str, Any]:
        """Return everything but the values, ready for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "values"}
        return {**plain, "shape": list(self.values.shape)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any], values: Values) -> Attribution:
        """Return the attribution of a document and its values; unknown fields are ignored.

        Raises:
            ExplainError: ``explain.store`` where the document lacks a field.
        """
        try:
            known = {f.name: document[f.name] for f in fields(cls) if f.name != "values"}
            known["region"] = tuple(document["region"])
            return cls(values=values, **known)
        except (KeyError, TypeError) as error:
            raise ExplainError("explain.store", f"a stored result lacks {error}") from error
