"""The served networks as functions over batches of images: SHAP and LIME perturb crops, comparisons send noise."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from opentelemetry import propagate

from veridict.client import ClientConfig
from veridict.forensics.arrays import AnyArray, Float32Array, Pixels
from veridict.forensics.signature import EXPLANATION_PRIORITY, FACE_CNN, FACE_CNN_EXPLAIN, Model

from .errors import ExplainError
from .retry import backoff_seconds

_ATTEMPTS = 4
_BACKOFF = 0.2
#: Models whose queue has priorities: explanations wait for verdicts there.
_WITH_PRIORITY = (FACE_CNN.name, FACE_CNN_EXPLAIN.name)


class ServedNetwork:
    """Runs a network on a Triton server: images uint8 [N, 224, 224, 3] -> rows float32 [N, D] of its first output.

    A request holds at most ``batch`` images, because a verdict may have to wait until the running batch ends. When the
    queue is full, the request is sent again after a backoff, ``attempts`` times in all.
    """

    def __init__(
        self, server: ClientConfig, model: Model, *, batch: int = 16, timeout: float = 30.0, attempts: int = _ATTEMPTS
    ) -> None:
        """Open a channel to the server; nothing is sent yet. ``timeout``: seconds per attempt."""
        import tritonclient.grpc as triton

        self._triton: Any = triton
        self._client: Any = triton.InferenceServerClient(**server.channel_arguments())
        self._url, self._model, self._timeout, self._attempts = server.url, model, timeout, attempts
        self._batch = min(batch, model.max_batch_size)

    def run(self, images: Pixels) -> Float32Array:
        """Return the rows of at least one image.

        Raises:
            ExplainError: ``explain.model_unavailable`` after the last attempt.
        """
        return np.concatenate([self._infer(images[i : i + self._batch]) for i in range(0, len(images), self._batch)])

    def _infer(self, images: Pixels) -> Float32Array:
        from tritonclient.utils import InferenceServerException

        (wanted,), output = self._model.inputs, self._model.outputs[0]
        tensor = self._triton.InferInput(wanted.name, list(images.shape), wanted.dtype)
        tensor.set_data_from_numpy(np.ascontiguousarray(images))
        headers: dict[str, str] = {}
        propagate.inject(headers)  # the server's spans join the trace of the request that asked for the explanation
        options = {
            "outputs": [self._triton.InferRequestedOutput(output.name)],
            "client_timeout": self._timeout,
            "headers": headers or None,
            "priority": EXPLANATION_PRIORITY if self._model.name in _WITH_PRIORITY else 0,
        }
        failures = 0
        while True:
            try:
                result = self._client.infer(self._model.name, [tensor], **options)
                rows: Float32Array = result.as_numpy(output.name)
                return rows
            except InferenceServerException as error:
                if "unknown model" in str(error):  # the repository was exported before this model existed
                    detail = f"{self._url} does not serve {self._model.name}: run veridict export"
                    raise ExplainError("explain.model_unavailable", detail) from error
                failures += 1
                if failures == self._attempts:
                    raise ExplainError("explain.model_unavailable", f"at {self._url}") from error
                time.sleep(backoff_seconds(_BACKOFF, failures))

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class FaceScorer(ServedNetwork):
    """A served face CNN: crops uint8 [N, 224, 224, 3] -> logits float32 [N], positive means fake.

    SHAP and LIME use the model ``face_cnn_explain``. In the CPU profile it runs on cores that verdicts leave free. On
    GPUs its requests enter the queue of ``face_cnn`` at low priority.
    """

    def __call__(self, crops: Pixels) -> Float32Array:
        """Return one logit per crop, none for no crop; raises as :meth:`run`."""
        return self.run(crops)[:, 0] if len(crops) else np.zeros(0, np.float32)


def as_pixels(values: AnyArray) -> Pixels:
    """Return perturbed images [N, H, W, 3] as the uint8 that served networks take; fractions are rounded."""
    return np.asarray(np.clip(np.rint(values.astype(np.float32)), 0, 255), dtype=np.uint8)
