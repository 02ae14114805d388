"""``veridict export``: from checkpoints to a model repository that a server accepts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veridict.deploy.repository import CALIBRATION, PROMPT_BANK, default_repository, file_sha256, write_manifest
from veridict.forensics import signature as sig
from veridict.forensics.calibration import load_calibration

from .bundled import CLIP_WEIGHTS, COMPACT, FACE_WEIGHTS
from .clip_model import Backbone, load_clip
from .face_cnn import load_face_cnn
from .onnx_export import Parity, export_onnx, networks
from .prompts import read_prompts
from .train_clip import embed_prompts


class ExportError(RuntimeError):
    """The export cannot go on; the message says why."""


@dataclass(frozen=True)
class ExportSettings:
    """What to export and where to; the defaults rebuild the bundled repository from the bundled weights."""

    output: Path
    clip: str = COMPACT
    clip_checkpoint: Path | None = None
    random_weights: bool = False
    face_checkpoint: Path = FACE_WEIGHTS
    prompts: Path | None = None
    calibration: Path | None = None


def write_prompt_bank(backbone: Backbone, prompts_path: Path | None, path: Path) -> None:
    """Embed the prompt ensembles and write them as ``.npz`` (embeddings float32 [2 + C, D], labels [C], scale)."""
    prompts = read_prompts(prompts_path) if prompts_path else read_prompts()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        embeddings=embed_prompts(backbone, prompts).numpy(),
        labels=np.array(list(prompts.categories)),
        scale=np.float64(backbone.model.logit_scale.exp().item()),
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
    """Install the calibration and return whether there was one.

    A calibration fitted on another backbone loses its CLIP terms, since they mean nothing here.
    """
    source = settings.calibration or default_repository() / CALIBRATION
    if not source.exists():
        return False
    document = json.loads(source.read_text())
    if settings.calibration is None and backbone.name != COMPACT:
        document["clip"] |= {"head": [], "head_bias": 0.0}
        for name in ("clip", "clip_head"):
            document["fusion"]["terms"].pop(name, None)
        document["source"]["note"] = f"CLIP terms removed: fitted on {COMPACT}, not on {backbone.name}"
    target = settings.output / CALIBRATION
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n")
    load_calibration(target)
    return True


def export_repository(settings: ExportSettings, progress: Callable[[str], None] = print) -> list[Parity]:
    """Build a servable model repository in ``settings.output`` and return each network's parity to PyTorch.

    Raises:
        ExportError: a checkpoint is missing or the backbone does not fit the served view.
        ParityError: a graph does not compute what its source computes.
        ValueError: the backbone's name or the prompt file is wrong.
    """
    checkpoint = settings.clip_checkpoint
    if checkpoint is None and settings.clip == COMPACT and not settings.random_weights:
        checkpoint = CLIP_WEIGHTS
    for path in filter(None, (checkpoint, settings.face_checkpoint)):
        if not path.exists():
            raise ExportError(f"no checkpoint at {path}")
    progress(f"loading {settings.clip}")
    backbone = load_clip(settings.clip, checkpoint, settings.random_weights)
    if backbone.size != sig.CLIP_SIZE:
        raise ExportError(f"{settings.clip} sees {backbone.size} pixels; the served view is {sig.CLIP_SIZE}")
    copy_templates(settings.output)
    parities = []
    for name, make in networks(backbone, load_face_cnn(settings.face_checkpoint)).items():
        module, example = make()
        progress(f"exporting {name}")
        parities.append(export_onnx(module, example, sig.MODELS[name], settings.output / name / "1" / "model.onnx"))
    write_prompt_bank(backbone, settings.prompts, settings.output / PROMPT_BANK)
    width = int(np.load(settings.output / PROMPT_BANK)["embeddings"].shape[1])
    retarget(settings.output, sig.EMBEDDING_OUT.name, (width,))
    retarget(settings.output, sig.TOKENS.name, (backbone.context_length,))
    if not copy_calibration(settings, backbone):
        progress("no calibration yet: run veridict calibrate --repository on the new repository before serving it")
    source: dict[str, Any] = {"clip": settings.clip, "random_weights": settings.random_weights}
    source["clip_sha256"] = file_sha256(checkpoint) if checkpoint else ""
    source["face_cnn_sha256"] = file_sha256(settings.face_checkpoint)
    source["parity"] = [asdict(p) for p in parities]
    write_manifest(settings.output, source)
    return parities
