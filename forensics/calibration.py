"""The calibration file: percentiles of real photographs, fusion weights, threshold and uncertain band.

Everything fitted from data lives in this one JSON file; the code has no figure of its own to tune.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = "veridict-calibration/1"
FORENSIC = ("ela", "blur", "noise")


@dataclass(frozen=True)
class Percentiles:
    """Quantiles of one signal over real photographs, per size class of the image.

    ``edges`` [K] are longest sides in pixels that separate K+1 size classes; ``values`` [K+1, Q] are the signal's
    quantiles at Q evenly spaced probabilities from 0 to 1.
    """

    edges: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def percentile(self, value: float, longest_side: int) -> float:
        """Return the share (0..100) of real photographs of like size whose value is below ``value``."""
        row = self.values[int(np.searchsorted(self.edges, longest_side, side="right"))]
        return float(np.interp(value, row, np.linspace(0.0, 100.0, len(row))))


@dataclass(frozen=True)
class Term:
    """One term of the logit: contribution = weight x (value - center) / scale."""

    weight: float
    center: float
    scale: float

    def contribution(self, value: float) -> float:
        """Return what ``value`` adds to the logit; values beyond 4 scales count as 4."""
        return self.weight * max(-4.0, min(4.0, (value - self.center) / self.scale))


@dataclass(frozen=True)
class Calibration:
    """A parsed calibration file; ``version`` is the start of its sha256."""

    version: str
    percentiles: dict[str, Percentiles]
    low: float
    high: float
    bias: float
    terms: dict[str, Term]
    forensic_cap: float
    threshold: float
    band: tuple[float, float]
    clip_temperature: float
    clip_head: tuple[float, ...]
    clip_head_bias: float
    source: dict[str, Any]


def load_calibration(path: Path) -> Calibration:
    """Read and check a calibration file.

    Raises:
        ValueError: the file is malformed, or forensic evidence alone could convict.
    """
    data = path.read_bytes()
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        calibration = Calibration(
            version=hashlib.sha256(data).hexdigest()[:12],
            percentiles={
                name: Percentiles(tuple(p["edges"]), tuple(tuple(row) for row in p["values"]))
                for name, p in document["percentiles"].items()
            },
            low=float(document["readings"]["low"]),
            high=float(document["readings"]["high"]),
            bias=float(document["fusion"]["bias"]),
            terms={name: Term(**term) for name, term in document["fusion"]["terms"].items()},
            forensic_cap=float(document["fusion"]["forensic_cap"]),
            threshold=float(document["threshold"]),
            band=(float(document["band"][0]), float(document["band"][1])),
            clip_temperature=float(document["clip"]["temperature"]),
            clip_head=tuple(document["clip"]["head"]),
            clip_head_bias=float(document["clip"]["head_bias"]),
            source=document["source"],
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} is no {SCHEMA} file: {error}") from error
    _check(calibration, path)
    return calibration


def _check(calibration: Calibration, path: Path) -> None:
    if not 0.0 < calibration.threshold < 1.0:
        raise ValueError(f"{path}: the threshold must lie inside (0, 1)")
    if not calibration.band[0] <= calibration.threshold <= calibration.band[1]:
        raise ValueError(f"{path}: the uncertain band must contain the threshold")
    if any(len(p.values) != len(p.edges) + 1 for p in calibration.percentiles.values()):
        raise ValueError(f"{path}: percentiles need one row per size class")
    if any(term.scale <= 0 for term in calibration.terms.values()):
        raise ValueError(f"{path}: every term needs a positive scale")
    needed = math.log(calibration.threshold / (1.0 - calibration.threshold)) - calibration.bias
    if calibration.forensic_cap < 0 or calibration.forensic_cap >= needed:
        raise ValueError(f"{path}: forensic evidence alone could convict (cap {calibration.forensic_cap}, {needed=})")
