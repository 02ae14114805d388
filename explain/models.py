"""The networks that are explained: the ones that the manifest of the served repository names.

Gradient methods need a torch module, SHAP and LIME the served scorer, occlusion the CPU profile's graph. All must be
the network that judged: files are loaded only if their sha256 is the manifest's, and networks are compared with the
server's answers where there is a server.
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
)
from veridict.deploy.repository import CALIBRATION, PROMPT_BANK, load_prompt_bank
from veridict.forensics import signature as sig
from veridict.forensics.arrays import Float32Array, Pixels
from veridict.forensics.calibration import HEAD_FILE, load_calibration

from .errors import ExplainError
from .weights import load_encoder, load_face, load_served_encoder

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
    encoder and the prompts; ``token_head`` with the image encoder and the head on its class tokens.

    Raises:
        ExplainError: ``explain.model_unavailable``: the repository's manifest is missing or malformed.
    """
    manifest = _manifest(repository or default_repository())
    return {
        "face_cnn": _digest(manifest.identity(sig.FACE_CNN.name), manifest.identity(FACE_FINDER)),
        "clip": _digest(manifest.identity(sig.CLIP_IMAGE.name), manifest.files.get(str(PROMPT_BANK), "")),
        "token_head": _digest(
            manifest.identity(sig.CLIP_IMAGE.name), manifest.files.get(str(CALIBRATION.with_name(HEAD_FILE)), "")
        ),
        "forensics": FORENSICS_VERSION,
    }


def _manifest(repository: Path) -> Manifest:
    try:
        return read_manifest(repository)
    except RepositoryError as error:
        raise ExplainError("explain.model_unavailable", str(error)) from error


def _digest(*parts: str) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


class Models:
    """Loads each network when a method first asks for it; each one can be passed in instead (tests do).

    ``repository``: the model repository that is served, by default the bundled one. ``server``: how to reach the
    server, None where there is none. ``face``, ``clip`` and ``token_head``: torch modules, float pixels
    [N, 224, 224, 3] in 0..255 -> [N, 1]. ``scorer``: the served face CNN, called with ``batch`` crops at a time (8 are
    21 ms on one core).
    """

    def __init__(
        self,
        *,
        server: ClientConfig | None = None,
        repository: Path | None = None,
        face: Any = None,
        clip: Any = None,
        token_head: Any = None,
        scorer: Scorer | None = None,
        batch: int = 8,
    ) -> None:
        """Read the repository's manifest.

        Raises:
            ExplainError: ``explain.model_unavailable``: the manifest is missing or malformed.
        """
        self._server, self._face, self._clip, self._scorer, self.batch = server, face, clip, scorer, batch
        self._token_head = token_head
        self.repository = repository or default_repository()
        self.versions = model_versions(self.repository)
        self._compared_face = False
        self._served: dict[str, Any] = {}

    @cached_property
    def face(self) -> Any:
        """Return the face CNN in evaluation mode, its weights frozen.

        Raises:
            ExplainError: ``explain.model_unavailable`` (the weights that the manifest names are not on this machine) or
                ``explain.model_mismatch`` (the server has other weights).
        """
        if self._face is not None:
            return _frozen(self._face)
        module = _frozen(load_face(_manifest(self.repository)))
        if self._server is not None:
            from .served import FaceScorer

            scorer = FaceScorer(self._server, sig.FACE_CNN_EXPLAIN, batch=self.batch, attempts=1)
            _if_served(lambda: self._compare_face(module, scorer))
        return module

    @cached_property
    def clip(self) -> Any:
        """Return CLIP's real/deepfake margin in evaluation mode, its weights frozen; raises as :attr:`face`."""
        return self._margin_of(lambda: self._encoder)

    @cached_property
    def token_head(self) -> Any:
        """Return the score of the head on CLIP's class tokens in evaluation mode, its weights frozen.

        Raises:
            ExplainError: as :attr:`face`, or ``explain.not_applicable``: the calibration has no such head.
        """
        return self._token_score_of(lambda: self._encoder)

    def _margin_of(self, encoder: Callable[[], Any]) -> Any:
        if self._clip is not None:
            return _frozen(self._clip)
        from .torch_modules import ClipMargin

        return _frozen(ClipMargin(encoder(), load_prompt_bank(self.repository / PROMPT_BANK)))

    def _token_score_of(self, encoder: Callable[[], Any]) -> Any:
        if self._token_head is not None:
            return _frozen(self._token_head)
        from .torch_modules import TokenScore

        try:
            head = load_calibration(self.repository / CALIBRATION).head
        except (OSError, ValueError) as error:
            raise ExplainError("explain.model_unavailable", str(error)) from error
        if head is None:
            raise ExplainError("explain.not_applicable", "the served calibration has no head on CLIP's class tokens")
        return _frozen(TokenScore(encoder(), head))

    @cached_property
    def _encoder(self) -> Any:
        return self._compared(_frozen(load_encoder(_manifest(self.repository))))

    @cached_property
    def _served_encoder(self) -> Any:
        """Return the image encoder of the CPU profile, or torch's where the repository has only engines for GPUs."""
        import torch

        network = load_served_encoder(_manifest(self.repository), torch.get_num_threads())
        if network is None:
            return self._encoder
        from .torch_modules import ServedEncoder

        return self._compared(ServedEncoder(network))

    def _compared(self, encoder: Any) -> Any:
        """Return the image encoder; where there is a server, it was compared with the served one."""
        if (server := self._server) is not None:
            _if_served(lambda: self._compare_encoder(encoder, server))
        return encoder

    def module(self, model: str) -> Any:
        """Return the torch module of ``face_cnn``, ``clip`` or ``token_head``; raises as these."""
        return getattr(self, {"face_cnn": "face"}.get(model, model))

    def without_gradients(self, model: str) -> Any:
        """Return the output ``clip`` or ``token_head`` as it is served: faster than :meth:`module`; raises as these.

        It computes as many rows at a time as torch has threads.
        """
        if model not in self._served:
            build = {"clip": self._margin_of, "token_head": self._token_score_of}[model]
            self._served[model] = build(lambda: self._served_encoder)
        return self._served[model]

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
        logits: Float32Array = np.concatenate(parts)[:, 0]
        return logits

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

    def _compare_encoder(self, encoder: Any, server: ClientConfig) -> None:
        """Compare the image encoder with the server's answer on noise."""
        import torch

        from .served import ServedNetwork

        probe = _noise(1, sig.CLIP_SIZE)
        served = ServedNetwork(server, sig.CLIP_IMAGE, attempts=1).run(probe)
        with torch.inference_mode():
            own = encoder(torch.from_numpy(probe))[0].numpy()
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


def set_threads(threads: int | None = None) -> None:
    """Give torch ``threads`` threads, by default half the cores.

    The served model shares the machine, and threads that wait for a busy core cost more than they bring: on two cores
    with one busy, two threads took 3.5 times as long as one.
    """
    import torch

    torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) // 2))
