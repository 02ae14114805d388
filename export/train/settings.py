"""Settings of the training runs; the model cards of the bundled weights state theirs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from veridict.deploy.manifest import file_sha256

from .rine import RineSettings


@dataclass(frozen=True)
class FaceTraining:
    """Settings of a run of the face CNN.

    ``start`` is a file of weights to start from instead of ImageNet's. ``emphasis`` multiplies the share of named
    sources.

    ``whole_fakes`` names the sources whose fakes are generated from edge to edge. A share ``mosaic`` of their draws is
    four images side by side and a share ``mix`` is two images in one; their cells of 16 x 16 pixels are labelled one by
    one (``cell_weight`` in the loss). A few hundred images that are asked piece by piece are harder to memorise.
    ``drop_path`` is stochastic depth.
    """

    data: Path
    output: Path
    run: Path
    epochs: int = 8
    samples_per_epoch: int = 7000
    batch: int = 32
    crop: int = 160
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    self_blend: float = 0.12
    seed: int = 20261123
    imagenet: bool = True
    start: Path | None = None
    emphasis: tuple[tuple[str, float], ...] = ()
    leave_out: str = ""
    whole_fakes: tuple[str, ...] = ()
    mix: float = 0.45
    mosaic: float = 0.0
    drop_path: float = 0.0
    average: float = 0.997
    cell_weight: float = 0.5
    workers: int = 1

    def recorded(self) -> dict[str, str]:
        """Return what the weights record of their run: all settings but places, and the sha256 of ``start``."""
        kept = {k: str(v) for k, v in asdict(self).items() if k not in {"data", "output", "run", "start"}}
        fresh = "imagenet" if self.imagenet else "random"
        return kept | {"start": fresh if self.start is None else file_sha256(self.start)}

    def identity(self) -> str:
        """Return what a resumed run must have in common with its beginning: all but places and machinery."""
        return json.dumps({k: v for k, v in self.recorded().items() if k != "workers"}, sort_keys=True)


@dataclass(frozen=True)
class TextTraining:
    """Settings of a run of the text tower.

    ``features`` are npz files: ``files`` [N] relative to the manifest, ``embedding`` [N, D] of unit length.
    ``layers`` of the sentence encoder are kept. ``held_back`` anchors and ``held_out`` sources only measure.
    """

    manifest: Path
    anchors: Path
    features: tuple[Path, ...]
    output: Path
    start: Path | None = None
    held_out: tuple[str, ...] = ()
    held_back: int = 0
    layers: tuple[int, ...] = (0, 5)
    vocabulary: int = 8192
    steps: int = 200
    batch: int = 96
    noise: float = 0.3
    anchor_weight: float = 20.0
    word_weight: float = 20.0
    learning_rate: float = 3e-4
    seed: int = 20261130


@dataclass(frozen=True)
class TowerTraining:
    """Settings of a run of the image tower.

    Blocks ``first_block`` to ``last_block`` (from 1) get updates of ``rank``. ``keep`` weighs the cosine penalty,
    ``degraded`` is the share of degraded draws. Every ``every`` steps the deciding images are judged and the state is
    written; ``patience`` such rounds without gain end the run. ``head_images`` images train the heads that are
    compared, ``val_images`` bounds each half of the validation.
    """

    labelled: Path
    output: Path
    run: Path
    sources: tuple[str, ...] = ()
    first_block: int = 7
    last_block: int = 12
    rank: int = 16
    steps: int = 1500
    every: int = 50
    patience: int = 6
    half_batch: int = 16
    learning_rate: float = 2e-4
    keep: float = 10.0
    degraded: float = 0.5
    head_images: int = 4096
    val_images: int = 512
    head: RineSettings = field(default_factory=RineSettings)
    seed: int = 20261201
    device: str = "auto"
    workers: int | None = None

    def identity(self) -> str:
        """Return what a resumed run must have in common with its beginning: all but places and machinery."""
        kept = {k: v for k, v in asdict(self).items() if k not in {"labelled", "output", "run", "device", "workers"}}
        return json.dumps(kept | {"manifest": file_sha256(self.labelled)}, sort_keys=True)
