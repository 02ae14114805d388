"""The documents ``calibration.json`` and ``policy.json``, put together from what was fitted."""

from __future__ import annotations

from typing import Any

from veridict.forensics.calibration import REGIMES, SCHEMA, Calibration, Percentiles, Regime
from veridict.forensics.policy import LittleToSee, Policy, to_document

from ..prompts import read_prompts
from .fitting import CLOSE_UP_SHARE, SUSPECT_LOGIT, Fusion

READINGS = {"low": 10.0, "high": 90.0}
#: The calibration lists the images it was fitted on by this many leading hexadecimal digits of their sha256.
FITTED_DIGITS = 10
#: A face of this fake probability contradicts the verdict "real".
FACE_ALARM = 0.9
#: Below these sizes and contrasts a person sees nothing either. Fixed, not fitted.
LITTLE_TO_SEE = LittleToSee(side=48, aspect=8.0, tone=4.0)
#: Image category -> kind of image, where it is not a photograph. Confidence is measured per kind.
_OTHER_KINDS = {"artwork": "artwork", "document": "document", "screenshot": "document"}


def build_calibration(
    fusion: Fusion,
    percentiles: dict[str, Percentiles],
    family: str,
    head_sha256: str,
    temperature: float,
    source: dict[str, Any],
) -> dict[str, Any]:
    """Return the calibration document."""
    regimes = {
        name: {"bias": regime.bias, "terms": {term: vars(values) for term, values in regime.terms.items()}}
        for name, regime in fusion.regimes.items()
    }
    return {
        "schema": SCHEMA,
        "percentiles": {
            name: {"edges": list(p.edges), "values": [[round(v, 4) for v in row] for row in p.values]}
            for name, p in percentiles.items()
        },
        "readings": READINGS,
        "fusion": {"regimes": regimes, "close_up_share": CLOSE_UP_SHARE, "suspect_logit": SUSPECT_LOGIT},
        "kinds": dict(kind_of_category()),
        "clip": {"family": family, "temperature": temperature, "head_sha256": head_sha256},
        "source": source,
    }


def build_policy(
    fusion: Fusion, bands: dict[str, tuple[float, float]], unusual: float, undecided_face: float
) -> dict[str, Any]:
    """Return the policy document: thresholds and caps, and when an answer is of low confidence."""
    return to_document(Policy("", fusion.decisions, bands, FACE_ALARM, unusual, LITTLE_TO_SEE, undecided_face))


def kind_of_category() -> dict[str, str]:
    """Return the kind of image by category: photograph, artwork or document."""
    return {category: _OTHER_KINDS.get(category, "photograph") for category in read_prompts().categories}


def blank_calibration(percentiles: dict[str, Percentiles]) -> Calibration:
    """Return a calibration without any weights: it gives percentiles and kinds before anything is fitted."""
    return Calibration(
        version="",
        family="",
        percentiles=percentiles,
        low=READINGS["low"],
        high=READINGS["high"],
        regimes=dict.fromkeys(REGIMES, Regime(0.0, {})),
        close_up_share=CLOSE_UP_SHARE,
        suspect_logit=SUSPECT_LOGIT,
        kinds=kind_of_category(),
        clip_temperature=1.0,
        head=None,
        source={},
    )
