"""The calibration file: percentiles of real photographs, fusion weights, thresholds and uncertain bands.

Everything fitted from data lives in this one JSON file and the token head beside it; the code has no figure of its own
to tune.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .token_head import TokenHead, load_token_head

SCHEMA = "veridict-calibration/2"
FORENSIC = ("ela", "blur", "noise")
#: Every term that a regime may weigh: the zero-shot margin, the head on class tokens, the most suspicious face,
#: forensics.
TERMS = ("clip", "tokens", "face", *FORENSIC)
#: The terms that mean nothing on another CLIP than the one they were fitted on.
CLIP_TERMS = ("clip", "tokens")
#: The head's file, in the folder of the calibration file.
HEAD_FILE = "token_head.safetensors"
#: How far a term's value counts, in its scales: a single wild value decides nothing.
CLIP_AT = 4.0


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
    """One term of the logit: offset + slope x (value - center) / scale; an absent one contributes nothing.

    The slope is ``weight``, and ``weight_below`` below the center: a face that looks generated says much, one that does
    not says little, since most generated pictures were made by what the face CNN does not know. ``offset`` is what its
    presence alone says: that a face is suspect, in the regime of suspect faces.
    """

    weight: float
    center: float
    scale: float
    weight_below: float | None = None
    offset: float = 0.0

    def slope(self, value: float) -> float:
        """Return the weight that holds for ``value``."""
        return self.weight if value >= self.center or self.weight_below is None else self.weight_below

    def contribution(self, value: float) -> float:
        """Return what ``value`` adds to the logit; values beyond 4 scales count as 4."""
        return self.offset + self.slope(value) * max(-CLIP_AT, min(CLIP_AT, (value - self.center) / self.scale))


@dataclass(frozen=True)
class Regime:
    """How the terms are weighed, and the probability from which a picture counts as a deepfake.

    Three are weighed apart: close-ups of a face that the face CNN suspects, other close-ups, and all other pictures. A
    swapped face in a real frame looks real to CLIP, so what CLIP says must not outvote the face CNN where that knows
    best. Forensic terms (ELA, blur, noise) together count at most ``forensic_cap`` logits.
    """

    bias: float
    terms: dict[str, Term]
    forensic_cap: float
    threshold: float

    def weigh(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the contribution of every term that has a value, in logits; with the bias they sum to the logit.

        Forensic contributions are scaled down together when their sum exceeds the cap, so that they never convict (or
        acquit) alone.
        """
        parts = {name: term.contribution(values[name]) for name, term in self.terms.items() if name in values}
        forensic = sum(part for name, part in parts.items() if name in FORENSIC)
        shrink = min(1.0, self.forensic_cap / abs(forensic)) if forensic else 1.0
        return {name: part * (shrink if name in FORENSIC else 1.0) for name, part in parts.items()}


@dataclass(frozen=True)
class Doubt:
    """When an answer is of low confidence.

    ``bands`` holds, per kind of picture, the probabilities between which verdicts on unseen sources were wrong too
    often. ``face`` is the probability from which a face called fake contradicts a verdict of real; ``unusual`` the
    distance of the class tokens from those of the training pictures (1 on average) from which the head knows nothing of
    the picture.
    """

    bands: dict[str, tuple[float, float]]
    face: float
    unusual: float


@dataclass(frozen=True)
class Calibration:
    """A parsed calibration file and its token head; ``version`` is the start of the sha256 of both.

    ``family`` is the CLIP that head and terms were fitted on. ``kinds`` maps image categories to the kinds of picture
    that confidence is measured by; close-ups are kinds of their own.
    """

    version: str
    family: str
    percentiles: dict[str, Percentiles]
    low: float
    high: float
    close_up: Regime
    suspect: Regime
    general: Regime
    close_up_share: float
    suspect_logit: float
    doubt: Doubt
    kinds: dict[str, str]
    clip_temperature: float
    head: TokenHead | None
    source: dict[str, Any]

    def kind(self, face_share: float, face_logit: float, category: str) -> str:
        """Return the kind of picture that confidence is measured by.

        ``face_share`` is the length of the largest face over the picture's shorter side (0 = no face), ``face_logit``
        the highest of its faces.
        """
        if face_share >= self.close_up_share:
            return SUSPECT if face_logit >= self.suspect_logit else CLOSE_UP
        return self.kinds.get(category, OTHER)

    def regime(self, kind: str) -> Regime:
        """Return the weights for a kind of picture."""
        return {SUSPECT: self.suspect, CLOSE_UP: self.close_up}.get(kind, self.general)


#: The kinds that every calibration has: close-ups of a face, those of a face that the face CNN suspects, and pictures
#: of a category that ``kinds`` does not list.
CLOSE_UP, SUSPECT, OTHER = "close-up", "suspect close-up", "other"


def load_calibration(path: Path) -> Calibration:
    """Read and check a calibration file and the token head beside it.

    Raises:
        ValueError: a file is malformed, the head is not the one it was fitted with, or forensic evidence could convict.
    """
    data = path.read_bytes()
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        head, digest = _load_head(path.with_name(HEAD_FILE), document["clip"]["head_sha256"])
        calibration = Calibration(
            version=hashlib.sha256(data + digest.encode()).hexdigest()[:12],
            family=str(document["clip"]["family"]),
            percentiles={
                name: Percentiles(tuple(p["edges"]), tuple(tuple(row) for row in p["values"]))
                for name, p in document["percentiles"].items()
            },
            low=float(document["readings"]["low"]),
            high=float(document["readings"]["high"]),
            close_up=_regime(document["fusion"]["close_up"]),
            suspect=_regime(document["fusion"]["suspect"]),
            general=_regime(document["fusion"]["general"]),
            close_up_share=float(document["fusion"]["close_up_share"]),
            suspect_logit=float(document["fusion"]["suspect_logit"]),
            doubt=Doubt(
                {kind: (float(low), float(high)) for kind, (low, high) in document["doubt"]["bands"].items()},
                float(document["doubt"]["face"]),
                float(document["doubt"]["unusual"]),
            ),
            kinds={str(k): str(v) for k, v in document["doubt"]["kinds"].items()},
            clip_temperature=float(document["clip"]["temperature"]),
            head=head,
            source=document["source"],
        )
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no {SCHEMA} file: {error}") from error
    _check(calibration, path)
    return calibration


def _load_head(path: Path, expected: str | None) -> tuple[TokenHead | None, str]:
    if expected is None:
        return None, ""
    if not path.exists():
        raise ValueError(f"{path.name} is missing beside it")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise ValueError(f"{path.name} is not the head that it was fitted with")
    return load_token_head(path), digest


def _term(document: dict[str, Any]) -> Term:
    below = document.get("weight_below")
    weight, center, scale = (float(document[name]) for name in ("weight", "center", "scale"))
    offset = float(document.get("offset", 0.0))
    return Term(weight, center, scale, None if below is None else float(below), offset)


def _regime(document: dict[str, Any]) -> Regime:
    terms = {name: _term(term) for name, term in document["terms"].items()}
    return Regime(float(document["bias"]), terms, float(document["forensic_cap"]), float(document["threshold"]))


def _check(calibration: Calibration, path: Path) -> None:
    if missing := set(FORENSIC) - set(calibration.percentiles):
        raise ValueError(f"{path}: no percentiles of {sorted(missing)[0]}")
    for name, percentiles in calibration.percentiles.items():
        rows = percentiles.values
        if len(rows) != len(percentiles.edges) + 1 or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
            raise ValueError(f"{path}: percentiles of {name} need one row of quantiles per size class")
    if missing := {CLOSE_UP, SUSPECT, OTHER, *calibration.kinds.values()} - set(calibration.doubt.bands):
        raise ValueError(f"{path}: no uncertain band for pictures of the kind {sorted(missing)[0]!r}")
    if any(not 0.0 <= low <= high <= 1.0 for low, high in calibration.doubt.bands.values()):
        raise ValueError(f"{path}: an uncertain band must lie inside 0..1")
    for regime in (calibration.close_up, calibration.suspect, calibration.general):
        if unknown := set(regime.terms) - set(TERMS):
            raise ValueError(f"{path}: unknown term {sorted(unknown)[0]!r}")
        if "tokens" in regime.terms and calibration.head is None:
            raise ValueError(f"{path}: the term 'tokens' needs a head")
        if any(not term.scale > 0 for term in regime.terms.values()):
            raise ValueError(f"{path}: every term needs a positive scale")
        if not 0.0 < regime.threshold < 1.0:
            raise ValueError(f"{path}: every threshold must lie inside (0, 1)")
        needed = math.log(regime.threshold / (1.0 - regime.threshold)) - regime.bias
        if not 0 <= regime.forensic_cap < needed:
            raise ValueError(f"{path}: forensic evidence alone could convict (cap {regime.forensic_cap}, {needed=})")
