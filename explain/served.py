"""The served face CNN as a function over batches of crops: what SHAP and LIME perturb."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from opentelemetry import propagate

from veridict.forensics.signature import EXPLANATION_PRIORITY, FACE_CNN_EXPLAIN, FACE_PIXELS, LOGIT

from .attribution import Pixels
from .errors import ExplainError

_ATTEMPTS = 4
_BACKOFF = 0.2


class TritonScorer:
    """Scores uint8 crops [N, 224, 224, 3] on a Triton server; returns logits float32 [N], positive means fake.

    It asks ``face_cnn_explain``: the CPU profile runs that on cores which verdicts leave free, and on GPUs it is
    ``face_cnn``'s queue at low priority. There a verdict may still find a batch in flight, so requests hold at most
    ``batch`` crops. A full queue is waited out with backoff.
    """

    def __init__(self, url: str, *, batch: int = 16, timeout: float = 30.0) -> None:
        """Open a channel to ``host:port``; nothing is sent yet."""
        import tritonclient.grpc as triton

        self._triton: Any = triton
        self._client: Any = triton.InferenceServerClient(url)
        self._url, self._batch, self._timeout = url, min(batch, FACE_CNN_EXPLAIN.max_batch_size), timeout

    def __call__(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """Return one logit per crop.

        Raises:
            ExplainError: ``explain.model_unavailable`` after the retries.
        """
        parts = [self._infer(crops[i : i + self._batch]) for i in range(0, len(crops), self._batch)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _infer(self, crops: Pixels) -> npt.NDArray[np.float32]:
        from tritonclient.utils import InferenceServerException

        tensor = self._triton.InferInput(FACE_PIXELS.name, list(crops.shape), FACE_PIXELS.dtype)
        tensor.set_data_from_numpy(np.ascontiguousarray(crops))
        wanted = [self._triton.InferRequestedOutput(LOGIT.name)]
        headers: dict[str, str] = {}
        propagate.inject(headers)  # the server's spans join the request that asked for the explanation
        options = {
            "outputs": wanted,
            "client_timeout": self._timeout,
            "headers": headers or None,
            "priority": EXPLANATION_PRIORITY,
        }
        for attempt in range(_ATTEMPTS):
            try:
                result = self._client.infer(FACE_CNN_EXPLAIN.name, [tensor], **options)
                logits: npt.NDArray[np.float32] = result.as_numpy(LOGIT.name)[:, 0]
                return logits
            except InferenceServerException as error:
                if "unknown model" in str(error):  # a repository from before explanations had a step of their own
                    detail = f"{self._url} serves no {FACE_CNN_EXPLAIN.name}: veridict export makes it"
                    raise ExplainError("explain.model_unavailable", detail) from error
                if attempt + 1 == _ATTEMPTS:
                    raise ExplainError("explain.model_unavailable", f"at {self._url}") from error
                time.sleep(_BACKOFF * 2**attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the channel."""
        self._client.close()
