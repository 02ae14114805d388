"""Percentiles of the forensic signals over real photographs, per size class: what readings are relative to."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from veridict.forensics.calibration import FORENSIC, Percentiles
from veridict.forensics.fusion import Observation

from ..datasets import Sample
from ..pipeline import InProcessDetector
from .observations import observe_samples

SIZE_EDGES = (256.0, 448.0)
QUANTILES = 41


def shrink(data: bytes, longest: int) -> bytes | None:
    """Return the photograph as a JPEG of quality 90 with the given longest side, or None when it is smaller."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if max(image.size) <= longest:
            return None
        small = image.convert("RGB")
        small.thumbnail((longest, longest), Image.Resampling.BOX)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


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
    """Return the percentiles over photographs, each as it is and shrunk to the smaller size classes."""
    own = observe_samples(detector, photographs, "clean", cache)
    small: list[Observation] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, sample in enumerate(photographs):
            for longest in (224, 384):
                data = shrink(sample.path.read_bytes(), longest)
                if data is not None:
                    path = Path(folder) / f"{number}-{longest}.jpg"
                    path.write_bytes(data)
                    small += detector.observe([data])
    return fit_percentiles([*own, *small])
