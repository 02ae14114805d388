"""Loads the torch modules of the networks that a manifest names, from weights whose sha256 it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from veridict.deploy.manifest import Manifest, weights_sha256
from veridict.deploy.repository import altered_files
from veridict.forensics import signature as sig
from veridict.forensics.allocation import release_freed_memory

from .errors import ExplainError


def _weights(manifest: Manifest, name: str) -> tuple[Path, ...]:
    """Return the files of a network's weights, checked against the manifest."""
    network = manifest.networks[name]
    paths = tuple(manifest.path(file) for file in network.weight_files)
    if paths and all(path.exists() for path in paths) and weights_sha256(*paths) == network.weights:
        return paths
    where = ", ".join(map(str, paths)) or "the repository"
    raise ExplainError("explain.model_unavailable", f"the weights of {name} that judged are not in {where}")


def load_face(manifest: Manifest) -> Any:
    """Return the face CNN; raises ExplainError ``explain.model_unavailable``, or ImportError without torch."""
    try:
        from veridict.export.models.face_cnn import load_face_cnn
    except ImportError as error:
        raise ImportError(f"explaining the face CNN needs torch: pip install 'veridict[explain]' ({error})") from error
    (path,) = _weights(manifest, sig.FACE_CNN.name)
    return load_face_cnn(path)


def load_served_encoder(manifest: Manifest, threads: int) -> Any:
    """Return CLIP's image encoder as the CPU profile serves it on this processor; None if the repository has no such.

    Pixels uint8 [N, H, W, 3] -> embedding [N, D], class tokens [N, K, W]; ``threads`` rows are computed at a time.

    Raises:
        ExplainError: ``explain.model_unavailable``: a file of the encoder is not the one that the manifest names.
    """
    from veridict.deploy.serving.cpu_runtime import load_network

    name = sig.CLIP_IMAGE.name
    if "cpu" not in manifest.networks[name].graphs:
        return None
    graph = manifest.graph(name, "cpu")
    files = [file for file in manifest.files if manifest.path(file).parent == graph.parent]
    if problems := altered_files(manifest, files):
        raise ExplainError("explain.model_unavailable", f"{manifest.folder}: {'; '.join(problems)}")
    return load_network(graph, threads)


def load_encoder(manifest: Manifest) -> Any:
    """Return CLIP's image encoder: pixels [N, H, W, 3] -> embedding [N, D], class tokens [N, K, W].

    Raises as :func:`load_face`.
    """
    from veridict.export.bundled import CLIP, CLIP_SHARDS
    from veridict.export.convert.onnx_export import ImageEncoder
    from veridict.export.models.clip_model import load_clip

    source, network = manifest.source, manifest.networks[sig.CLIP_IMAGE.name]
    name, checkpoint = str(source.get("clip", "")), str(source.get("clip_checkpoint", ""))
    if source.get("random_weights"):
        raise ExplainError("explain.model_unavailable", "the image encoder has random weights, which are not kept")
    if name == CLIP and network.weights == weights_sha256(*CLIP_SHARDS):
        backbone = load_clip()
    elif checkpoint:
        path = Path(checkpoint)
        if not path.exists() or weights_sha256(path) != network.weights:
            raise ExplainError("explain.model_unavailable", f"the CLIP weights that judged are not in {path}")
        backbone = load_clip(name, path)
    else:
        backbone = load_clip(name)  # MODEL:PRETRAINED, from the hub or its cache
    encoder = ImageEncoder(backbone)
    del backbone  # the text tower is not explained
    release_freed_memory()
    return encoder
