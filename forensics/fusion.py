"""Fusion: forensic signals, CLIP and face scores -> one calibrated probability, with the evidence that sums to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .arrays import Float32Array, Float64Array
from .calibration import Calibration, Regime
from .contract import Category, ClipPrediction, Evidence, Face, ModelVersions, Reading, Signal, Verdict
from .doubts import Judged, list_doubts
from .observation import BoxTuple, Measurement, Observation
from .policy import Policy
from .sentences import describe, explain
from .signals import FORENSIC, measure_signals


@dataclass(frozen=True)
class PromptBank:
    """Text embeddings [2 + categories, D] float32 of unit length (real, deepfake, categories), and their labels.

    ``offsets`` are added to the categories' logits; () stands for none.
    """

    embeddings: Float32Array
    labels: tuple[str, ...]
    scale: float
    offsets: tuple[float, ...] = ()

    def similarities(self, embedding: Float32Array) -> Float64Array:
        """Return CLIP logits [2 + categories] of one unit-length image embedding [D]."""
        logits = self.scale * (self.embeddings.astype(np.float64) @ embedding.astype(np.float64))
        logits[2:] += self.offsets or 0.0
        return np.asarray(logits, dtype=np.float64)


@dataclass(frozen=True)
class Judgement:
    """All that fusion needs besides an observation: prompt bank, calibration, policy, and who judges."""

    bank: PromptBank
    calibration: Calibration
    policy: Policy
    models: ModelVersions


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


def sigmoid(logit: float) -> float:
    """Return the logistic function without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))


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
        ValueError: the observation has no scores of the networks.
    """
    if observation.embedding is None:
        raise ValueError("the observation has no embedding")
    image = observation.image
    zero_shot = bank.similarities(observation.embedding)
    head_logit = unusual = None
    if calibration.head is not None and observation.class_tokens is not None:
        head_logit, unusual = calibration.head.read(observation.class_tokens)
    inputs: dict[str, Any] = {
        "zero_shot": zero_shot,
        "head_logit": head_logit,
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
) -> list[Evidence]:
    """Return the evidence: one term per signal that has a weight, and the prior; contributions sum to the logit."""
    evidence = [Evidence("prior", None, None, 1.0, regime.bias, "what is known before looking")]
    for name, contribution in regime.weigh(terms, forensic_cap).items():
        signal, term = signals.get(name), regime.terms[name]
        uncapped = term.contribution(terms[name])
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


def fuse(observation: Observation, judgement: Judgement, request_id: str = "") -> Verdict:
    """Return the verdict on one observed image; a pure function of its arguments.

    Raises:
        ValueError: the observation has no scores of the networks.
    """
    calibration, policy = judgement.calibration, judgement.policy
    values = compute_values(observation, judgement.bank, calibration)
    regime, decision = calibration.regime(values.kind), policy.decide(values.kind)
    faces = tuple(
        Face(box, sigmoid(logit)) for box, logit in zip(observation.boxes, observation.face_logits, strict=True)
    )
    evidence = list_evidence(values.terms, values.signals, regime, decision.forensic_cap, faces)
    probability = replay(evidence)
    verdict: Literal["real", "deepfake"] = "deepfake" if probability >= decision.threshold else "real"
    shares = softmax(values.zero_shot[2:])
    pair = softmax(values.zero_shot[:2] / calibration.clip_temperature)
    doubts = list_doubts(Judged(observation, values, verdict, probability, faces, policy))
    return Verdict(
        request_id=request_id,
        image=observation.image,
        verdict=verdict,
        fake_probability=probability,
        confidence="low" if doubts else "high",
        category=Category(values.label, dict(zip(judgement.bank.labels, shares.tolist(), strict=True))),
        clip=ClipPrediction(real=float(pair[0]), deepfake=float(pair[1])),
        faces=faces,
        forensics=dict(values.signals),
        explanation=explain(verdict, evidence, doubts, faces),
        evidence=tuple(evidence),
        models=judgement.models,
        timings_ms=dict(observation.timings_ms),
        threshold=decision.threshold,
        doubts=doubts,
        faces_found=max(observation.faces_found, len(faces)),
    )
