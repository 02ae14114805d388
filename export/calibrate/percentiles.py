"""Percentiles of the forensic signals over real photographs, per size class; readings are relative to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from veridict.forensics.calibration import Percentiles
from veridict.forensics.observation import Observation
from veridict.forensics.signals import FORENSIC

from ..datasets import Sample
from ..pipeline import InProcessDetector
from .observations import RANDOM, SHRUNK, observe_samples

SIZE_EDGES = (256.0, 448.0)
QUANTILES = 41
#: Longest sides that photographs are shrunk to: one in each size class but the largest.
SHRUNK_TO = (224, 384)


def fit_percentiles(seen: Sequence[Observation]) -> dict[str, Percentiles]:
    """Return, per forensic signal, its quantiles over photographs in each size class.

    Raises:
        ValueError: a size class has fewer than 30 photographs.
    """
    result = {}
    for name in FORENSIC:
        rows: list[list[float]] = [[] for _ in range(len(SIZE_EDGES) + 1)]
        for observation in seen:
            value = observation.measurements[name].value
            if value is not None:
                longest = max(observation.image.width, observation.image.height)
                rows[int(np.searchsorted(SIZE_EDGES, longest, side="right"))].append(value)
        if min(len(row) for row in rows) < 30:
            raise ValueError(f"too few photographs for {name}: {[len(r) for r in rows]} per size class, 30 are needed")
        steps = np.linspace(0, 1, QUANTILES)
        result[name] = Percentiles(SIZE_EDGES, tuple(tuple(float(v) for v in np.quantile(r, steps)) for r in rows))
    return result


def photograph_percentiles(
    detector: InProcessDetector, photographs: Sequence[Sample], cache: Path | None
) -> dict[str, Percentiles]:
    """Return the percentiles over photographs: each as it is, degraded at random, and shrunk to smaller size classes.

    Compressed copies belong to them: what people upload was compressed before, often more than once. Beside files fresh
    from a camera, the compression error of nearly every upload would look unusually even.
    """
    own = observe_samples(detector, photographs, "clean", cache)
    seen = [*own, *observe_samples(detector, photographs, RANDOM, cache)]
    for longest in SHRUNK_TO:
        pairs = zip(photographs, own, strict=True)
        larger = [sample for sample, o in pairs if max(o.image.width, o.image.height) > longest]
        seen += observe_samples(detector, larger, f"{SHRUNK}{longest}", cache)
    return fit_percentiles(seen)
