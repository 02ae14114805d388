"""The blocking client."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any

from veridict.forensics.contract import Verdict

from ._attempts import Attempts
from ._cluster import Cluster
from ._config import ClientConfig
from ._errors import VeridictError
from ._types import ImageInput, Request, Result, Transport, encode_input, parse_answer
from .balancer import ReplicaState
from .tracing import request_span


class DetectorClient:
    """Judges images on one Veridict server or several replicas; a context manager, safe to share between threads.

    >>> with DetectorClient("127.0.0.1:8001") as client:  # doctest: +SKIP
    ...     print(client.detect("photo.jpg").verdict)
    """

    def __init__(
        self,
        url: str | Sequence[str] = "",
        *,
        config: ClientConfig | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Take a url as :class:`ClientConfig` describes it, or a whole one; ``transport`` replaces gRPC (for tests)."""
        base = config or ClientConfig()
        self.config = replace(base, url=url) if url else base
        self._cluster = Cluster(self.config, transport)

    def detect(
        self,
        image: ImageInput,
        *,
        request_id: str = "",
        deadline: float | None = None,
        trace_context: Mapping[str, str] | None = None,
        policy: str | None = None,
    ) -> Verdict:
        """Return the verdict on one image: encoded bytes, a path, a PIL image or a uint8 RGB array.

        ``deadline``: seconds from the call, over all attempts. ``trace_context``: ``traceparent`` and ``tracestate``,
        sent as gRPC metadata. ``policy``: the name of the policy that judges, in place of the configured one; "" names
        none.

        Raises:
            InputError: the input cannot be sent.
            InvalidImageError: the server refuses the image.
            UnknownPolicyError: the server has no policy of this name.
            ServerError: no verdict, after the retries that make sense.
            ProtocolError: the server does not speak ``veridict/1``.
        """
        request_id = request_id or uuid.uuid4().hex
        attempts = Attempts(self.config, deadline, request_id)  # the deadline includes the conversion
        data = encode_input(image)
        named = self.config.policy if policy is None else policy
        with request_span(request_id, trace_context) as headers:
            return self._ask(Request(data, request_id, headers, named), attempts)

    def _ask(self, request: Request, attempts: Attempts) -> Verdict:
        for left in attempts:
            try:
                answer = self._cluster.infer(request, attempts, left)
                return parse_answer(answer, request.request_id, request.policy)
            except VeridictError as error:
                time.sleep(attempts.pause_after(error, self._cluster.elsewhere(attempts)))
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
        """Return whether a server answers, and its detector and all models that it calls are loaded.

        With several replicas: whether that holds for at least one.
        """
        return self._cluster.ready(timeout)

    def replicas(self) -> list[ReplicaState]:
        """Return what the client knows of every replica; nothing is sent.

        With a DNS name the list is empty before the first request.
        """
        return self._cluster.states()

    def close(self) -> None:
        """Close the connections."""
        self._cluster.close()

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
