"""What is explained of CLIP, as torch modules of pixels: the margin between two prompts, and the head's score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from veridict.forensics.arrays import Float32Array, Pixels
from veridict.forensics.judgement import PromptBank
from veridict.forensics.token_head import TokenHead

from .served import as_pixels


class ServedEncoder(torch.nn.Module):
    """The image encoder in the runtime and precision of the CPU profile: no gradients, but half of torch's time."""

    def __init__(self, network: Callable[[Pixels], tuple[Float32Array, ...]]) -> None:
        """Take the served network: uint8 [N, H, W, 3] -> embedding [N, D], class tokens [N, K, W]."""
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the embedding and the class tokens of pixels in 0..255; fractions are rounded."""
        return tuple(torch.from_numpy(output) for output in self.network(as_pixels(pixels.numpy())))


class ClipMargin(torch.nn.Module):
    """Pixels [N, H, W, 3] in 0..255 -> margin [N, 1] of two of CLIP's logits, before the calibration's temperature.

    The margin is logit("a deepfake image") - logit("a real image"), which the signal ``clip`` measures.
    """

    def __init__(self, encoder: Any, bank: PromptBank) -> None:
        """Take the image encoder, which returns (embedding [N, D], class tokens [N, K, W]), and the prompts."""
        super().__init__()
        self.encoder = encoder
        direction = bank.scale * (bank.embeddings[1] - bank.embeddings[0])
        self.register_buffer("direction", torch.from_numpy(direction.astype(np.float32)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the margin."""
        embedding, _ = self.encoder(pixels)
        return (embedding @ self.direction)[:, None]


class TokenScore(torch.nn.Module):
    """Pixels [N, H, W, 3] in 0..255 -> score [N, 1] of the head on CLIP's class tokens, which ``tokens`` measures.

    The score is that of :meth:`veridict.forensics.token_head.TokenHead.score`, computed in torch for its gradients.
    """

    def __init__(self, encoder: Any, head: TokenHead) -> None:
        """Take the image encoder, which returns (embedding [N, D], class tokens [N, K, W]), and the head."""
        super().__init__()
        self.encoder, self.gamma = encoder, head.gamma
        for name in ("mean", "scale", "components", "landmarks", "weights"):
            self.register_buffer(name, torch.from_numpy(getattr(head, name)))
        self.register_buffer("squares", torch.from_numpy(np.square(head.landmarks).sum(axis=1)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the score."""
        _, tokens = self.encoder(pixels)
        rows = (torch.nn.functional.normalize(tokens, dim=-1, eps=1e-6) - self.mean) / self.scale
        reduced = rows.flatten(1) @ self.components.T
        own = reduced.square().sum(dim=1, keepdim=True)
        distances = (own + self.squares - 2.0 * (reduced @ self.landmarks.T)).clamp_min(0.0)
        return (torch.exp(-self.gamma * distances) @ self.weights)[:, None]
