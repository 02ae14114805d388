"""The calibration file: percentiles of real photographs, fusion weights, threshold and uncertain band.

Everything fitted from data lives in this one JSON file; the code has no figure of its own to tune.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import texture

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
        return float(np.interp(value, *self._curves[bisect_right(self.edges, longest_side)]))

    @cached_property
    def _curves(self) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """Return quantiles and their shares (0..100) per size class: arrays once, not at every look-up."""
        return [(np.array(row), np.linspace(0.0, 100.0, len(row))) for row in self.values]


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
class Regime:
    """How the terms are weighed: close-ups of a face and all other pictures are weighed apart.

    Forensic terms (ELA, blur, noise) together count at most ``forensic_cap`` logits.
    """

    bias: float
    terms: dict[str, Term]
    forensic_cap: float


@dataclass(frozen=True)
class LinearHead:
    """A linear model of one vector: score = weights . vector + bias, in logits."""

    weights: npt.NDArray[np.float64]
    bias: float

    def score(self, vector: npt.NDArray[np.floating[Any]]) -> float:
        """Return the logit of a vector of as many values as there are weights."""
        return float(self.weights @ vector.astype(np.float64)) + self.bias


@dataclass(frozen=True)
class Calibration:
    """A parsed calibration file; ``version`` is the start of its sha256.

    ``clip_head`` scores CLIP embeddings, ``layers_head`` the middle layers of its image tower and ``texture_head``
    texture descriptors; any may be absent.
    """

    version: str
    percentiles: dict[str, Percentiles]
    low: float
    high: float
    close_up: Regime
    general: Regime
    close_up_share: float
    threshold: float
    band: tuple[float, float]
    clip_temperature: float
    clip_head: LinearHead | None
    layers_head: LinearHead | None
    texture_head: LinearHead | None
    source: dict[str, Any]

    def regime(self, face_share: float) -> Regime:
        """Return the weights for a picture whose largest face takes that share of its shorter side (0 = no face)."""
        return self.close_up if face_share >= self.close_up_share else self.general


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
            close_up=_regime(document["fusion"]["close_up"]),
            general=_regime(document["fusion"]["general"]),
            close_up_share=float(document["fusion"]["close_up_share"]),
            threshold=float(document["threshold"]),
            band=(float(document["band"][0]), float(document["band"][1])),
            clip_temperature=float(document["clip"]["temperature"]),
            clip_head=_head(document["clip"]["head"]),
            layers_head=_head(document["clip"].get("layers_head")),
            texture_head=_head(document["texture"]["head"]),
            source=document["source"],
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} is no {SCHEMA} file: {error}") from error
    _check(calibration, path)
    return calibration


def _regime(document: dict[str, Any]) -> Regime:
    terms = {name: Term(**term) for name, term in document["terms"].items()}
    return Regime(float(document["bias"]), terms, float(document["forensic_cap"]))


def _head(document: dict[str, Any] | None) -> LinearHead | None:
    if document is None:
        return None
    return LinearHead(np.array(document["weights"], dtype=np.float64), float(document["bias"]))


def _check(calibration: Calibration, path: Path) -> None:
    if not 0.0 < calibration.threshold < 1.0:
        raise ValueError(f"{path}: the threshold must lie inside (0, 1)")
    if not calibration.band[0] <= calibration.threshold <= calibration.band[1]:
        raise ValueError(f"{path}: the uncertain band must contain the threshold")
    if any(len(p.values) != len(p.edges) + 1 for p in calibration.percentiles.values()):
        raise ValueError(f"{path}: percentiles need one row per size class")
    head = calibration.texture_head
    if head is not None and head.weights.size != texture.SIZE:
        raise ValueError(f"{path}: the texture head needs {texture.SIZE} weights, not {head.weights.size}")
    for regime in (calibration.close_up, calibration.general):
        if any(term.scale <= 0 for term in regime.terms.values()):
            raise ValueError(f"{path}: every term needs a positive scale")
        needed = math.log(calibration.threshold / (1.0 - calibration.threshold)) - regime.bias
        if not 0 <= regime.forensic_cap < needed:
            raise ValueError(f"{path}: forensic evidence alone could convict (cap {regime.forensic_cap}, {needed=})")
