"""``veridict export``: from checkpoints to a model repository that a server accepts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from veridict.deploy.repository import (
    CALIBRATION,
    DERIVED_FILES,
    FP8_GRAPH,
    FP16_GRAPH,
    INT8_GRAPH,
    PROMPT_BANK,
    default_repository,
    file_sha256,
    read_manifest,
    write_manifest,
)
from veridict.forensics import signature as sig
from veridict.forensics.calibration import CLIP_TERMS, HEAD_FILE, load_calibration
from veridict.forensics.faces import clip_view

from ..bundled import CLIP, CLIP_SHARDS, FACE_WEIGHTS, TEXT_WEIGHTS
from ..datasets import SUFFIXES, read_image
from ..models.clip_model import BUNDLED_FAMILY, Backbone, load_clip
from ..models.face_cnn import load_face_cnn
from ..prompts import embed_prompts, read_prompts
from .engines import ENGINE_FILES, Engine, EngineSettings, build_engine, import_runtime, require_fp8, run_engine
from .onnx_export import export_onnx, intermediate_shape, networks, run_module
from .parity import Parity, ParityError, compare
from .quantise import quantise, quantise_fp8


class ExportError(RuntimeError):
    """The export cannot go on; the message says why."""


@dataclass(frozen=True)
class ExportSettings:
    """What to export and where to; the defaults rebuild the bundled repository from the bundled weights.

    ``int8_images`` is a folder of pictures like those to be served, and quantises the CPU graphs on them;
    ``int8_faces`` one of face crops. ``engine`` also builds a TensorRT engine of each network, of ``precision``;
    ``fp8_images``, pictures again, puts the matrix products of the image encoder's in fp8.
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


def write_prompt_bank(backbone: Backbone, prompts_path: Path | None, path: Path) -> None:
    """Write the embedded prompts as ``.npz``: embeddings float32 [2 + C, D], labels and offsets [C], scale."""
    prompts = read_prompts(prompts_path) if prompts_path else read_prompts()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        embeddings=embed_prompts(backbone, prompts).numpy(),
        labels=np.array(list(prompts.categories)),
        offsets=np.array([prompts.offsets.get(name, 0.0) for name in prompts.categories]),
        scale=np.float64(backbone.scale),
    )


def copy_templates(output: Path) -> None:
    """Copy every configuration and ``model.py`` of the bundled repository into ``output``."""
    source = default_repository()
    if output.resolve() == source.resolve():
        return
    for path in sorted(source.rglob("*")):
        if path.is_file() and (path.suffix in {".pbtxt", ".py"} or path.name == ".gitkeep"):
            target = output / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def retarget(output: Path, tensor: str, dims: tuple[int, ...]) -> None:
    """Rewrite the dimensions of one tensor name in every configuration: another backbone has another width."""
    pattern = re.compile(rf'(name: "{tensor}"\n\s+data_type: \w+\n\s+dims: )\[[^\]]*\]')
    warmup = re.compile(rf'(key: "{tensor}"\n\s+value \{{\n\s+data_type: \w+\n\s+dims: )\[[^\]]*\]')
    written = f"[ {', '.join(map(str, dims))} ]"
    for path in output.rglob("*.pbtxt"):
        text = path.read_text()
        path.write_text(warmup.sub(rf"\g<1>{written}", pattern.sub(rf"\g<1>{written}", text)))


def copy_calibration(settings: ExportSettings, backbone: Backbone) -> bool:
    """Install the calibration and its head, and return whether there was one.

    They apply to every backbone of the family they were fitted on. On another one they lose their CLIP terms, since
    those mean nothing there.
    """
    source = settings.calibration or default_repository() / CALIBRATION
    if not source.exists():
        return False
    document = json.loads(source.read_text())
    target = settings.output / CALIBRATION
    target.parent.mkdir(parents=True, exist_ok=True)
    family = document["clip"]["family"]
    if settings.calibration is None and backbone.family != family:
        document["clip"] |= {"head_sha256": None, "family": backbone.family}
        for regime in ("close_up", "suspect", "general"):
            for name in CLIP_TERMS:
                document["fusion"][regime]["terms"].pop(name, None)
        document["source"]["note"] = f"CLIP terms removed: fitted on {family}, not on {backbone.name}"
        target.with_name(HEAD_FILE).unlink(missing_ok=True)
    elif document["clip"]["head_sha256"] is not None and target.resolve() != source.resolve():
        shutil.copyfile(source.with_name(HEAD_FILE), target.with_name(HEAD_FILE))
    target.write_text(json.dumps(document, indent=1) + "\n")
    load_calibration(target)
    return True


def install_prompt_bank(settings: ExportSettings, backbone: Backbone) -> None:
    """Write the prompt bank: the bundled one for backbones of its family, else the prompts by this text tower.

    The bundled rows for real and deepfake are what the calibration was fitted with; another text tower's would not be.
    """
    target, bundled = settings.output / PROMPT_BANK, default_repository() / PROMPT_BANK
    if settings.prompts is None and backbone.family == BUNDLED_FAMILY and backbone.name != CLIP and bundled.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundled, target)
    else:
        write_prompt_bank(backbone, settings.prompts, target)


def read_views(folder: Path, most: int = 256, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return up to ``most`` pictures drawn from a folder tree as views uint8 [N, 224, 224, 3].

    Raises:
        ExportError: the folder holds no picture.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ExportError(f"no images in {folder}")
    chosen = np.random.default_rng(seed).permutation(len(paths))[:most]
    return np.stack([clip_view(read_image(paths[i])) for i in chosen])


def _gate_engine(
    module: nn.Module, example: torch.Tensor, model: sig.Model, path: Path, precision: str
) -> list[Parity]:
    """Hold a built engine to PyTorch in fp32 on this GPU; an engine that fails is removed."""
    expected = run_module(module, example)
    try:
        return compare(model, precision, expected, run_engine(path, model, example.numpy()))
    except ParityError:
        path.unlink()
        raise


def _quantise(settings: ExportSettings, progress: Callable[[str], None]) -> list[Parity]:
    folders = {"clip_image": settings.int8_images, "face_cnn": settings.int8_faces}
    parities = []
    for name, folder in folders.items():
        source = settings.output / name / "1" / "model.onnx"
        if folder is not None:
            progress(f"quantising {name}")
            parities += quantise(source, sig.MODELS[name], read_views(folder), source.with_name(INT8_GRAPH))
    return parities


def export_repository(settings: ExportSettings, progress: Callable[[str], None] = print) -> Exported:
    """Build a servable model repository in ``settings.output``.

    Raises:
        ExportError: a checkpoint is missing or the backbone does not fit the served view.
        ParityError: a graph does not compute what its source computes.
        EngineError: an engine was asked for and cannot be built here.
        ValueError: the backbone's name, the prompt file or a folder of images is wrong.
    """
    if settings.engine is not None:
        import_runtime(settings.engine.runtime)  # fail before the long work, not after it
    if settings.fp8_images is not None:
        if settings.engine is None:
            raise ExportError("fp8 is for engines: name a runtime to build them with")
        require_fp8(settings.engine)
    if settings.calibration is not None:
        load_calibration(settings.calibration)
    checkpoint = _clip_checkpoint(settings)
    progress(f"loading {settings.clip}")
    backbone = _load_backbone(settings)
    if backbone.size != sig.CLIP_SIZE:
        raise ExportError(f"{settings.clip} sees {backbone.size} pixels; the served view is {sig.CLIP_SIZE}")
    copy_templates(settings.output)
    bundled = backbone.name == CLIP and checkpoint == CLIP_SHARDS[0]
    parities: list[Parity] = []
    engines: list[Engine] = []
    for name, make in networks(backbone, load_face_cnn(settings.face_checkpoint)).items():
        module, example = make()
        model, folder = sig.MODELS[name], settings.output / name / "1"
        progress(f"exporting {name}")
        for derived in DERIVED_FILES:
            (folder / derived).unlink(missing_ok=True)  # an older one would be of other weights
        shards = install_shards(folder, bundled and model is sig.CLIP_IMAGE)
        parities += export_onnx(module, example, model, folder / "model.onnx", shards=shards)
        if settings.engine is None:
            continue
        graph, precision = folder / "model.onnx", settings.precision
        if precision == "fp16":
            graph = folder / FP16_GRAPH
            parities += export_onnx(module, example, model, graph, "fp16")
        if settings.fp8_images is not None and model is sig.CLIP_IMAGE:
            progress(f"quantising {name} to fp8")
            source, graph, precision = graph, folder / FP8_GRAPH, "fp8"
            parities += quantise_fp8(source, folder / "model.onnx", model, read_views(settings.fp8_images), graph)
        progress(f"building {name} with {settings.engine.runtime}")
        target = folder / ENGINE_FILES[settings.engine.runtime]
        dims = tuple(example.shape[1:])
        engines.append(build_engine(graph, model, dims, settings.engine, target, lambda text: progress(f"  {text}")))
        if settings.engine.runtime == "tensorrt":
            parities += _gate_engine(module, example, model, target, precision)
    parities += _quantise(settings, progress)
    install_prompt_bank(settings, backbone)
    width = int(np.load(settings.output / PROMPT_BANK)["embeddings"].shape[1])
    retarget(settings.output, sig.EMBEDDING_OUT.name, (width,))
    retarget(settings.output, sig.INTERMEDIATES_OUT.name, intermediate_shape(backbone))
    retarget(settings.output, sig.TOKENS.name, (backbone.context_length,))
    if not copy_calibration(settings, backbone):
        progress("no calibration yet: run veridict calibrate --repository on the new repository before serving it")
    exported = Exported(tuple(parities), tuple(engines))
    write_manifest(settings.output, _provenance(settings, backbone, checkpoint, exported))
    return exported


def export_prompts(settings: ExportSettings, progress: Callable[[str], None] = print) -> None:
    """Embed the prompts anew into the existing repository in ``settings.output``; its graphs and engines stay.

    Raises:
        ExportError: the repository was made from another CLIP, or the checkpoint is missing.
        RepositoryError: there is no repository.
        ValueError: the prompt file is wrong.
    """
    source = read_manifest(settings.output).source
    checkpoint = _clip_checkpoint(settings)
    backbone = _load_backbone(settings)
    fingerprint = file_sha256(checkpoint) if checkpoint else ""
    if (source.get("clip"), source.get("clip_sha256")) != (settings.clip, fingerprint):
        raise ExportError(f"{settings.output} was made from {source.get('clip')}, with other weights or another model")
    progress(f"embedding prompts with {settings.clip}")
    write_prompt_bank(backbone, settings.prompts, settings.output / PROMPT_BANK)
    write_manifest(settings.output, source)


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


def _clip_checkpoint(settings: ExportSettings) -> Path | None:
    """Return the checkpoint that is loaded: the first of the bundled files for the bundled model when none is named."""
    checkpoint = settings.clip_checkpoint
    if checkpoint is None and settings.clip == CLIP and not settings.random_weights:
        checkpoint = CLIP_SHARDS[0]
    for path in filter(None, (checkpoint, settings.face_checkpoint)):
        if not path.exists():
            raise ExportError(f"no checkpoint at {path}")
    return checkpoint


def _load_backbone(settings: ExportSettings) -> Backbone:
    return load_clip(settings.clip, settings.clip_checkpoint, settings.random_weights)


def _provenance(
    settings: ExportSettings, backbone: Backbone, checkpoint: Path | None, exported: Exported
) -> dict[str, Any]:
    return {
        "clip": settings.clip,
        "clip_family": backbone.family,
        "random_weights": settings.random_weights,
        "clip_sha256": file_sha256(checkpoint) if checkpoint else "",
        "text_sha256": file_sha256(TEXT_WEIGHTS) if checkpoint == CLIP_SHARDS[0] else "",
        "face_cnn_sha256": file_sha256(settings.face_checkpoint),
        "versions": {p: version(p) for p in ("torch", "open_clip_torch", "onnx", "onnxruntime")},
        "parity": [asdict(p) for p in exported.parities],
        "engines": [asdict(e) for e in exported.engines],
    }
