"""The head on CLIP's class tokens: a Gaussian kernel machine, run in numpy.

The class tokens of all served blocks are standardised, reduced to their principal components and compared with
landmarks, which are training images: score = sum of weight * exp(-gamma * squared distance) (kernel ridge regression
with the Nystroem approximation; Williams & Seeger 2001). ``veridict calibrate`` fits it; it is stored as safetensors
beside the calibration file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .arrays import AnyArray, Float32Array, FloatArray

#: The tensors of the file: matrices are stored with 8 bits per number and a step per component.
TENSORS = ("mean", "scale", "components", "component_steps", "landmarks", "landmark_steps", "weights", "gamma")


@dataclass(frozen=True)
class TokenHead:
    """The kernel machine.

    ``mean`` and ``scale`` [K, W] standardise tokens of unit length. ``components`` [R, K * W] reduce them. The
    ``landmarks`` [M, R] have ``weights`` [M]. ``gamma`` is the factor of squared distances in the kernel.
    """

    mean: Float32Array
    scale: Float32Array
    components: Float32Array
    landmarks: Float32Array
    weights: Float32Array
    gamma: float

    @cached_property
    def _squares(self) -> Float32Array:
        return np.asarray(np.square(self.landmarks).sum(axis=1), dtype=np.float32)

    def read(self, tokens: FloatArray) -> tuple[float, float]:
        """Return the score and the unusualness of one image's class tokens [K, W]; see :meth:`score`."""
        scores, unusual = self.score(tokens[None])
        return float(scores[0]), float(unusual[0])

    def score(self, tokens: FloatArray) -> tuple[Float32Array, Float32Array]:
        """Return two numbers [N] about each of N images by their class tokens [N, K, W].

        The score (about -1 for real and +1 for fake), and the mean squared distance from the mean of the training
        images, in standard deviations (1 on average; larger means that the head has not seen such images).
        """
        rows = standardise(tokens, self.mean, self.scale)
        return self.kernel(rows @ self.components.T) @ self.weights, unusualness(rows)

    def kernel(self, reduced: Float32Array) -> Float32Array:
        """Return the kernel's values [N, M] between components [N, R] and the landmarks."""
        own = np.square(reduced).sum(axis=1, keepdims=True)
        distances = np.maximum(own + self._squares - 2.0 * (reduced @ self.landmarks.T), 0.0)
        return np.asarray(np.exp(-self.gamma * distances), dtype=np.float32)


def unit_rows(tokens: FloatArray) -> Float32Array:
    """Return tokens [..., W] at unit length, float32."""
    rows = np.asarray(tokens, dtype=np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-6), dtype=np.float32)


def standardise(tokens: FloatArray, mean: Float32Array, scale: Float32Array) -> Float32Array:
    """Return class tokens [N, K, W] as rows [N, K * W]: at unit length, less ``mean``, over ``scale`` [K, W]."""
    return np.asarray((unit_rows(tokens) - mean) / scale, dtype=np.float32).reshape(len(tokens), -1)


def unusualness(rows: Float32Array) -> Float32Array:
    """Return the mean squared distance [N] of standardised rows [N, K * W] from the mean of the training images."""
    return np.asarray(np.square(rows).mean(axis=1), dtype=np.float32)


def to_bytes(rows: Float32Array) -> tuple[AnyArray, Float32Array]:
    """Return rows [R, D] as int8 and the step [R] of each row: row = step * int8, up to half a step."""
    steps = np.maximum(np.abs(rows).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    return np.round(rows / steps[:, None]).astype(np.int8), steps


def to_tensors(head: TokenHead) -> dict[str, AnyArray]:
    """Return the tensors of a head's file."""
    components, component_steps = to_bytes(head.components)
    landmarks, landmark_steps = to_bytes(head.landmarks.T)
    tensors = {
        "mean": head.mean,
        "scale": head.scale,
        "components": components,
        "component_steps": component_steps,
        "landmarks": landmarks.T,
        "landmark_steps": landmark_steps,
        "weights": head.weights,
        "gamma": np.array(head.gamma, np.float64),
    }
    # safetensors writes the memory of an array as it lies there, also of a transposed one.
    return {name: np.array(values, order="C") for name, values in tensors.items()}


def load_token_head(path: Path) -> TokenHead:
    """Read a head.

    Raises:
        ValueError: the file is no head, or its tensors do not fit together.
    """
    from safetensors.numpy import load_file

    try:
        stored = load_file(path)
        part = {name: np.asarray(stored[name], dtype=np.float32) for name in TENSORS}
        _check(part)
        gamma = float(stored["gamma"])
    except Exception as error:  # safetensors has an error class of its own, which is no ValueError
        raise ValueError(f"{path} is no token head: {error}") from error
    components = part["components"] * part["component_steps"][:, None]
    landmarks = part["landmarks"] * part["landmark_steps"]
    return TokenHead(part["mean"], part["scale"], components, landmarks, part["weights"], gamma)


def _check(part: dict[str, Float32Array]) -> None:
    shape = part["mean"].shape
    if len(shape) != 2 or part["scale"].shape != shape or not (part["scale"] > 0).all():
        raise ValueError("mean and scale must be [blocks, width], scales positive")
    count, landmarks = len(part["component_steps"]), len(part["weights"])
    shapes = {
        "components": (count, shape[0] * shape[1]),
        "component_steps": (count,),
        "landmarks": (landmarks, count),
        "landmark_steps": (count,),
        "weights": (landmarks,),
        "gamma": (),
    }
    for name, expected in shapes.items():
        if part[name].shape != expected or not np.isfinite(part[name]).all():
            raise ValueError(f"{name} must be finite and of shape {list(expected)}, not {list(part[name].shape)}")
    if not count or not landmarks or part["gamma"] <= 0:
        raise ValueError("it has no components or landmarks, or its gamma is not positive")
