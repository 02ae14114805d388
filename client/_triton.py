"""The gRPC transport over tritonclient: tensors in, document out, statuses to typed errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from veridict.forensics.signature import IMAGE, VERDICT

from ._config import ClientConfig
from ._errors import ProtocolError, VeridictError, from_status
from ._types import Answer


def tls_arguments(config: ClientConfig) -> dict[str, Any]:
    """Return tritonclient's TLS arguments."""
    if config.tls is None:
        return {}
    paths = {
        "root_certificates": config.tls.root_certificates,
        "private_key": config.tls.key,
        "certificate_chain": config.tls.certificate,
    }
    return {"ssl": True, **{name: str(path) for name, path in paths.items() if path is not None}}


def request_arguments(
    config: ClientConfig, data: bytes, request_id: str, timeout: float, headers: dict[str, str]
) -> dict[str, Any]:
    """Return the keyword arguments of one ``infer`` call.

    The server drops a request that still waits a twentieth of the time before the deadline: Triton 2.51 was seen to
    crash when many calls were cancelled by their clients instead.
    """
    tensor = triton.InferInput(IMAGE.name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data]], dtype=np.object_))
    return {
        "model_name": config.model,
        "inputs": [tensor],
        "outputs": [triton.InferRequestedOutput(VERDICT.name)],
        "request_id": request_id,
        "client_timeout": timeout,
        "timeout": max(1, int(timeout * 0.95e6)),
        "headers": headers or None,
    }


def read_answer(result: Any, request_id: str) -> Answer:
    """Return the document of a tritonclient result.

    Raises:
        ProtocolError: the output is missing.
    """
    output = result.as_numpy(VERDICT.name)
    if output is None or output.size != 1:
        raise ProtocolError(f"the answer has no single {VERDICT.name}", request_id=request_id)
    return Answer(bytes(output.ravel()[0]))


def to_error(error: InferenceServerException, request_id: str) -> VeridictError:
    """Return the typed error of a tritonclient exception."""
    return from_status(error.status() or "", error.message() or str(error), request_id)


class TritonTransport:
    """The default transport of :class:`DetectorClient`; one channel, safe to use from several threads."""

    def __init__(self, config: ClientConfig) -> None:
        """Open a channel; nothing is sent yet."""
        self._config = config
        self._client = triton.InferenceServerClient(config.url, **tls_arguments(config))

    def infer(self, data: bytes, request_id: str, timeout: float, headers: dict[str, str]) -> Answer:
        """Send one image."""
        try:
            result = self._client.infer(**request_arguments(self._config, data, request_id, timeout, headers))
        except InferenceServerException as error:
            raise to_error(error, request_id) from error
        return read_answer(result, request_id)

    def ready(self, timeout: float) -> bool:
        """Return whether the detector is ready."""
        try:
            return bool(self._client.is_model_ready(self._config.model, client_timeout=timeout))
        except InferenceServerException:
            return False

    def close(self) -> None:
        """Close the channel."""
        self._client.close()
