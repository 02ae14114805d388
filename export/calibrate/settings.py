"""What ``veridict calibrate`` learns from and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .token_head import HeadSettings


@dataclass(frozen=True)
class CalibrateSettings:
    """Settings of one calibration; ``add_arguments`` in :mod:`.cli` explains each field under the same name."""

    repository: Path
    data: Sequence[Path] = ()
    labelled: Path | None = None
    sources: Sequence[str] = ()
    split: Sequence[str] = ()
    head_only: Sequence[str] = ()
    most_head_only: int = 200
    scenes: int = 0
    photographs: Sequence[Path] = ()
    manifest: Path | None = None
    most_photographs: int = 700
    cache: Path | None = None
    qualities: int = 1
    landmarks: int = HeadSettings.landmarks
    components: int = HeadSettings.components
    folds: int = 5
    seed: int = 0

    @property
    def head(self) -> HeadSettings:
        """How the head is fitted."""
        return HeadSettings(landmarks=self.landmarks, components=self.components)
