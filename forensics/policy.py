"""The policy file: from which probability an image is called a deepfake, and when an answer is of low confidence.

The calibration says what the signals are worth; the policy says what follows from a probability. They are two files, so
that an operator can change what follows without touching what was fitted. ``veridict calibrate`` writes both.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .calibration import KINDS, REGIMES, Calibration, regime_name

SCHEMA = "veridict-policy/1"
FILE = "policy.json"


@dataclass(frozen=True)
class Decision:
    """What holds in one regime.

    ``threshold``: the fake probability (0..1) from which the verdict is deepfake. ``forensic_cap``: the most logits
    that all forensic terms together add or take away.
    """

    threshold: float
    forensic_cap: float


@dataclass(frozen=True)
class LittleToSee:
    """When an image shows too little to be judged.

    Its shortest side has fewer than ``side`` pixels, it is more than ``aspect`` times as long as wide, or its grey
    levels deviate by less than ``tone`` (a blank page: 0, a foggy photograph: about 15).
    """

    side: int
    aspect: float
    tone: float


@dataclass(frozen=True)
class Policy:
    """A parsed policy file; ``version`` is the start of its sha256.

    ``decisions``: per regime. ``bands``: per kind of image, the probabilities between which verdicts are of low
    confidence. ``face``: the fake probability from which a face contradicts the verdict real. ``unusual``: the distance
    of the class tokens from the training images' (1 on average) from which the token head cannot be relied on.
    """

    version: str
    decisions: Mapping[str, Decision]
    bands: Mapping[str, tuple[float, float]]
    face: float
    unusual: float
    little_to_see: LittleToSee

    def decide(self, kind: str) -> Decision:
        """Return threshold and cap for a kind of image."""
        return self.decisions[regime_name(kind)]


def to_document(policy: Policy) -> dict[str, Any]:
    """Return a policy as the document that :func:`load_policy` reads."""
    return {
        "schema": SCHEMA,
        "decisions": {name: vars(decision) for name, decision in policy.decisions.items()},
        "confidence": {
            "bands": {kind: list(band) for kind, band in policy.bands.items()},
            "face": policy.face,
            "unusual": policy.unusual,
            "little_to_see": vars(policy.little_to_see),
        },
    }


def load_policy(path: Path, calibration: Calibration) -> Policy:
    """Read a policy file and check it against the calibration that it decides on.

    Raises:
        ValueError: the file is malformed, has an unknown or a missing entry, or would let forensic evidence convict
        alone.
    """
    data = path.read_bytes()
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        confidence = document["confidence"]
        policy = Policy(
            version=hashlib.sha256(data).hexdigest()[:12],
            decisions={
                str(name): Decision(**{key: float(value) for key, value in decision.items()})
                for name, decision in document["decisions"].items()
            },
            bands={str(kind): (float(low), float(high)) for kind, (low, high) in confidence["bands"].items()},
            face=float(confidence["face"]),
            unusual=float(confidence["unusual"]),
            little_to_see=LittleToSee(**confidence["little_to_see"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no {SCHEMA} file: {error!r}") from error
    check_policy(policy, calibration, str(path))
    return policy


def check_policy(policy: Policy, calibration: Calibration, name: str = "the policy") -> None:
    """Check a policy against the calibration that it decides on.

    Raises:
        ValueError: the policy does not fit; the message starts with ``name``.
    """
    if set(policy.decisions) != set(REGIMES):
        raise ValueError(f"{name}: decisions are needed for {', '.join(REGIMES)}, not {sorted(policy.decisions)}")
    kinds = {*KINDS, *calibration.kinds.values()}
    if set(policy.bands) != kinds:
        differing = sorted(set(policy.bands) ^ kinds)[0]
        raise ValueError(f"{name}: there must be one uncertain band per kind of image; {differing!r} does not fit")
    if any(not 0.0 <= low <= high <= 1.0 for low, high in policy.bands.values()):
        raise ValueError(f"{name}: an uncertain band must lie inside 0..1")
    if not 0.0 <= policy.face <= 1.0 or not policy.unusual > 0.0:
        raise ValueError(f"{name}: face must lie inside 0..1, and unusual must be positive")
    for regime, decision in policy.decisions.items():
        if not 0.0 < decision.threshold < 1.0:
            raise ValueError(f"{name}: every threshold must lie inside (0, 1)")
        needed = math.log(decision.threshold / (1.0 - decision.threshold)) - calibration.regimes[regime].bias
        if not 0 <= decision.forensic_cap < needed:
            raise ValueError(
                f"{name}: forensic evidence alone could convict in the regime {regime} (cap {decision.forensic_cap}, "
                f"a conviction needs {needed:.3f})"
            )
