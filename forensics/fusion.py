"""Fusion: forensic signals, CLIP and face scores -> one calibrated probability, with the evidence that sums to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .calibration import FORENSIC, Calibration, Regime
from .contract import Category, ClipPrediction, Evidence, Face, ImageFacts, ModelVersions, Reading, Signal, Verdict
from .measure import Measurement
from .sentences import describe, explain

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PromptBank:
    """Text embeddings [2 + categories, D] float32 of unit length (real, deepfake, categories), and their labels."""

    embeddings: Floats
    labels: tuple[str, ...]
    scale: float

    def similarities(self, embedding: Floats) -> npt.NDArray[np.float64]:
        """Return CLIP logits [2 + categories] of one unit-length image embedding [D]."""
        return self.scale * (self.embeddings.astype(np.float64) @ embedding.astype(np.float64))


@dataclass(frozen=True)
class Observation:
    """All that is known of one image before fusion."""

    request_id: str
    image: ImageFacts
    measurements: Mapping[str, Measurement]
    embedding: Floats
    boxes: Sequence[tuple[int, int, int, int]]
    face_logits: Sequence[float]
    timings_ms: Mapping[str, float]
    texture: Floats | None = None
    intermediates: Floats | None = None


def face_share(boxes: Sequence[tuple[int, int, int, int]], width: int, height: int) -> float:
    """Return the longer side of the largest face over the shorter side of the picture; 0 without a face."""
    return max((max(w, h) for _, _, w, h in boxes), default=0) / min(width, height)


def sigmoid(logit: float) -> float:
    """Return the logistic function without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
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


def signal_values(
    seen: Observation, signals: Mapping[str, Signal], logits: npt.NDArray[np.float64], calibration: Calibration
) -> dict[str, float]:
    """Return the value of every applicable term of the fusion, by name, given the CLIP logits [2 + categories].

    ``clip`` is the zero-shot margin (deepfake - real) in logits, ``clip_head`` the linear head's logit on the same
    embedding, ``clip_layers`` that on the middle layers of the image tower, ``texture`` that of the texture descriptor,
    ``face`` the highest face logit, and the forensic signals are their percentiles in -1..1.
    """
    values = {"clip": float(logits[1] - logits[0])}
    if calibration.clip_head is not None:
        values["clip_head"] = calibration.clip_head.score(seen.embedding)
    if calibration.layers_head is not None and seen.intermediates is not None:
        values["clip_layers"] = calibration.layers_head.score(seen.intermediates)
    if calibration.texture_head is not None and seen.texture is not None:
        values["texture"] = calibration.texture_head.score(seen.texture)
    if len(seen.face_logits):
        values["face"] = float(max(seen.face_logits))
    for name in FORENSIC:
        percentile = signals[name].percentile if name in signals else None
        if percentile is not None:
            values[name] = percentile / 50.0 - 1.0
    return values


def weigh(values: Mapping[str, float], signals: Mapping[str, Signal], regime: Regime) -> list[Evidence]:
    """Return the evidence list: one term per signal that has a weight, and the prior; contributions sum to the logit.

    Forensic contributions are scaled down together when their sum exceeds the calibration's cap, so that they never
    convict (or acquit) alone.
    """
    parts = {name: term.contribution(values[name]) for name, term in regime.terms.items() if name in values}
    forensic = sum(part for name, part in parts.items() if name in FORENSIC)
    shrink = min(1.0, regime.forensic_cap / abs(forensic)) if forensic else 1.0
    evidence = [Evidence("prior", None, None, 1.0, regime.bias, "what is known before looking")]
    for name, part in parts.items():
        signal = signals.get(name)
        factor = shrink if name in FORENSIC else 1.0
        contribution = part * factor
        evidence.append(
            Evidence(
                signal=name,
                value=signal.value if signal else values[name],
                percentile=signal.percentile if signal else None,
                weight=regime.terms[name].weight * factor,
                contribution=contribution,
                text=describe(name, contribution, signal),
            )
        )
    return evidence


def replay(evidence: Sequence[Evidence]) -> float:
    """Return the fake probability that an evidence list stands for."""
    return sigmoid(math.fsum(item.contribution for item in evidence))


def fuse(seen: Observation, bank: PromptBank, calibration: Calibration, models: ModelVersions) -> Verdict:
    """Return the verdict on one observed image; a pure function of its arguments."""
    longest = max(seen.image.width, seen.image.height)
    signals = {name: read_signal(name, m, longest, calibration) for name, m in seen.measurements.items()}
    logits = bank.similarities(seen.embedding)
    values = signal_values(seen, signals, logits, calibration)
    evidence = weigh(values, signals, calibration.regime(face_share(seen.boxes, seen.image.width, seen.image.height)))
    probability = replay(evidence)
    verdict: Literal["real", "deepfake"] = "deepfake" if probability >= calibration.threshold else "real"
    inside = calibration.band[0] <= probability <= calibration.band[1]
    shares = softmax(logits[2:])
    pair = softmax(logits[:2] / calibration.clip_temperature)
    faces = tuple(Face(box, sigmoid(logit)) for box, logit in zip(seen.boxes, seen.face_logits, strict=True))
    return Verdict(
        request_id=seen.request_id,
        image=seen.image,
        verdict=verdict,
        fake_probability=probability,
        confidence="low" if inside else "high",
        category=Category(
            bank.labels[int(shares.argmax())], {k: float(v) for k, v in zip(bank.labels, shares, strict=True)}
        ),
        clip=ClipPrediction(real=float(pair[0]), deepfake=float(pair[1])),
        faces=faces,
        forensics=signals,
        explanation=explain(verdict, evidence, uncertain=inside),
        evidence=tuple(evidence),
        models=models,
        timings_ms=dict(seen.timings_ms),
        threshold=calibration.threshold,
    )
