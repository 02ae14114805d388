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

#: A picture shows next to nothing when its shortest side has fewer pixels than this, when it is this many times as long
#: as wide, or when its grey levels deviate by less than this (a blank page has 0, a foggy photograph some 15).
LEAST_SIDE, MOST_ASPECT, LEAST_TONE = 48, 8, 4.0


@dataclass(frozen=True)
class PromptBank:
    """Text embeddings [2 + categories, D] float32 of unit length (real, deepfake, categories), and their labels.

    ``offsets`` are added to the categories' logits; () stands for none.
    """

    embeddings: Floats
    labels: tuple[str, ...]
    scale: float
    offsets: tuple[float, ...] = ()

    def similarities(self, embedding: Floats) -> npt.NDArray[np.float64]:
        """Return CLIP logits [2 + categories] of one unit-length image embedding [D]."""
        logits = self.scale * (self.embeddings.astype(np.float64) @ embedding.astype(np.float64))
        logits[2:] += self.offsets or 0.0
        return np.asarray(logits, dtype=np.float64)


@dataclass(frozen=True)
class Observation:
    """All that is known of one image before fusion.

    ``intermediates`` [K, W] are class tokens; ``tone`` is the standard deviation of the view's luma in grey levels;
    ``faces_found`` counts the faces beyond those in ``boxes`` as well.
    """

    request_id: str
    image: ImageFacts
    measurements: Mapping[str, Measurement]
    embedding: Floats
    boxes: Sequence[tuple[int, int, int, int]]
    face_logits: Sequence[float]
    timings_ms: Mapping[str, float]
    intermediates: Floats | None = None
    faces_found: int = 0
    tone: float = 255.0


def face_share(boxes: Sequence[tuple[int, int, int, int]], width: int, height: int) -> float:
    """Return the longer side of the largest face over the shorter side of the picture; 0 without a face."""
    return max((max(w, h) for _, _, w, h in boxes), default=0) / min(width, height)


def picture_kind(seen: Observation, category: str, calibration: Calibration) -> str:
    """Return the kind of picture, which says how its signals are weighed and when an answer is sure."""
    share = face_share(seen.boxes, seen.image.width, seen.image.height)
    return calibration.kind(share, max(seen.face_logits, default=-math.inf), category)


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

    ``clip`` is the zero-shot margin (deepfake - real) in logits, ``tokens`` the head's logit on the class tokens,
    ``face`` the highest face logit, and the forensic signals are their percentiles in -1..1.
    """
    values = {"clip": float(logits[1] - logits[0])}
    if calibration.head is not None and seen.intermediates is not None:
        values["tokens"] = calibration.head.score(seen.intermediates)
    if len(seen.face_logits):
        values["face"] = float(max(seen.face_logits))
    for name in FORENSIC:
        percentile = signals[name].percentile if name in signals else None
        if percentile is not None:
            values[name] = percentile / 50.0 - 1.0
    return values


def list_evidence(
    values: Mapping[str, float], signals: Mapping[str, Signal], regime: Regime, faces: Sequence[Face] = ()
) -> list[Evidence]:
    """Return the evidence: one term per signal that has a weight, and the prior; contributions sum to the logit."""
    evidence = [Evidence("prior", None, None, 1.0, regime.bias, "what is known before looking")]
    for name, contribution in regime.weigh(values).items():
        signal, term = signals.get(name), regime.terms[name]
        uncapped = term.contribution(values[name])
        evidence.append(
            Evidence(
                signal=name,
                value=signal.value if signal else values[name],
                percentile=signal.percentile if signal else None,
                weight=term.slope(values[name]) * (contribution / uncapped if uncapped else 1.0),
                contribution=contribution,
                text=describe(name, contribution, signal, faces),
            )
        )
    return evidence


def replay(evidence: Sequence[Evidence]) -> float:
    """Return the fake probability that an evidence list stands for."""
    return sigmoid(math.fsum(item.contribution for item in evidence))


def list_doubts(
    seen: Observation, verdict: str, probability: float, faces: Sequence[Face], kind: str, calibration: Calibration
) -> tuple[str, ...]:
    """Return why the answer is of low confidence, as keys of ``sentences.DOUBTS``; nothing where it is not."""
    image, policy = seen.image, calibration.doubt
    low, high = policy.bands[kind]
    sides = sorted((image.width, image.height))
    little = sides[0] < LEAST_SIDE or sides[1] > MOST_ASPECT * sides[0] or seen.tone < LEAST_TONE
    head = calibration.head
    unusual = (
        head is not None and seen.intermediates is not None and head.unusualness(seen.intermediates) > policy.unusual
    )
    found = {
        "little_to_see": little,
        "unusual_picture": unusual and not little,
        "face_against_verdict": verdict == "real" and any(f.fake_probability >= policy.face for f in faces),
        "near_threshold": low <= probability <= high,
        "animation": image.frames > 1,
    }
    return tuple(doubt for doubt, holds in found.items() if holds)


def fuse(seen: Observation, bank: PromptBank, calibration: Calibration, models: ModelVersions) -> Verdict:
    """Return the verdict on one observed image; a pure function of its arguments."""
    longest = max(seen.image.width, seen.image.height)
    signals = {name: read_signal(name, m, longest, calibration) for name, m in seen.measurements.items()}
    logits = bank.similarities(seen.embedding)
    values = signal_values(seen, signals, logits, calibration)
    label = bank.labels[int(logits[2:].argmax())]
    kind = picture_kind(seen, label, calibration)
    regime = calibration.regime(kind)
    faces = tuple(Face(box, sigmoid(logit)) for box, logit in zip(seen.boxes, seen.face_logits, strict=True))
    evidence = list_evidence(values, signals, regime, faces)
    probability = replay(evidence)
    verdict: Literal["real", "deepfake"] = "deepfake" if probability >= regime.threshold else "real"
    shares = softmax(logits[2:])
    pair = softmax(logits[:2] / calibration.clip_temperature)
    doubts = list_doubts(seen, verdict, probability, faces, kind, calibration)
    return Verdict(
        request_id=seen.request_id,
        image=seen.image,
        verdict=verdict,
        fake_probability=probability,
        confidence="low" if doubts else "high",
        category=Category(label, {k: float(v) for k, v in zip(bank.labels, shares, strict=True)}),
        clip=ClipPrediction(real=float(pair[0]), deepfake=float(pair[1])),
        faces=faces,
        forensics=signals,
        explanation=explain(verdict, evidence, doubts, faces),
        evidence=tuple(evidence),
        models=models,
        timings_ms=dict(seen.timings_ms),
        threshold=regime.threshold,
        doubts=doubts,
        faces_found=max(seen.faces_found, len(faces)),
    )
