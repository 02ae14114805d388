"""The networks that are explained: the ones that the manifest of the served repository names.

Gradient methods need a torch module, SHAP and LIME the served scorer. Both must be the network that judged: weights are
loaded only if their sha256 is the manifest's, and they are compared with the server's answers where there is a server.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from veridict.client import ClientConfig
from veridict.deploy.manifest import (
    FACE_FINDER,
    Manifest,
    RepositoryError,
    default_repository,
    read_manifest,
    weights_sha256,
)
from veridict.deploy.repository import PROMPT_BANK, load_prompt_bank
from veridict.forensics import signature as sig
from veridict.forensics.arrays import Float32Array, Pixels
from veridict.forensics.judgement import PromptBank

from .errors import ExplainError

#: Scores a batch of face crops: uint8 [N, 224, 224, 3] -> logits float32 [N], positive means fake.
Scorer = Callable[[Pixels], Float32Array]
#: Most that a served logit may differ from torch's: the export's parity, plus half precision on GPUs.
_LOGIT_PARITY = 0.15
#: Least cosine between the served embedding and torch's.
_EMBEDDING_PARITY = 0.99
#: Crops that torch scores at a time.
_BATCH = 8
#: Changes when a forensic map is computed differently.
FORENSICS_VERSION = "forensics-1"


def model_versions(repository: Path | None = None) -> dict[str, str]:
    """Return the version of every explained model, part of each job's key; needs no torch.

    ``face_cnn`` changes with the face CNN and with the face finder, which cuts the crops; ``clip`` with the image
    encoder and the prompts.

    Raises:
        ExplainError: ``explain.model_unavailable``: the repository's manifest is missing or malformed.
    """
    manifest = _manifest(repository or default_repository())
    return {
        "face_cnn": _digest(manifest.identity(sig.FACE_CNN.name), manifest.identity(FACE_FINDER)),
        "clip": _digest(manifest.identity(sig.CLIP_IMAGE.name), manifest.files.get(str(PROMPT_BANK), "")),
        "forensics": FORENSICS_VERSION,
    }


def _manifest(repository: Path) -> Manifest:
    try:
        return read_manifest(repository)
    except RepositoryError as error:
        raise ExplainError("explain.model_unavailable", str(error)) from error


def _digest(*parts: str) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


def clip_margin_module(backbone: Any, bank: PromptBank) -> Any:
    """Return a torch module: float pixels [N, H, W, 3] in 0..255 -> margin [N, 1] of two CLIP logits.

    The margin is logit("a deepfake image") - logit("a real image"), before the calibration's temperature. The module's
    method ``embed`` returns the embeddings [N, D].
    """
    import torch

    from veridict.export.convert.onnx_export import ImageEncoder

    class ClipMargin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = ImageEncoder(backbone)
            direction = bank.scale * (bank.embeddings[1] - bank.embeddings[0])
            self.register_buffer("direction", torch.from_numpy(direction.astype(np.float32)))

        def embed(self, pixels: torch.Tensor) -> torch.Tensor:
            embedding, _ = self.encoder(pixels)
            return embedding

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return (self.embed(pixels) @ self.direction)[:, None]

    return ClipMargin().eval()


class Models:
    """Loads each network when a method first asks for it; each one can be passed in instead (tests do).

    ``repository``: the model repository that is served, by default the bundled one. ``server``: how to reach the
    server, None where there is none. ``face`` and ``clip``: torch modules, float pixels [N, 224, 224, 3] in 0..255 ->
    [N, 1]. ``scorer``: the served face CNN, called with ``batch`` crops at a time (8 are 21 ms on one core).
    """

    def __init__(
        self,
        *,
        server: ClientConfig | None = None,
        repository: Path | None = None,
        face: Any = None,
        clip: Any = None,
        scorer: Scorer | None = None,
        batch: int = 8,
    ) -> None:
        """Read the repository's manifest.

        Raises:
            ExplainError: ``explain.model_unavailable``: the manifest is missing or malformed.
        """
        self._server, self._face, self._clip, self._scorer, self.batch = server, face, clip, scorer, batch
        self.repository = repository or default_repository()
        self.versions = model_versions(self.repository)
        self._compared_face = False

    @cached_property
    def face(self) -> Any:
        """Return the face CNN in evaluation mode, its weights frozen.

        Raises:
            ExplainError: ``explain.model_unavailable`` (the weights that the manifest names are not on this machine) or
                ``explain.model_mismatch`` (the server has other weights).
        """
        if self._face is not None:
            return _frozen(self._face)
        module = _frozen(_load_face(_manifest(self.repository)))
        if self._server is not None:
            from .served import FaceScorer

            scorer = FaceScorer(self._server, sig.FACE_CNN_EXPLAIN, batch=self.batch, attempts=1)
            _if_served(lambda: self._compare_face(module, scorer))
        return module

    @cached_property
    def clip(self) -> Any:
        """Return CLIP's real/deepfake margin in evaluation mode, its weights frozen; raises as :attr:`face`."""
        if self._clip is not None:
            return _frozen(self._clip)
        module = _frozen(_load_clip_margin(_manifest(self.repository)))
        if (server := self._server) is not None:
            _if_served(lambda: self._compare_clip(module, server))
        return module

    @cached_property
    def scorer(self) -> Scorer:
        """Return the served face CNN.

        Raises:
            ExplainError: ``explain.model_unavailable`` (no server answers) or ``explain.model_mismatch`` (the server
            has
                other weights than the manifest names, so its scores would explain another model).
        """
        if self._scorer is not None:
            return self._scorer
        if self._server is None:
            raise ExplainError("explain.model_unavailable", "no server was named")
        from .served import FaceScorer

        scorer = FaceScorer(self._server, sig.FACE_CNN_EXPLAIN, batch=self.batch)
        face = self.face
        if not self._compared_face:
            self._compare_face(face, scorer)
        return scorer

    def score_faces(self, crops: Pixels) -> Float32Array:
        """Return the logit of each crop uint8 [N, 224, 224, 3], to find the most suspicious face.

        The server's ``face_cnn`` is asked, so that the choice is the verdict's; without a server torch computes it.
        """
        if self._scorer is not None:
            return self._scorer(crops)
        if self._server is not None:
            from .served import FaceScorer

            try:
                return FaceScorer(self._server, sig.FACE_CNN, batch=self.batch, attempts=1)(crops)
            except ExplainError:
                pass  # without a server the gradient methods still work
        import torch

        with torch.inference_mode():
            parts = [self.face(torch.from_numpy(crops[i : i + _BATCH])).numpy() for i in range(0, len(crops), _BATCH)]
        return np.concatenate(parts)[:, 0]

    def _compare_face(self, module: Any, scorer: Scorer) -> None:
        """Compare the face CNN with the server's answers on noise."""
        import torch

        probe = _noise(2, sig.FACE_SIZE)
        served = scorer(probe)
        with torch.inference_mode():
            own = module(torch.from_numpy(probe)).numpy()[:, 0]
        if np.abs(own - served).max() > _LOGIT_PARITY + 0.01 * np.abs(own).max():
            raise ExplainError("explain.model_mismatch", f"the server's face_cnn is not that of {self.repository}")
        self._compared_face = True

    def _compare_clip(self, module: Any, server: ClientConfig) -> None:
        """Compare the image encoder with the server's answer on noise."""
        import torch

        from .served import ServedNetwork

        probe = _noise(1, sig.CLIP_SIZE)
        served = ServedNetwork(server, sig.CLIP_IMAGE, attempts=1).run(probe)
        with torch.inference_mode():
            own = module.embed(torch.from_numpy(probe)).numpy()
        if served.shape != own.shape or float((served * own).sum(axis=1).min()) < _EMBEDDING_PARITY:
            raise ExplainError("explain.model_mismatch", f"the server's clip_image is not that of {self.repository}")


def _noise(rows: int, side: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)


def _if_served(compare: Callable[[], None]) -> None:
    """Compare with the server; one that does not answer is reported by the methods that need it, SHAP and LIME."""
    try:
        compare()
    except ExplainError as error:
        if error.code != "explain.model_unavailable":
            raise


def _frozen(module: Any) -> Any:
    import torch

    module = module.to(memory_format=torch.channels_last)  # 1.7 times as fast on CPUs: the trunks are depthwise
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()


def _weights(manifest: Manifest, name: str) -> tuple[Path, ...]:
    """Return the files of a network's weights, checked against the manifest."""
    network = manifest.networks[name]
    paths = tuple(manifest.path(file) for file in network.weight_files)
    if paths and all(path.exists() for path in paths) and weights_sha256(*paths) == network.weights:
        return paths
    where = ", ".join(map(str, paths)) or "the repository"
    raise ExplainError("explain.model_unavailable", f"the weights of {name} that judged are not in {where}")


def _load_face(manifest: Manifest) -> Any:
    try:
        from veridict.export.models.face_cnn import load_face_cnn
    except ImportError as error:
        raise ImportError(f"explaining the face CNN needs torch: pip install 'veridict[explain]' ({error})") from error
    (path,) = _weights(manifest, sig.FACE_CNN.name)
    return load_face_cnn(path)


def _load_clip_margin(manifest: Manifest) -> Any:
    from veridict.export.bundled import CLIP, CLIP_SHARDS
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
    return clip_margin_module(backbone, load_prompt_bank(manifest.folder / PROMPT_BANK))


def set_threads(threads: int | None = None) -> None:
    """Give torch ``threads`` threads, by default half the cores.

    The served model shares the machine, and threads that wait for a busy core cost more than they bring: on two cores
    with one busy, two threads took 3.5 times as long as one.
    """
    import torch

    torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) // 2))
