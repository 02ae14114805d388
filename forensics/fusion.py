"""Fusion: forensic signals, CLIP and face scores -> one calibrated probability, with the evidence that sums to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from .arrays import Float64Array
from .calibration import Calibration, Regime
from .contract import (
    Category,
    ClipPrediction,
    Evidence,
    Face,
    KnownContent,
    Provenance,
    Reading,
    Signal,
    Stability,
    Verdict,
)
from .doubts import Judged, list_doubts
from .judgement import Judgement, PromptBank
from .known_content.ruling import rule_known, word_matches
from .logits import sigmoid
from .observation import BoxTuple, Measurement, Observation
from .policy import Policy
from .provenance.ruling import rule
from .sentences import describe, explain
from .signals import FORENSIC, measure_signals

#: The clause of a signal that the policy leaves out.
NOT_COUNTED = "does not count under this policy"


@dataclass(frozen=True)
class Values:
    """The signals of one observation as numbers, from which every step of fusion is computed.

    ``terms``: the value of every signal that the observation has, by name; forensic signals as percentiles in -1..1,
    the others in logits. ``zero_shot`` [2 + categories]: CLIP's logits. ``label``: the category. ``kind``: the kind of
    image. ``unusual``: the distance of the class tokens from the training images' (1 on average), None without a token
    head.
    """

    terms: Mapping[str, float]
    signals: Mapping[str, Signal]
    zero_shot: Float64Array
    label: str
    kind: str
    unusual: float | None


def face_share(boxes: Sequence[BoxTuple], width: int, height: int) -> float:
    """Return the longer side of the largest face over the shorter side of the image; 0 without a face."""
    return max((max(w, h) for _, _, w, h in boxes), default=0) / min(width, height)


def softmax(logits: Float64Array) -> Float64Array:
    """Return probabilities that sum to 1, same shape as the logits [K]."""
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum(), dtype=np.float64)


def read_signal(name: str, measurement: Measurement, longest_side: int, calibration: Calibration) -> Signal:
    """Place one measurement among real photographs: its percentile, and low or high beyond the calibrated ones."""
    if measurement.value is None:
        return Signal(None, None, "", applicable=False, why_not=measurement.why_not)
    percentile = calibration.percentiles[name].percentile(measurement.value, longest_side)
    reading: Reading = "normal"
    if percentile < calibration.low:
        reading = "low"
    elif percentile > calibration.high:
        reading = "high"
    return Signal(measurement.value, percentile, reading, applicable=True)


def compute_values(observation: Observation, bank: PromptBank, calibration: Calibration) -> Values:
    """Return the signals of one observation as numbers.

    Raises:
        ValueError: the observation has no scores of the networks, or one that is no finite number.
    """
    if observation.embedding is None:
        raise ValueError("the observation has no embedding")
    scores = (observation.embedding, observation.class_tokens, observation.face_logits)
    if not all(np.isfinite(values).all() for values in scores if values is not None):
        raise ValueError("a network's score is no finite number")
    image = observation.image
    zero_shot = bank.similarities(observation.embedding)
    head_score = unusual = None
    if calibration.head is not None and observation.class_tokens is not None:
        head_score, unusual = calibration.head.read(observation.class_tokens)
    inputs: dict[str, Any] = {
        "zero_shot": zero_shot,
        "head_score": head_score,
        "face_logits": observation.face_logits or None,
    }
    terms = {name: m.value for name, m in measure_signals(inputs).items() if m.value is not None}
    signals = {
        name: read_signal(name, m, max(image.width, image.height), calibration)
        for name, m in observation.measurements.items()
    }
    for name in FORENSIC:
        percentile = signals[name].percentile if name in signals else None
        if percentile is not None:
            terms[name] = percentile / 50.0 - 1.0
    label = bank.labels[int(zero_shot[2:].argmax())]
    share = face_share(observation.boxes, image.width, image.height)
    kind = calibration.kind(share, max(observation.face_logits, default=-math.inf), label)
    return Values(terms, signals, zero_shot, label, kind, unusual)


def list_evidence(
    terms: Mapping[str, float],
    signals: Mapping[str, Signal],
    regime: Regime,
    forensic_cap: float,
    faces: Sequence[Face] = (),
    ignored: frozenset[str] = frozenset(),
) -> list[Evidence]:
    """Return the evidence: one term per signal that has a weight, and the prior; contributions sum to the logit.

    Signals that are ``ignored`` are listed with the weight 0.
    """
    evidence = [Evidence("prior", None, None, 1.0, regime.bias, "what is known before looking")]
    counted = regime.weigh({name: value for name, value in terms.items() if name not in ignored}, forensic_cap)
    for name, term in regime.terms.items():
        if name not in terms:
            continue
        signal = signals.get(name)
        if name in ignored:
            value = signal.value if signal else terms[name]
            evidence.append(Evidence(name, value, signal.percentile if signal else None, 0.0, 0.0, NOT_COUNTED))
            continue
        contribution, uncapped = counted[name], term.contribution(terms[name])
        evidence.append(
            Evidence(
                signal=name,
                value=signal.value if signal else terms[name],
                percentile=signal.percentile if signal else None,
                weight=term.slope(terms[name]) * (contribution / uncapped if uncapped else 1.0),
                contribution=contribution,
                text=describe(name, contribution, signal, faces),
            )
        )
    return evidence


def replay(evidence: Sequence[Evidence]) -> float:
    """Return the fake probability that an evidence list stands for."""
    return sigmoid(math.fsum(item.contribution for item in evidence))


@dataclass(frozen=True)
class Conclusion:
    """What follows from the pixels' evidence together with the file's provenance and with known pictures."""

    verdict: Literal["real", "deepfake"]
    probability: float
    evidence: tuple[Evidence, ...]
    doubts: tuple[str, ...]
    explanation: str
    provenance: Provenance
    known: KnownContent | None


def conclude(
    observation: Observation,
    values: Values,
    pixels: Sequence[Evidence],
    faces: Sequence[Face],
    policy: Policy,
    known: KnownContent | None,
    stability: Stability | None = None,
) -> Conclusion:
    """Return the verdict, and why, from the evidence of the ``pixels`` (:func:`list_evidence`)."""
    evidence, threshold = list(pixels), policy.decide(values.kind).threshold
    probability = replay(evidence)
    verdict: Literal["real", "deepfake"] = "deepfake" if probability >= threshold else "real"
    by_pixels = verdict
    ruling = rule(observation.provenance, policy.provenance, threshold)
    known_ruling = rule_known(known, policy.known_content)
    if ruling is not None and known_ruling is not None and known_ruling.verdict == "real":
        known_ruling = None  # a bank acquits no file that says of itself that AI made it
    flips = stability.flips if stability is not None else ()
    judged = Judged(observation, values, verdict, probability, faces, policy, ruling, known, known_ruling, flips)
    doubts = list_doubts(judged)
    if ruling is not None:
        evidence.append(ruling.to_evidence(math.fsum(item.contribution for item in evidence)))
        probability, verdict = replay(evidence), "deepfake"
    if known_ruling is not None:
        evidence.append(known_ruling.to_evidence(math.fsum(item.contribution for item in evidence)))
        probability, verdict = replay(evidence), known_ruling.verdict
    return Conclusion(
        verdict,
        probability,
        tuple(evidence),
        doubts,
        explain(verdict, evidence, doubts, faces, by_pixels, word_matches(known)),
        replace(observation.provenance, decides=ruling is not None),
        replace(known, decides=known_ruling is not None) if known else None,
    )


def weigh_pixels(
    observation: Observation, judgement: Judgement
) -> tuple[Values, tuple[Face, ...], list[Evidence], float]:
    """Return the values of an observation, its faces, the evidence of its pixels, and the threshold that holds.

    Raises:
        ValueError: the observation has no scores of the networks, or one that is no finite number.
    """
    values = compute_values(observation, judgement.bank, judgement.calibration)
    regime, decision = judgement.calibration.regime(values.kind), judgement.policy.decide(values.kind)
    faces = tuple(
        Face(box, sigmoid(logit)) for box, logit in zip(observation.boxes, observation.face_logits, strict=True)
    )
    cap, ignored = decision.forensic_cap, judgement.ignored
    return values, faces, list_evidence(values.terms, values.signals, regime, cap, faces, ignored), decision.threshold


def measure_stability(observation: Observation, judgement: Judgement, deepfake: bool) -> Stability | None:
    """Return what the pixels of the re-encodings give, where they were scored; ``deepfake``: what the image's gave."""
    probabilities, flips = {}, []
    for name, altered in observation.alterations().items():
        _, _, evidence, threshold = weigh_pixels(altered, judgement)
        probabilities[name] = replay(evidence)
        if (probabilities[name] >= threshold) != deepfake:
            flips.append(name)
    return Stability(probabilities, tuple(flips)) if probabilities else None


def fuse(
    observation: Observation, judgement: Judgement, request_id: str = "", known: KnownContent | None = None
) -> Verdict:
    """Return the verdict on one observed image; a pure function of its arguments.

    ``known``: what the banks of known pictures say; None where none was searched.

    Raises:
        ValueError: the observation has no scores of the networks, or one that is no finite number.
    """
    values, faces, evidence, threshold = weigh_pixels(observation, judgement)
    stability = measure_stability(observation, judgement, replay(evidence) >= threshold)
    if known is None and observation.pdq:
        known = KnownContent(observation.pdq, observation.pdq_quality)
    conclusion = conclude(observation, values, evidence, faces, judgement.policy, known, stability)
    shares = softmax(values.zero_shot[2:])
    pair = softmax(values.zero_shot[:2] / judgement.calibration.clip_temperature)
    return Verdict(
        request_id=request_id,
        image=observation.image,
        verdict=conclusion.verdict,
        fake_probability=conclusion.probability,
        confidence="low" if conclusion.doubts else "high",
        category=Category(values.label, dict(zip(judgement.bank.labels, shares.tolist(), strict=True))),
        clip=ClipPrediction(real=float(pair[0]), deepfake=float(pair[1])),
        faces=faces,
        forensics=dict(values.signals),
        explanation=conclusion.explanation,
        evidence=conclusion.evidence,
        models=judgement.models,
        timings_ms=dict(observation.timings_ms),
        threshold=threshold,
        doubts=conclusion.doubts,
        faces_found=max(observation.faces_found, len(faces)),
        provenance=conclusion.provenance,
        known_content=conclusion.known,
        policy=judgement.name,
        stability=stability,
    )
