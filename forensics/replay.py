"""Replay: recomputes a stored answer from its own evidence and from the files that judged it.

An answer holds every value that fusion weighed. With the calibration file and the policy file that its ``models`` name,
readings, weights, contributions, probability, verdict, doubts and sentence follow from these values, in the same
floating-point operations as in the service. Replay computes them again and lists every field that differs.

What an answer does not hold cannot be recomputed, and is taken as the answer says: the networks' outputs, the standard
deviation of the luma (doubt ``little_to_see``), the distance of the class tokens (doubt ``unusual_picture``), what the
file says of itself, what the banks of known pictures hold, custom labels, and what shadows say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .calibration import Calibration
from .contract import UNCHECKED, Signal, Verdict
from .fusion import Values, conclude, face_share, list_evidence, read_signal
from .logits import sigmoid, to_logit
from .observation import Measurement, Observation
from .policy import Policy
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


def replay_verdict(
    verdict: Verdict, calibration: Calibration, policy: Policy, ignored: frozenset[str] = frozenset()
) -> list[Difference]:
    """Return every difference between an answer and what its own values give; none means that it is sound.

    ``ignored``: the signals that do not count under the policy.

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
        for name, stated, computed in _compare(verdict, calibration, policy, ignored)
        if stated != computed
    ]


def _compare(
    verdict: Verdict, calibration: Calibration, policy: Policy, ignored: frozenset[str]
) -> Iterator[tuple[str, Any, Any]]:
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
    face_logit = terms.get("face", max((to_logit(face.fake_probability) for face in faces), default=-math.inf))
    kind = calibration.kind(face_share([f.box for f in faces], image.width, image.height), face_logit, label)
    regime, decision = calibration.regime(kind), policy.decide(kind)

    for name in FORENSIC:
        percentile = signals[name].percentile if name in signals else None
        if percentile is not None:
            terms[name] = percentile / 50.0 - 1.0
    expected = {"clip", *(["tokens"] if calibration.head else []), *(["face"] if faces else [])} | terms.keys()
    pixels = list_evidence(terms, signals, regime, decision.forensic_cap, faces, ignored)
    provenance = verdict.provenance or UNCHECKED
    tone = 0.0 if "little_to_see" in verdict.doubts else math.inf
    observation = Observation(image, {}, tone=tone, provenance=provenance)
    unusual = math.inf if "unusual_picture" in verdict.doubts else None
    values = Values(terms, signals, np.zeros(0), label, kind, unusual)
    conclusion = conclude(observation, values, pixels, faces, policy, verdict.known_content, verdict.stability)
    beyond_pixels = [item.signal for item in conclusion.evidence[len(pixels) :]]
    yield (
        "evidence",
        [item.signal for item in verdict.evidence],
        ["prior", *(name for name in regime.terms if name in expected), *beyond_pixels],
    )
    by_name = {item.signal: item for item in conclusion.evidence}
    for item in verdict.evidence:
        computed = by_name.get(item.signal)
        for field in fields(item) if computed else ():
            yield f"evidence.{item.signal}.{field.name}", getattr(item, field.name), getattr(computed, field.name)

    yield "fake_probability", verdict.fake_probability, conclusion.probability
    yield "threshold", verdict.threshold, decision.threshold
    yield "verdict", verdict.verdict, conclusion.verdict
    yield "doubts", verdict.doubts, conclusion.doubts
    yield "confidence", verdict.confidence, "low" if conclusion.doubts else "high"
    yield "explanation", verdict.explanation, conclusion.explanation
    yield "provenance", provenance, conclusion.provenance
    yield "known_content", verdict.known_content, conclusion.known


def _same(stated: float, computed: float) -> float:
    """Return ``stated`` where ``computed`` differs from it by rounding only."""
    return stated if math.isclose(stated, computed, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) else computed
