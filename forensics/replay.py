"""Replay: recomputes a stored answer from its own evidence and from the files that judged it.

An answer holds every value that fusion weighed. With the calibration file and the policy file that its ``models`` name,
readings, weights, contributions, probability, verdict, doubts and sentence follow from these values, in the same
floating-point operations as in the service. Replay computes them again and lists every field that differs.

What an answer does not hold cannot be recomputed, and is taken as the answer says: the networks' outputs, the standard
deviation of the luma (doubt ``little_to_see``) and the distance of the class tokens (doubt ``unusual_picture``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from .calibration import Calibration
from .contract import Signal, Verdict
from .doubts import Judged, list_doubts
from .fusion import Values, face_share, list_evidence, read_signal, replay, sigmoid
from .observation import Measurement, Observation
from .policy import Policy
from .sentences import explain
from .signals import FORENSIC, ROWS

#: Relative error of a logit that was read back from a probability (float64, and numpy's softmax has its own rounding).
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Difference:
    """One field of an answer that is not what replay computes from the answer's values."""

    field: str
    stated: Any
    computed: Any

    def __str__(self) -> str:
        """Return the difference in words."""
        return f"{self.field}: the answer says {self.stated!r}, replay computes {self.computed!r}"


def replay_verdict(verdict: Verdict, calibration: Calibration, policy: Policy) -> list[Difference]:
    """Return every difference between an answer and what its own values give; none means that it is sound.

    Raises:
        ValueError: the answer was judged by another calibration or policy, or does not say by which.
    """
    for name, stated, present in (
        ("calibration", verdict.models.calibration, calibration.version),
        ("policy", verdict.models.policy, policy.version),
    ):
        if not stated:
            raise ValueError(f"the answer does not say which {name} judged it")
        if stated != present:
            raise ValueError(f"the answer was judged by {name} {stated}, this repository has {present}")
    return [
        Difference(name, stated, computed)
        for name, stated, computed in _compare(verdict, calibration, policy)
        if stated != computed
    ]


def _compare(verdict: Verdict, calibration: Calibration, policy: Policy) -> Iterator[tuple[str, Any, Any]]:
    """Yield (field, value in the answer, value computed) for everything that can be computed."""
    image, faces = verdict.image, verdict.faces
    signals: dict[str, Signal] = {}
    for name, stated in verdict.forensics.items():
        if name in calibration.percentiles:
            measurement = Measurement(stated.value, stated.why_not)
            signals[name] = read_signal(name, measurement, max(image.width, image.height), calibration)
        yield f"forensics.{name}", stated, signals.get(name)
    stated_values = {item.signal: item.value for item in verdict.evidence if item.signal not in (*FORENSIC, "prior")}
    terms = {name: value for name, value in stated_values.items() if value is not None and name in ROWS}
    if "clip" in terms:
        deepfake = sigmoid(terms["clip"] / calibration.clip_temperature)
        yield "clip.deepfake", verdict.clip.deepfake, _same(verdict.clip.deepfake, deepfake)
    if "face" in terms and faces:
        yield "evidence.face.value", max(face.fake_probability for face in faces), sigmoid(terms["face"])
    label = max(verdict.category.scores, key=lambda name: verdict.category.scores[name], default="")
    yield "category.label", verdict.category.label, label
    face_logit = terms.get("face", max((_logit(face.fake_probability) for face in faces), default=-math.inf))
    kind = calibration.kind(face_share([f.box for f in faces], image.width, image.height), face_logit, label)
    regime, decision = calibration.regime(kind), policy.decide(kind)

    for name in FORENSIC:
        percentile = signals[name].percentile if name in signals else None
        if percentile is not None:
            terms[name] = percentile / 50.0 - 1.0
    expected = {"clip", *(["tokens"] if calibration.head else []), *(["face"] if faces else [])} | terms.keys()
    yield (
        "evidence",
        [item.signal for item in verdict.evidence],
        ["prior", *(name for name in regime.terms if name in expected)],
    )
    evidence = list_evidence(terms, signals, regime, decision.forensic_cap, faces)
    by_name = {item.signal: item for item in evidence}
    for item in verdict.evidence:
        computed = by_name.get(item.signal)
        for field in fields(item) if computed else ():
            yield f"evidence.{item.signal}.{field.name}", getattr(item, field.name), getattr(computed, field.name)

    probability = replay(evidence)
    yield "fake_probability", verdict.fake_probability, probability
    yield "threshold", verdict.threshold, decision.threshold
    called: Literal["real", "deepfake"] = "deepfake" if probability >= decision.threshold else "real"
    yield "verdict", verdict.verdict, called
    observation = Observation(image, {}, tone=0.0 if "little_to_see" in verdict.doubts else math.inf)
    unusual = math.inf if "unusual_picture" in verdict.doubts else None
    values = Values(terms, signals, np.zeros(0), label, kind, unusual)
    doubts = list_doubts(Judged(observation, values, called, probability, faces, policy))
    yield "doubts", verdict.doubts, doubts
    yield "confidence", verdict.confidence, "low" if doubts else "high"
    yield "explanation", verdict.explanation, explain(called, evidence, doubts, faces)


def _same(stated: float, computed: float) -> float:
    """Return ``stated`` where ``computed`` differs from it by rounding only."""
    return stated if math.isclose(stated, computed, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) else computed


def _logit(probability: float) -> float:
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1.0 - probability))
