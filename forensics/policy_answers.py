"""The parts of an answer that policies by name add: custom labels, and what shadows would have answered.

Standard library only, as :mod:`.contract`, which has them as fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LabelScore:
    """A custom zero-shot label: its softmax share (0..1) against what it is compared with; no calibrated probability.

    ``reached``: the share is at least ``threshold``; False where the policy states none.
    """

    probability: float
    threshold: float | None = None
    reached: bool = False


@dataclass(frozen=True)
class Shadow:
    """What another policy says about the same image; it never decides.

    ``policy`` and ``calibration`` are the versions that :class:`~.contract.ModelVersions` would name.
    """

    name: str
    policy: str
    calibration: str
    verdict: Literal["real", "deepfake"]
    fake_probability: float
    threshold: float
    confidence: Literal["high", "low"]
