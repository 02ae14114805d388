"""What judges an observation: the prompt bank, the calibration, the policy, and their versions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Float32Array, Float64Array
from .calibration import Calibration
from .contract import ModelVersions
from .policy import Policy


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
    """All that fusion needs besides an observation: prompt bank, calibration, policy, and who judges.

    ``name``: of the policy, "" for the repository's. ``ignored``: the signals that do not count.
    """

    bank: PromptBank
    calibration: Calibration
    policy: Policy
    models: ModelVersions
    name: str = ""
    ignored: frozenset[str] = frozenset()
