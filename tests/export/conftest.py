"""What the tests of the export share: one export of the bundled weights, one restored CLIP, and face crops."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from veridict.deploy.manifest import DERIVED_FILES
from veridict.export.convert.assemble import export_repository
from veridict.export.convert.engines import EngineSettings
from veridict.export.convert.settings import Exported, ExportSettings
from veridict.export.models.clip_model import Backbone, load_clip

#: What an older export may have left behind; no export may keep it, since it is made of other weights.
OLD = b"old"


@dataclass(frozen=True)
class BundledExport:
    """An export of the bundled weights: the repository, what was made, and the lines of its progress."""

    repository: Path
    exported: Exported
    steps: list[str]
    with_engines: bool


def leave_old_files(repository: Path) -> None:
    (repository / "face_cnn/1").mkdir(parents=True)
    for name in DERIVED_FILES:
        (repository / "face_cnn/1" / name).write_bytes(OLD)


def run_network(path, tensor, rows):
    """Return a graph's first output."""
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {tensor.name: rows})[0]


def without_coverage(function: Callable[..., object]) -> Callable[..., object]:
    """Return the function, run without this thread's trace function."""

    def call(*arguments: object, **options: object) -> object:
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*arguments, **options)
        finally:
            sys.settrace(trace)

    return call


@pytest.fixture(scope="session", autouse=True)
def untraced_export() -> Iterator[None]:
    """Have coverage look away while torch traces a network.

    That is a hundred million calls inside torch, which coverage would be told of one by one, and of our lines only the
    networks' ``forward``, which PyTorch runs for the comparison as well.
    """
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", without_coverage(torch.onnx.export))
        yield


@pytest.fixture(scope="session")
def bundled_export(tmp_path_factory) -> BundledExport:
    """The bundled weights exported once, with engines for sm89 where TensorRT-RTX is installed (x86)."""
    repository = tmp_path_factory.mktemp("bundled")
    leave_old_files(repository)
    with_engines = importlib.util.find_spec("tensorrt_rtx") is not None
    engine = EngineSettings("tensorrt-rtx", target="sm89") if with_engines else None
    steps: list[str] = []
    exported = export_repository(ExportSettings(output=repository, engine=engine), progress=steps.append)
    return BundledExport(repository, exported, steps, with_engines)


@pytest.fixture(scope="session")
def bundled_clip() -> Backbone:
    """The bundled CLIP in PyTorch, restored from int8 once; tests only read it."""
    return load_clip()


@pytest.fixture(scope="session")
def faces(astronaut, cat, coffee) -> np.ndarray:
    """Crops [64, 224, 224, 3] of three photographs, of all sizes, blurred a little and brightened at random.

    As varied as what is served: where every logit is about 0, rounding looks larger than it is.
    """
    import cv2

    rng = np.random.default_rng(0)
    views = []
    for i in range(64):
        image = (astronaut, cat, coffee)[i % 3]
        (top, left), side = rng.integers(0, 60, 2), rng.integers(60, 240)
        crop = cv2.resize(image[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_CUBIC)
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.1, 0.6))
        views.append(np.clip(crop * rng.uniform(0.6, 1.3), 0, 255).astype(np.uint8))
    return np.stack(views)
