"""``veridict export``: from checkpoints to a model repository that a server accepts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from veridict.deploy.manifest import (
    Weights,
    default_repository,
    file_sha256,
    package_file,
    read_manifest,
    update_manifest,
    weights_sha256,
    write_manifest,
)
from veridict.deploy.repository import CALIBRATION, MERGES, POLICY, PROMPT_BANK, WORD_PIECES
from veridict.forensics import signature as sig
from veridict.forensics.byte_pairs import write_byte_pairs
from veridict.forensics.calibration import HEAD_FILE, load_calibration
from veridict.forensics.policy import load_policy
from veridict.forensics.signals import CLIP_TERMS

from ..bundled import CLIP, CLIP_SHARDS, FACE_WEIGHTS, TEXT_WEIGHTS
from ..models.clip_model import BUNDLED_FAMILY, Backbone, load_clip
from ..prompts import embed_prompts, read_prompts
from .engines import import_runtime, require_fp8
from .network_files import write_networks
from .onnx_export import intermediate_shape
from .retarget import retarget
from .settings import Exported, ExportError, ExportSettings


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


def install_tokenizer(tokenizer: Any, repository: Path) -> None:
    """Write what the server needs to read the labels of policies: word pieces, or byte pairs as OpenAI's CLIP has them.

    A tokenizer of another kind gets no file, and policies with labels are refused.
    """
    for name in (WORD_PIECES, MERGES):
        (repository / name).unlink(missing_ok=True)
    if pieces := getattr(tokenizer, "pieces", None):
        (repository / WORD_PIECES).write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    elif (
        # Tokenizers with further marks, or that clean or shorten texts in another way, give other tokens.
        (merges := getattr(tokenizer, "bpe_ranks", None))
        and tokenizer.vocab_size == 512 + len(merges) + 2
        and tokenizer.reduction_fn is None
        and tokenizer.clean_fn("A,  b") == "a, b"
    ):
        write_byte_pairs(repository / MERGES, list(merges), tokenizer.context_length)


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


def copy_calibration(settings: ExportSettings, backbone: Backbone) -> bool:
    """Install the calibration, its policy and its head, and return whether there was one.

    They apply to every backbone of the family that they were fitted on. For another backbone the terms that depend on
    CLIP are removed, since their weights mean nothing there.
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
        for regime in document["fusion"]["regimes"].values():
            for name in CLIP_TERMS:
                regime["terms"].pop(name, None)
        document["source"]["note"] = f"CLIP terms removed: fitted on {family}, not on {backbone.name}"
        target.with_name(HEAD_FILE).unlink(missing_ok=True)
    elif document["clip"]["head_sha256"] is not None and target.resolve() != source.resolve():
        shutil.copyfile(source.with_name(HEAD_FILE), target.with_name(HEAD_FILE))
    if target.resolve() != source.resolve():
        shutil.copyfile(source.with_name(POLICY.name), target.with_name(POLICY.name))
    target.write_text(json.dumps(document, indent=1) + "\n")
    load_policy(target.with_name(POLICY.name), load_calibration(target))
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
    exported = write_networks(settings, backbone, bundled, progress)
    install_prompt_bank(settings, backbone)
    install_tokenizer(backbone.tokenizer, settings.output)
    width = int(np.load(settings.output / PROMPT_BANK, allow_pickle=False)["embeddings"].shape[1])
    retarget(settings.output, sig.EMBEDDING_OUT.name, (width,))
    retarget(settings.output, sig.INTERMEDIATES_OUT.name, intermediate_shape(backbone))
    retarget(settings.output, sig.TOKENS.name, (backbone.context_length,))
    if not copy_calibration(settings, backbone):
        progress("no calibration yet: run veridict calibrate --repository on the new repository before serving it")
    weights = _install_weights(settings, checkpoint, bundled)
    write_manifest(settings.output, _provenance(settings, backbone, checkpoint, exported), weights)
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
    update_manifest(settings.output)


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


def _install_weights(settings: ExportSettings, checkpoint: Path | None, bundled: bool) -> dict[str, Weights]:
    """Return sha256 and files of the weights by network, for the manifest.

    Explanations load these files. A face CNN that is not the bundled one is copied into the repository for them.
    """
    folder = settings.output / sig.FACE_CNN.name / "1"
    copy = folder / "weights.safetensors"
    if settings.face_checkpoint.resolve() == FACE_WEIGHTS.resolve():
        copy.unlink(missing_ok=True)
        face = package_file(FACE_WEIGHTS)
    else:
        if settings.face_checkpoint.resolve() != copy.resolve():
            shutil.copyfile(settings.face_checkpoint, copy)
        face = copy.relative_to(settings.output).as_posix()
    weights: dict[str, Weights] = {sig.FACE_CNN.name: (file_sha256(settings.face_checkpoint), (face,))}
    if bundled:
        image = tuple(f"{sig.CLIP_IMAGE.name}/1/{shard.name}" for shard in CLIP_SHARDS)
        weights[sig.CLIP_IMAGE.name] = (weights_sha256(*CLIP_SHARDS), image)
        weights[sig.CLIP_TEXT.name] = (file_sha256(TEXT_WEIGHTS), (package_file(TEXT_WEIGHTS),))
    elif checkpoint is not None:
        digest = file_sha256(checkpoint)
        weights |= {name: (digest, ()) for name in (sig.CLIP_IMAGE.name, sig.CLIP_TEXT.name)}
    return weights


def _provenance(
    settings: ExportSettings, backbone: Backbone, checkpoint: Path | None, exported: Exported
) -> dict[str, Any]:
    return {
        "clip": settings.clip,
        "clip_family": backbone.family,
        "clip_checkpoint": str(settings.clip_checkpoint.resolve()) if settings.clip_checkpoint else "",
        "random_weights": settings.random_weights,
        "clip_sha256": file_sha256(checkpoint) if checkpoint else "",
        "text_sha256": file_sha256(TEXT_WEIGHTS) if checkpoint == CLIP_SHARDS[0] else "",
        "face_cnn_sha256": file_sha256(settings.face_checkpoint),
        "versions": {p: version(p) for p in ("torch", "open_clip_torch", "onnx", "onnxruntime")},
        "parity": [asdict(p) for p in exported.parities],
        "engines": [asdict(e) for e in exported.engines],
    }
