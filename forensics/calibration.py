"""The calibration file: percentiles of real photographs and the weights of the signals.

Everything fitted from data lives in this JSON file, the token head in the same folder and the policy
(:mod:`.policy`); the code has no figure of its own to tune.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import Float64Array
from .signals import FORENSIC, ROWS, TERMS, check_table
from .token_head import TokenHead, load_token_head

SCHEMA = "veridict-calibration/3"
#: The head's file, in the folder of the calibration file.
HEAD_FILE = "token_head.safetensors"
#: How far a term's value counts, in its scales: a single extreme value decides nothing.
CLIP_AT = 4.0
#: The kinds of image that every calibration has: close-ups of a face, close-ups of a face that the face CNN suspects,
#: and images of a category that ``kinds`` does not list.
CLOSE_UP, SUSPECT, OTHER = KINDS = ("close-up", "suspect close-up", "other")
#: The three sets of weights: the two kinds of close-up have their own, every other image has ``general``.
GENERAL = "general"
REGIMES = (GENERAL, "close_up", "suspect")


def regime_name(kind: str) -> str:
    """Return the name of the regime that weighs a kind of image."""
    return {CLOSE_UP: "close_up", SUSPECT: "suspect"}.get(kind, GENERAL)


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
    def _curves(self) -> list[tuple[Float64Array, Float64Array]]:
        """Return quantiles and their shares (0..100) per size class, as arrays made once."""
        return [(np.array(row), np.linspace(0.0, 100.0, len(row))) for row in self.values]


@dataclass(frozen=True)
class Term:
    """One term of the logit: offset + slope x (value - center) / scale; an absent signal contributes nothing.

    The slope is ``weight`` from the center upwards and ``weight_below`` below it. A face that looks generated is strong
    evidence; a face that looks real is weak evidence, since the face CNN does not know most generators. ``offset`` is
    the contribution of the signal's presence: in the regime of suspect faces, that there is such a face.
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
    """How the terms are weighed.

    There are three regimes: close-ups of a face that the face CNN suspects, other close-ups, and all other images. A
    swapped face in a real frame looks real to CLIP, so in close-ups CLIP must not outvote the face CNN.
    """

    bias: float
    terms: dict[str, Term]

    def weigh(self, values: Mapping[str, float], forensic_cap: float) -> dict[str, float]:
        """Return the contribution of every term that has a value, in logits; with the bias they sum to the logit.

        Forensic contributions (ELA, blur, noise) are scaled down together when their sum exceeds ``forensic_cap``
        logits, so that they never convict (or acquit) alone.
        """
        parts = {name: term.contribution(values[name]) for name, term in self.terms.items() if name in values}
        forensic = sum(part for name, part in parts.items() if name in FORENSIC)
        shrink = min(1.0, forensic_cap / abs(forensic)) if forensic else 1.0
        return {name: part * (shrink if name in FORENSIC else 1.0) for name, part in parts.items()}


@dataclass(frozen=True)
class Calibration:
    """A parsed calibration file and its token head; ``version`` is the start of the sha256 of both.

    ``family``: the CLIP that head and terms were fitted on. ``low`` and ``high``: the percentiles below and above which
    a forensic signal reads low or high. ``kinds`` maps image categories to kinds of image; close-ups are kinds of their
    own. ``regimes``: by the names of :data:`REGIMES`.
    """

    version: str
    family: str
    percentiles: dict[str, Percentiles]
    low: float
    high: float
    regimes: Mapping[str, Regime]
    close_up_share: float
    suspect_logit: float
    kinds: dict[str, str]
    clip_temperature: float
    head: TokenHead | None
    source: dict[str, Any]

    def kind(self, face_share: float, face_logit: float, category: str) -> str:
        """Return the kind of image.

        ``face_share`` is the length of the largest face over the image's shorter side (0 = no face), ``face_logit``
        the highest logit of its faces.
        """
        if face_share >= self.close_up_share:
            return SUSPECT if face_logit >= self.suspect_logit else CLOSE_UP
        return self.kinds.get(category, OTHER)

    def regime(self, kind: str) -> Regime:
        """Return the weights for a kind of image."""
        return self.regimes[regime_name(kind)]


def load_calibration(path: Path) -> Calibration:
    """Read and check a calibration file and the token head in the same folder.

    Raises:
        ValueError: a file is malformed, the head is not the one that the file was fitted with, or the file does not
            match the table of signals.
    """
    data = path.read_bytes()
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        head, digest = _load_head(path.with_name(HEAD_FILE), document["clip"]["head_sha256"])
        fusion = document["fusion"]
        calibration = Calibration(
            version=hashlib.sha256(data + digest.encode()).hexdigest()[:12],
            family=str(document["clip"]["family"]),
            percentiles={
                str(name): Percentiles(_floats(p["edges"]), tuple(_floats(row) for row in p["values"]))
                for name, p in document["percentiles"].items()
            },
            low=float(document["readings"]["low"]),
            high=float(document["readings"]["high"]),
            regimes={str(name): _regime(regime) for name, regime in fusion["regimes"].items()},
            close_up_share=float(fusion["close_up_share"]),
            suspect_logit=float(fusion["suspect_logit"]),
            kinds={str(category): str(kind) for category, kind in document["kinds"].items()},
            clip_temperature=float(document["clip"]["temperature"]),
            head=head,
            source=document["source"],
        )
        check_calibration(calibration)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no {SCHEMA} file: {error}") from error
    return calibration


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _load_head(path: Path, expected: str | None) -> tuple[TokenHead | None, str]:
    if expected is None:
        return None, ""
    if not path.exists():
        raise ValueError(f"{path.name} is missing in the same folder")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise ValueError(f"{path.name} is not the head that the calibration was fitted with")
    return load_token_head(path), digest


def _term(document: dict[str, Any]) -> Term:
    if unknown := set(document) - {field.name for field in fields(Term)}:
        raise ValueError(f"a term has the unknown entry {sorted(unknown)[0]!r}")
    below = document.get("weight_below")
    weight, center, scale = (float(document[name]) for name in ("weight", "center", "scale"))
    offset = float(document.get("offset", 0.0))
    return Term(weight, center, scale, None if below is None else float(below), offset)


def _regime(document: dict[str, Any]) -> Regime:
    return Regime(float(document["bias"]), {name: _term(term) for name, term in document["terms"].items()})


def check_calibration(calibration: Calibration) -> None:
    """Check a calibration against the table of signals: what is accepted here works on every image.

    Raises:
        ValueError: an entry is missing, unknown or out of range; the message names it.
    """
    check_table()
    if differing := set(FORENSIC) ^ set(calibration.percentiles):
        name = sorted(differing)[0]
        why = "no percentiles of the signal" if name in FORENSIC else "percentiles of an unknown signal:"
        raise ValueError(f"{why} {name!r}: run veridict calibrate")
    for name, percentiles in calibration.percentiles.items():
        _check_percentiles(name, percentiles)
    if not 0.0 <= calibration.low <= calibration.high <= 100.0:
        raise ValueError("readings need 0 <= low <= high <= 100")
    if not calibration.clip_temperature > 0.0:
        raise ValueError("the temperature of CLIP's softmax must be positive")
    if set(calibration.regimes) != set(REGIMES):
        raise ValueError(f"the regimes must be {', '.join(REGIMES)}, not {sorted(calibration.regimes)}")
    for regime in calibration.regimes.values():
        if unknown := set(regime.terms) - set(TERMS):
            raise ValueError(f"unknown term {sorted(unknown)[0]!r}")
        if calibration.head is None and any(ROWS[name].head == "token_head" for name in regime.terms):
            raise ValueError("the term 'tokens' needs a head")
        numbers = [regime.bias, *(value for term in regime.terms.values() for value in vars(term).values())]
        if not np.isfinite([value for value in numbers if value is not None]).all():
            raise ValueError("every weight, center, scale and bias must be finite")
        if any(not term.scale > 0 for term in regime.terms.values()):
            raise ValueError("every term needs a positive scale")


def _check_percentiles(name: str, percentiles: Percentiles) -> None:
    rows = percentiles.values
    if len(rows) != len(percentiles.edges) + 1 or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        raise ValueError(f"percentiles of {name} need one row of quantiles per size class")
    if list(percentiles.edges) != sorted(percentiles.edges) or any(list(row) != sorted(row) for row in rows):
        raise ValueError(f"percentiles of {name} must not fall")
    if not all(np.isfinite(row).all() for row in rows):
        raise ValueError(f"percentiles of {name} must be finite")
