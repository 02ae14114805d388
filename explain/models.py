"""The networks that are explained: torch modules for the gradient methods, a served scorer for SHAP and LIME."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.deploy.repository import PROMPT_BANK, default_repository, file_sha256, load_prompt_bank
from veridict.export.bundled import CLIP_SHARDS, FACE_WEIGHTS
from veridict.forensics.fusion import PromptBank

from .attribution import Pixels
from .errors import ExplainError

#: Scores a batch of face crops: uint8 [N, 224, 224, 3] -> logits float32 [N], positive means fake.
Scorer = Callable[[Pixels], npt.NDArray[np.float32]]
#: The served logit may differ from the torch logit by the export's parity plus half precision on GPUs.
_PARITY = 0.15
FORENSICS_VERSION = "forensics-1"


def model_versions() -> dict[str, str]:
    """Return the version of every explained model: 12 digits of its weights' sha256. Needs no torch."""
    return {
        "face_cnn": _digest(FACE_WEIGHTS),
        "clip": _digest(*CLIP_SHARDS, default_repository() / PROMPT_BANK),
        "forensics": FORENSICS_VERSION,
    }


def _digest(*paths: Path) -> str:
    return hashlib.sha256("".join(file_sha256(path) for path in paths).encode()).hexdigest()[:12]


def clip_margin_module(backbone: Any, bank: PromptBank) -> Any:
    """Return a torch module: float pixels [N, H, W, 3] in 0..255 -> margin [N, 1] of two CLIP logits.

    The margin is logit("a deepfake image") - logit("a real image"), before the calibration's temperature.
    """
    import torch

    from veridict.export.convert.onnx_export import ImageEncoder

    class ClipMargin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = ImageEncoder(backbone)
            direction = bank.scale * (bank.embeddings[1] - bank.embeddings[0])
            self.register_buffer("direction", torch.from_numpy(direction.astype(np.float32)))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            embedding, _ = self.encoder(pixels)
            return (embedding @ self.direction)[:, None]

    return ClipMargin().eval()


class Models:
    """Loads each network when a method first asks for it; every one can be given instead (tests do).

    ``face`` and ``clip``: torch modules, float pixels [N, 224, 224, 3] in 0..255 -> [N, 1]. ``scorer``: the served face
    CNN, asked for ``batch`` crops at a time (8 are 21 ms on one core). ``versions``: model name -> version, part of
    every job key.
    """

    def __init__(
        self,
        *,
        url: str = "",
        face: Any = None,
        clip: Any = None,
        scorer: Scorer | None = None,
        versions: dict[str, str] | None = None,
        batch: int = 8,
    ) -> None:
        """Take the Triton gRPC ``url`` (host:port), or ready-made networks; ``batch``: crops per call of the scorer."""
        self._url, self._face, self._clip, self._scorer, self.batch = url, face, clip, scorer, batch
        self.versions = versions or model_versions()

    @cached_property
    def face(self) -> Any:
        """Return the face CNN in evaluation mode, its weights frozen."""
        return _frozen(self._face if self._face is not None else _load_face(FACE_WEIGHTS))

    @cached_property
    def clip(self) -> Any:
        """Return the CLIP real/deepfake margin in evaluation mode, its weights frozen."""
        return _frozen(self._clip if self._clip is not None else _load_clip_margin())

    @cached_property
    def scorer(self) -> Scorer:
        """Return the served face CNN.

        Raises:
            ExplainError: ``explain.model_unavailable`` (nothing answers) or ``explain.model_mismatch`` (the server
                holds other weights than this process, so its scores would explain another model).
        """
        if self._scorer is not None:
            return self._scorer
        from .triton_scorer import TritonScorer

        scorer = TritonScorer(self._url, batch=self.batch)
        self._compare(scorer)
        return scorer

    def _compare(self, scorer: Scorer) -> None:
        import torch

        probe = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
        face = self.face  # loaded out here: what is loaded in inference mode has no gradients ever after
        with torch.inference_mode():
            held = face(torch.from_numpy(probe)).numpy()[:, 0]
        served = scorer(probe)
        if np.abs(held - served).max() > _PARITY + 0.01 * np.abs(held).max():
            raise ExplainError("explain.model_mismatch", "the server's face_cnn does not score like the weights here")


def _frozen(module: Any) -> Any:
    import torch

    module = module.to(memory_format=torch.channels_last)  # 1.7 times as fast on CPUs: the trunks are depthwise
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()


def _load_face(path: Path) -> Any:
    try:
        from veridict.export.models.face_cnn import load_face_cnn
    except ImportError as error:
        raise ImportError(f"explaining the face CNN needs torch: pip install 'veridict[explain]' ({error})") from error
    return load_face_cnn(path)


def _load_clip_margin() -> Any:
    from veridict.export.models.clip_model import load_clip

    return clip_margin_module(load_clip(), load_prompt_bank(default_repository() / PROMPT_BANK))


def set_threads(threads: int | None = None) -> None:
    """Give torch ``threads`` threads, by default half the cores.

    The served model shares the machine, and threads that wait for a busy core cost more than they bring: on two cores
    with one busy, two threads took 3.5 times as long as one.
    """
    import torch

    torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) // 2))
