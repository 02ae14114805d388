"""The blocking client."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from veridict.forensics.contract import Verdict

from ._attempts import Attempts
from ._config import ClientConfig
from ._errors import VeridictError
from ._triton import TritonTransport
from ._types import ImageInput, Result, Transport, encode_input, parse_answer
from .throttle import Throttle


class DetectorClient:
    """Judges images on a Veridict server; a context manager, safe to share between threads.

    >>> with DetectorClient("127.0.0.1:8001") as client:  # doctest: +SKIP
    ...     print(client.detect("photo.jpg").verdict)
    """

    def __init__(
        self, url: str = "", *, config: ClientConfig | None = None, transport: Transport | None = None
    ) -> None:
        """Take a ``host:port``, or a whole :class:`ClientConfig`; ``transport`` replaces gRPC (for tests)."""
        base = config or ClientConfig()
        self.config = ClientConfig(**{**vars(base), "url": url}) if url else base
        self._transport = transport or TritonTransport(self.config)
        self._throttle = Throttle(self.config.throttle)

    def detect(
        self,
        image: ImageInput,
        *,
        request_id: str = "",
        deadline: float | None = None,
        trace_context: Mapping[str, str] | None = None,
    ) -> Verdict:
        """Return the verdict on one image: encoded bytes, a path, a PIL image or a uint8 RGB array.

        ``deadline``: seconds over all attempts. ``trace_context``: ``traceparent`` and ``tracestate``, sent as gRPC
        metadata.

        Raises:
            InputError: the input cannot be sent.
            InvalidImageError: the server refuses the image.
            ServerError: no verdict, after the retries that make sense.
            ProtocolError: the server does not speak ``veridict/1``.
        """
        data = encode_input(image)
        request_id = request_id or uuid.uuid4().hex
        attempts = Attempts(self.config, deadline, request_id)
        for left in attempts:
            try:
                with self._throttle.asking(request_id):
                    answer = self._transport.infer(data, request_id, left, dict(trace_context or {}))
                return parse_answer(answer, request_id)
            except VeridictError as error:
                time.sleep(attempts.pause_after(error))
        raise attempts.failure()

    def detect_many(
        self, images: Iterable[ImageInput], *, concurrency: int | None = None, deadline: float | None = None
    ) -> Iterator[Result]:
        """Yield a :class:`Result` per image, in order, with at most ``concurrency`` requests in flight.

        An error of one image is the ``error`` of its result; the others go on. The iterable is read lazily.
        """
        limit = concurrency or self.config.concurrency
        waiting: deque[tuple[int, Any, Future[Verdict]]] = deque()
        pool = ThreadPoolExecutor(limit)
        try:
            for index, image in enumerate(images):
                waiting.append((index, image, pool.submit(self.detect, image, deadline=deadline)))
                if len(waiting) >= limit * 2:
                    yield _collect(*waiting.popleft())
            while waiting:
                yield _collect(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)  # after an early stop, requests that have not begun are dropped

    def ready(self, timeout: float = 2.0) -> bool:
        """Return whether the server answers, and the detector and all models that it calls are loaded."""
        return self._transport.ready(timeout)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> DetectorClient:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _collect(index: int, source: Any, future: Future[Verdict]) -> Result:
    try:
        return Result(index, source, future.result(), None)
    except VeridictError as error:
        return Result(index, source, None, error)
