"""The head on CLIP's class tokens: an ensemble of small networks, run in numpy.

Each member has RINE's form (Koutlis & Papadopoulos 2024): every block's class token goes through one shared projection,
the blocks are averaged with a learnt weight per feature, and a small MLP gives a logit. ``veridict calibrate`` trains
it; its weights are safetensors beside the calibration file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import Float32Array, FloatArray

#: A member's tensors, in the order they are used, as they are called in the file: ``member.NUMBER.NAME``.
TENSORS = ("project.weight", "project.bias", "importance", "hidden.weight", "hidden.bias", "out.weight", "out.bias")


@dataclass(frozen=True)
class Member:
    """One network: projection [H, W], importance [K, H] (sums to 1 over blocks), hidden [M, H], out [M], and biases."""

    project: Float32Array
    project_bias: Float32Array
    importance: Float32Array
    hidden: Float32Array
    hidden_bias: Float32Array
    out: Float32Array
    out_bias: float

    def score(self, tokens: Float32Array) -> float:
        """Return the logit of standardised tokens [K, W]."""
        projected = _gelu(tokens @ self.project.T + self.project_bias)
        pooled = (projected * self.importance).sum(axis=0)
        return float(self.out @ _gelu(self.hidden @ pooled + self.hidden_bias)) + self.out_bias


@dataclass(frozen=True)
class TokenHead:
    """The ensemble: tokens are brought to unit length, standardised by ``mean`` and ``scale`` [K, W], and scored."""

    mean: Float32Array
    scale: Float32Array
    members: tuple[Member, ...]

    def read(self, tokens: FloatArray) -> tuple[float, float]:
        """Return two numbers about the class tokens [K, W] of one image.

        The mean of the members' logits (positive means fake), and the mean squared distance from the mean of the
        training images, in standard deviations (1 on average; larger means that the head has not seen such images).
        """
        rows = np.asarray((unit_rows(tokens) - self.mean) / self.scale, dtype=np.float32)
        logit = sum(member.score(rows) for member in self.members) / len(self.members)
        return logit, float(np.square(rows).mean())


def unit_rows(tokens: FloatArray) -> Float32Array:
    """Return tokens [..., W] at unit length, float32."""
    rows = np.asarray(tokens, dtype=np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-6), dtype=np.float32)


def _gelu(x: Float32Array) -> Float32Array:
    """Return GELU in its tanh form (Hendrycks & Gimpel 2016), the one the head is trained with: numpy has no erf."""
    inner = np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)
    return np.asarray(np.float32(0.5) * x * (np.float32(1.0) + np.tanh(inner)), dtype=np.float32)


def load_token_head(path: Path) -> TokenHead:
    """Read a head.

    Raises:
        ValueError: the file is no head, or its tensors do not fit together.
    """
    from safetensors.numpy import load_file

    try:
        stored = {name: np.asarray(values, dtype=np.float32) for name, values in load_file(path).items()}
        count = sum(name.endswith(".out.bias") for name in stored)
        members = tuple(_member([stored[f"member.{i}.{name}"] for name in TENSORS]) for i in range(count))
        head = TokenHead(stored["mean"], stored["scale"], members)
    except Exception as error:  # safetensors has an error class of its own, which is no ValueError
        raise ValueError(f"{path} is no token head: {error}") from error
    _check(head, path)
    return head


def _member(tensors: list[Float32Array]) -> Member:
    project, project_bias, importance, hidden, hidden_bias, out, out_bias = tensors
    shares = np.exp(importance - importance.max(axis=0))
    shares = np.asarray(shares / shares.sum(axis=0), dtype=np.float32)
    return Member(project, project_bias, shares, hidden, hidden_bias, out.reshape(-1), float(out_bias.reshape(())))


def _check(head: TokenHead, path: Path) -> None:
    if not head.members:
        raise ValueError(f"{path} is no token head: it has no members")
    if head.mean.ndim != 2 or head.mean.shape != head.scale.shape or not (head.scale > 0).all():
        raise ValueError(f"{path}: mean and scale must be [blocks, width], scales positive")
    blocks, width = head.mean.shape
    for member in head.members:
        size, features = len(member.hidden), len(member.project)
        shapes = (
            (member.project, (features, width)),
            (member.project_bias, (features,)),
            (member.importance, (blocks, features)),
            (member.hidden, (size, features)),
            (member.hidden_bias, (size,)),
            (member.out, (size,)),
        )
        if any(values.shape != shape or not np.isfinite(values).all() for values, shape in shapes):
            raise ValueError(f"{path}: a member's tensors do not fit {blocks} blocks of {width} features")
