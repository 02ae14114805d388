"""The gRPC transport over tritonclient: tensors in, document out, statuses to typed errors."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from veridict.forensics.signature import IMAGE, VERDICT

from ._config import ClientConfig
from ._errors import DeadlineError, ProtocolError, VeridictError, from_status
from ._types import Answer

#: Seconds that gRPC waits for an answer after the caller's deadline, and seconds that closing waits for such answers.
#: A call is never cancelled: a cancellation that reaches the server in the middle of its ensemble crashes Triton 2.51
#: in one of fifty cases (fault 3 of docs/triton-2.51-faults.md).
_LATE, LINGER = 10.0, 2.0


def request_arguments(
    config: ClientConfig, data: bytes, request_id: str, timeout: float, headers: dict[str, str]
) -> dict[str, Any]:
    """Return the keyword arguments of one ``infer`` call.

    The server refuses a request that still waits a twentieth of the time before the deadline; gRPC itself waits for
    longer than the caller, who watches the deadline and leaves a late call to end by itself.
    """
    tensor = triton.InferInput(IMAGE.name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data]], dtype=np.object_))
    return {
        "model_name": config.model,
        "inputs": [tensor],
        "outputs": [triton.InferRequestedOutput(VERDICT.name)],
        "request_id": request_id,
        "client_timeout": timeout + _LATE,
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


def no_time_left(request_id: str) -> DeadlineError:
    """Return the error of a call whose caller stops waiting."""
    return DeadlineError("no answer before the deadline", request_id=request_id)


def to_error(error: InferenceServerException, request_id: str) -> VeridictError:
    """Return the typed error of a tritonclient exception."""
    return from_status(error.status() or "", error.message() or str(error), request_id)


class TritonTransport:
    """The default transport of :class:`DetectorClient`; one channel, safe to use from several threads."""

    def __init__(self, config: ClientConfig) -> None:
        """Open a channel; nothing is sent yet."""
        self._config = config
        self._client = triton.InferenceServerClient(**config.channel_arguments())
        self._in_flight = 0
        self._changed = threading.Condition()

    def infer(self, data: bytes, request_id: str, timeout: float, headers: dict[str, str]) -> Answer:
        """Send one image; after ``timeout`` seconds the caller gets an error, and the call ends by itself."""
        answered: SimpleQueue[tuple[Any, InferenceServerException | None]] = SimpleQueue()

        def ended(result: Any, error: InferenceServerException | None) -> None:
            answered.put((result, error))
            self._count(-1)

        self._count(1)
        try:
            self._client.async_infer(
                callback=ended, **request_arguments(self._config, data, request_id, timeout, headers)
            )
        except InferenceServerException as error:
            self._count(-1)
            raise to_error(error, request_id) from error
        try:
            result, failure = answered.get(timeout=timeout)
        except Empty:
            raise no_time_left(request_id) from None
        if failure is not None:
            raise to_error(failure, request_id) from failure
        return read_answer(result, request_id)

    def _count(self, change: int) -> None:
        with self._changed:
            self._in_flight += change
            if not self._in_flight:
                self._changed.notify_all()

    def ready(self, timeout: float) -> bool:
        """Return whether the detector is ready, and all that it calls."""
        try:
            # Triton does not know which networks a step of the ensemble calls, so ask for all models of the server.
            return bool(
                self._client.is_server_ready(client_timeout=timeout)
                and self._client.is_model_ready(self._config.model, client_timeout=timeout)
            )
        except InferenceServerException:
            return False

    def close(self) -> None:
        """Close the channel when the last calls have ended, or after two seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight, LINGER)
        self._client.close()
