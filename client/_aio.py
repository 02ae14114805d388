"""The asyncio client."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from veridict.forensics.contract import Verdict

from ._attempts import Attempts
from ._cluster_aio import AsyncCluster
from ._config import ClientConfig
from ._errors import VeridictError
from ._types import ImageInput, Request, Result, encode_input, parse_answer
from .balancer import ReplicaState
from .tracing import request_span


class AsyncDetectorClient:
    """The asyncio twin of :class:`DetectorClient`; create and use it inside one event loop.

    >>> async with AsyncDetectorClient("127.0.0.1:8001") as client:  # doctest: +SKIP
    ...     verdict = await client.detect(data)
    """

    def __init__(self, url: str | Sequence[str] = "", *, config: ClientConfig | None = None) -> None:
        """Take a url as :class:`ClientConfig` describes it, or a whole one."""
        base = config or ClientConfig()
        self.config = replace(base, url=url) if url else base
        self._cluster = AsyncCluster(self.config)

    async def detect(
        self,
        image: ImageInput,
        *,
        request_id: str = "",
        deadline: float | None = None,
        trace_context: Mapping[str, str] | None = None,
        policy: str | None = None,
    ) -> Verdict:
        """Return the verdict on one image; arguments and errors as :meth:`DetectorClient.detect`."""
        request_id = request_id or uuid.uuid4().hex
        attempts = Attempts(self.config, deadline, request_id)  # the deadline includes the conversion
        data = await asyncio.to_thread(encode_input, image)
        named = self.config.policy if policy is None else policy
        with request_span(request_id, trace_context) as headers:
            return await self._ask(Request(data, request_id, headers, named), attempts)

    async def _ask(self, request: Request, attempts: Attempts) -> Verdict:
        for left in attempts:
            try:
                answer = await self._cluster.infer(request, attempts, left)
                return parse_answer(answer, request.request_id, request.policy)
            except VeridictError as error:
                await asyncio.sleep(attempts.pause_after(error, self._cluster.elsewhere(attempts)))
        raise attempts.failure()

    async def detect_many(
        self, images: Iterable[ImageInput], *, concurrency: int | None = None, deadline: float | None = None
    ) -> AsyncIterator[Result]:
        """Yield a :class:`Result` per image, in order, with at most ``concurrency`` requests in flight."""
        limit = asyncio.Semaphore(concurrency or self.config.concurrency)
        most = 2 * (concurrency or self.config.concurrency)

        async def judge(index: int, image: Any) -> Result:
            async with limit:
                try:
                    return Result(index, image, await self.detect(image, deadline=deadline), None)
                except VeridictError as error:
                    return Result(index, image, None, error)

        waiting: deque[asyncio.Task[Result]] = deque()
        try:
            for index, image in enumerate(images):
                waiting.append(asyncio.create_task(judge(index, image)))
                if len(waiting) >= most:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()

    async def ready(self, timeout: float = 2.0) -> bool:
        """Return whether at least one server answers, and its detector and all models that it calls are loaded."""
        return await self._cluster.ready(timeout)

    def replicas(self) -> list[ReplicaState]:
        """Return what the client knows of every replica, as :meth:`DetectorClient.replicas`."""
        return self._cluster.states()

    async def close(self) -> None:
        """Close the connections when the last calls have ended, or after two seconds."""
        await self._cluster.close()

    async def __aenter__(self) -> AsyncDetectorClient:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()
