"""What ``veridict export`` is asked for and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..bundled import CLIP, FACE_WEIGHTS
from .engines import Engine, EngineSettings
from .parity import Parity


class ExportError(RuntimeError):
    """The export cannot go on; the message says why."""


@dataclass(frozen=True)
class ExportSettings:
    """What to export and where to; the defaults rebuild the bundled repository from the bundled weights.

    ``int8_images`` is a folder of images like those to be served; the CPU graph of the image encoder is quantised on
    them. ``int8_faces`` is a folder of face crops and does the same for the face CNN. With ``engine`` a TensorRT engine
    of each network is built too, in ``precision``. ``fp8_images``, again a folder of images, builds the image encoder's
    engine with its matrix products in fp8.
    """

    output: Path
    clip: str = CLIP
    clip_checkpoint: Path | None = None
    random_weights: bool = False
    face_checkpoint: Path = FACE_WEIGHTS
    prompts: Path | None = None
    calibration: Path | None = None
    int8_images: Path | None = None
    int8_faces: Path | None = None
    engine: EngineSettings | None = None
    precision: str = "fp16"
    fp8_images: Path | None = None


@dataclass(frozen=True)
class Exported:
    """What an export made: the parity of every graph to PyTorch in fp32, and the engines."""

    parities: tuple[Parity, ...]
    engines: tuple[Engine, ...]
