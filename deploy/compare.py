"""Compares what two detectors answer about the same images: a shadow comparison before new models judge for users."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from veridict.client import InvalidImageError, VeridictError
from veridict.forensics.contract import ModelVersions, Verdict
from veridict.forensics.logits import to_logit

SCHEMA = "veridict-comparison/1"
#: Probabilities are clipped to this distance from 0 and 1, so that every difference of logits is finite.
CLIP = 1e-6


@dataclass(frozen=True)
class Reply:
    """What one server answered about one image.

    A judged image has ``verdict``, ``confidence``, ``category``, ``fake_probability`` (0..1) and the ``models`` that
    judged; otherwise ``code`` and ``message`` are those of the error, and ``refused`` says whether the server refused
    the image itself (``image.*``), which another try would repeat. ``seconds``: from the request to the answer, with
    the client's retries.
    """

    verdict: str = ""
    confidence: str = ""
    category: str = ""
    fake_probability: float = 0.0
    models: ModelVersions | None = None
    code: str = ""
    message: str = ""
    refused: bool = False
    seconds: float = 0.0

    @classmethod
    def of(cls, answer: Verdict | VeridictError, seconds: float = 0.0) -> Reply:
        """Return the reply for an answer of the client, or for the error that it raised."""
        if isinstance(answer, VeridictError):
            refused = isinstance(answer, InvalidImageError)
            return cls(code=answer.code, message=answer.message, refused=refused, seconds=seconds)
        return cls(
            answer.verdict,
            answer.confidence,
            answer.category.label,
            answer.fake_probability,
            answer.models,
            seconds=seconds,
        )

    @property
    def answered(self) -> bool:
        """Return whether the server gave a verdict or refused the image, and did not fail."""
        return bool(self.verdict) or self.refused

    def brief(self) -> dict[str, Any]:
        """Return what a list of images shows: the verdict, or the code."""
        if not self.verdict:
            return {"code": self.code}
        return {"verdict": self.verdict, "fake_probability": self.fake_probability, "confidence": self.confidence}

    def __str__(self) -> str:
        """Return the verdict with its probability and confidence, or the code."""
        if not self.verdict:
            return f"[{self.code}]"
        return f"{self.verdict} {self.fake_probability:.4f} {self.confidence}"


@dataclass(frozen=True)
class Pair:
    """The replies of both servers about one image."""

    image: str
    old: Reply
    new: Reply

    @property
    def compared(self) -> bool:
        """Return whether both servers answered."""
        return self.old.answered and self.new.answered

    @property
    def judged(self) -> bool:
        """Return whether both servers gave a verdict."""
        return bool(self.old.verdict and self.new.verdict)

    @property
    def flipped(self) -> bool:
        """Return whether the answers have another verdict, or only one server refused the image."""
        return self.compared and self.old.verdict != self.new.verdict

    @property
    def difference(self) -> float:
        """Return the absolute difference of the logits of ``fake_probability``; only for judged pairs."""
        return abs(_logit(self.new) - _logit(self.old))


@dataclass(frozen=True)
class Side:
    """One server: its address, the versions that judged, and the median latency of its verdicts in milliseconds.

    ``models`` has more than one entry where replicas behind the address differ. ``median_ms`` without a verdict: None.
    """

    url: str
    models: tuple[ModelVersions, ...]
    median_ms: float | None


@dataclass(frozen=True)
class Comparison:
    """What a comparison found; counts are numbers of images.

    ``compared``: both servers answered, with a verdict (``judged``) or a refusal. ``flips``: another verdict, or
    refused by one server only (``refused_by_one``). ``refused_alike`` and ``refused_otherwise``: both refused, with the
    same code or with another. ``confidences`` and ``categories``: judged images with another confidence or category.
    ``mean``, ``p95`` and ``largest`` are absolute differences of the logits of judged images, 0 without one.
    ``changed``: the pairs that flipped. ``failed``: the pairs that could not be compared.
    """

    old: Side
    new: Side
    images: int
    compared: int
    judged: int
    flips: int
    refused_by_one: int
    refused_alike: int
    refused_otherwise: int
    confidences: int
    categories: int
    mean: float
    p95: float
    largest: float
    changed: tuple[Pair, ...]
    failed: tuple[Pair, ...]

    def problems(self, most_flips: float, largest_difference: float | None = None) -> list[str]:
        """Return a sentence for each way in which the servers differ too much; [] within the bounds.

        ``most_flips``: largest share (0..1) of flips among the compared images. ``largest_difference``: largest
        difference of logits of one image; None: any. An image that was not compared is a problem too: nothing is known
        of it.
        """
        if not self.compared:
            return ["no image could be compared"]
        found = []
        if self.flips > most_flips * self.compared:
            found.append(f"{self.flips / self.compared:.2%} of the images flipped, more than {most_flips:.2%}")
        if largest_difference is not None and self.largest > largest_difference:
            found.append(f"an image differs by {self.largest:.4f} logits, more than {largest_difference:g}")
        if self.failed:
            found.append(f"{len(self.failed)} of {self.images} images could not be compared")
        return found

    def document(self) -> dict[str, Any]:
        """Return the comparison as a JSON document of the schema ``veridict-comparison/1``."""
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return {
            "schema": SCHEMA,
            "old": asdict(self.old),
            "new": asdict(self.new),
            **counts,
            "logit_difference": {"mean": self.mean, "p95": self.p95, "largest": self.largest},
            "changed": [{"image": p.image, "old": p.old.brief(), "new": p.new.brief()} for p in self.changed],
            "failed": [{"image": p.image, "old": p.old.brief(), "new": p.new.brief()} for p in self.failed],
        }

    def to_text(self) -> str:
        """Return the comparison as a table for people, with a line per image that flipped."""
        rows = [
            ("images", f"{self.images}, {self.compared} compared, {self.judged} judged by both"),
            ("verdict differs or one refused", f"{self.flips} ({self.flips / max(self.compared, 1):.2%})"),
            ("refused by one only", str(self.refused_by_one)),
            ("refused by both", f"{self.refused_alike} with the same code, {self.refused_otherwise} with another"),
            ("confidence differs", str(self.confidences)),
            ("top category differs", str(self.categories)),
            ("logit difference", f"mean {self.mean:.4f}, 95% below {self.p95:.4f}, largest {self.largest:.4f}"),
            ("median latency", f"{_milliseconds(self.old)} old, {_milliseconds(self.new)} new"),
            *((f"models of {side.url}", _versions(models)) for side in (self.old, self.new) for models in side.models),
            *(("changed", f"{pair.image}: {pair.old} -> {pair.new}") for pair in self.changed),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}} : {value}" for name, value in rows)


def compare_pairs(pairs: Sequence[Pair], old_url: str = "", new_url: str = "") -> Comparison:
    """Return what the replies of two servers about the same images have in common; no pair at all is allowed."""
    judged = [pair for pair in pairs if pair.judged]
    refused = [pair for pair in pairs if pair.old.refused and pair.new.refused]
    alike = sum(pair.old.code == pair.new.code for pair in refused)
    differences = [pair.difference for pair in judged] or [0.0]
    flipped = tuple(pair for pair in pairs if pair.flipped)
    return Comparison(
        _side(old_url, (pair.old for pair in pairs)),
        _side(new_url, (pair.new for pair in pairs)),
        images=len(pairs),
        compared=sum(pair.compared for pair in pairs),
        judged=len(judged),
        flips=len(flipped),
        refused_by_one=sum(not pair.judged for pair in flipped),
        refused_alike=alike,
        refused_otherwise=len(refused) - alike,
        confidences=sum(pair.old.confidence != pair.new.confidence for pair in judged),
        categories=sum(pair.old.category != pair.new.category for pair in judged),
        mean=statistics.fmean(differences),
        p95=float(np.percentile(differences, 95)),
        largest=max(differences),
        changed=flipped,
        failed=tuple(pair for pair in pairs if not pair.compared),
    )


def _side(url: str, replies: Iterable[Reply]) -> Side:
    judged = [reply for reply in replies if reply.verdict]
    models = dict.fromkeys(reply.models for reply in judged if reply.models is not None)
    median = 1000 * statistics.median(reply.seconds for reply in judged) if judged else None
    return Side(url, tuple(models), median)


def _logit(reply: Reply) -> float:
    return to_logit(min(max(reply.fake_probability, CLIP), 1 - CLIP))


def _milliseconds(side: Side) -> str:
    return "none" if side.median_ms is None else f"{side.median_ms:.1f} ms"


def _versions(models: ModelVersions) -> str:
    return ", ".join(f"{name} {version or 'unknown'}" for name, version in vars(models).items())
