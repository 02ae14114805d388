"""The files of each network in its version folder: graphs, quantised graphs and engines, each held to its source."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from veridict.deploy.manifest import DERIVED_FILES, FP8_GRAPH, FP16_GRAPH, INT8_GRAPH, W7A8_GRAPH
from veridict.forensics import signature as sig
from veridict.forensics.arrays import Pixels
from veridict.forensics.views import clip_view

from ..bundled import CLIP_SHARDS
from ..datasets import SUFFIXES, read_image
from ..models.clip_model import Backbone
from ..models.face_cnn import load_face_cnn
from .engines import ENGINE_FILES, Engine, EngineSettings, build_engine, run_engine
from .onnx_export import export_onnx, networks, run_module
from .parity import Parity, ParityError, compare
from .quantise import quantise, quantise_fp8
from .settings import Exported, ExportError, ExportSettings
from .smoothquant import write_w7a8


def write_networks(
    settings: ExportSettings, backbone: Backbone, bundled: bool, progress: Callable[[str], None]
) -> Exported:
    """Write every network's graphs, and engines where asked for; ``bundled`` keeps the bundled int8 weights as a file.

    Raises:
        ExportError: a folder of calibration images is empty.
        ParityError: a graph does not compute what its source computes.
        EngineError: an engine was asked for and cannot be built here.
        ValueError: there are too few images, or the network is of a kind that is not quantised.
    """
    parities: list[Parity] = []
    engines: list[Engine] = []
    for name, make in networks(backbone, load_face_cnn(settings.face_checkpoint)).items():
        module, example = make()
        model, folder = sig.MODELS[name], settings.output / name / "1"
        progress(f"exporting {name}")
        for derived in DERIVED_FILES:
            (folder / derived).unlink(missing_ok=True)  # an older one would be of other weights
        shards = install_shards(folder, bundled) if model is sig.CLIP_IMAGE else ()
        folder.mkdir(parents=True, exist_ok=True)
        parities += export_onnx(module, example, model, folder / "model.onnx", shards=shards)
        if model is sig.CLIP_IMAGE:
            parities += _write_w7a8(folder, model, progress)
        if settings.engine is not None:
            compared, engine = _write_engine(settings, settings.engine, module, example, model, progress)
            parities += compared
            engines.append(engine)
    parities += _write_int8(settings, progress)
    return Exported(tuple(parities), tuple(engines))


def install_shards(folder: Path, wanted: bool) -> tuple[Path, ...]:
    """Return the bundled int8 weights, copied into the model's version folder; remove older ones if not ``wanted``."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.safetensors"):
        if path.resolve() not in {shard.resolve() for shard in CLIP_SHARDS}:
            path.unlink()
    if not wanted:
        return ()
    for shard in CLIP_SHARDS:
        if (folder / shard.name).resolve() != shard.resolve():
            shutil.copyfile(shard, folder / shard.name)
    return tuple(folder / shard.name for shard in CLIP_SHARDS)


def read_views(folder: Path, most: int = 256, seed: int = 0) -> Pixels:
    """Return up to ``most`` images drawn from a folder tree as views uint8 [N, 224, 224, 3].

    Raises:
        ExportError: the folder holds no image.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ExportError(f"no images in {folder}")
    chosen = np.random.default_rng(seed).permutation(len(paths))[:most]
    return np.stack([clip_view(read_image(paths[i])) for i in chosen])


def _write_engine(
    settings: ExportSettings,
    engine: EngineSettings,
    module: nn.Module,
    example: torch.Tensor,
    model: sig.Model,
    progress: Callable[[str], None],
) -> tuple[list[Parity], Engine]:
    """Build a network's engine from its graph in the wanted precision; return the parities and the engine."""
    folder = settings.output / model.name / "1"
    graph, precision = folder / "model.onnx", settings.precision
    parities: list[Parity] = []
    if precision == "fp16":
        graph = folder / FP16_GRAPH
        parities += export_onnx(module, example, model, graph, "fp16")
    if settings.fp8_images is not None and model is sig.CLIP_IMAGE:
        progress(f"quantising {model.name} to fp8")
        source, graph, precision = graph, folder / FP8_GRAPH, "fp8"
        parities += quantise_fp8(source, folder / "model.onnx", model, read_views(settings.fp8_images), graph)
    progress(f"building {model.name} with {engine.runtime}")
    target = folder / ENGINE_FILES[engine.runtime]
    dims = tuple(example.shape[1:])
    built = build_engine(graph, model, dims, engine, target, lambda text: progress(f"  {text}"))
    if engine.runtime == "tensorrt":
        parities += _gate_engine(module, example, model, target, precision)
    return parities, built


def _gate_engine(
    module: nn.Module, example: torch.Tensor, model: sig.Model, path: Path, precision: str
) -> list[Parity]:
    """Compare a built engine with PyTorch in fp32 on this GPU; remove an engine that fails."""
    expected = run_module(module, example)
    try:
        return compare(model, precision, expected, run_engine(path, model, example.numpy()))
    except ParityError:
        path.unlink()
        raise


def _write_w7a8(folder: Path, model: sig.Model, progress: Callable[[str], None]) -> list[Parity]:
    """Write the graph for CPUs with AVX2 alone where it is close enough; without it they compute in float32."""
    try:
        return write_w7a8(folder / "model.onnx", model, folder / W7A8_GRAPH)
    except (ParityError, ValueError) as error:
        progress(f"  no integers for CPUs with AVX2 alone: {error}")
        return []


def _write_int8(settings: ExportSettings, progress: Callable[[str], None]) -> list[Parity]:
    folders = {sig.CLIP_IMAGE.name: settings.int8_images, sig.FACE_CNN.name: settings.int8_faces}
    parities = []
    for name, folder in folders.items():
        source = settings.output / name / "1" / "model.onnx"
        if folder is not None:
            progress(f"quantising {name}")
            parities += quantise(source, sig.MODELS[name], read_views(folder), source.with_name(INT8_GRAPH))
    return parities
