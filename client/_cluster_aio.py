"""The asyncio client's replicas: the twin of :mod:`._cluster`, with tasks where that one has threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from ._attempts import Attempts
from ._config import ClientConfig
from ._errors import OverloadedError, VeridictError, may_succeed_elsewhere
from ._replicas import CHECK, Replicas
from ._triton import HEALTH_REQUEST, LINGER, no_time_left, read_outcome, request_arguments, shows_readiness
from ._types import Answer, Outcome, Request
from .addresses import Addresses, Endpoint
from .balancer import Replica
from .connections import Connections

_Replica = Replica["AsyncTritonTransport"]


class AsyncTritonTransport:
    """The asyncio transport to one replica."""

    def __init__(self, config: ClientConfig, endpoint: Endpoint) -> None:
        """Open a channel; nothing is sent yet."""
        self._config = config
        self._checks: set[asyncio.Task[Outcome]] = set()
        self._connections = Connections[Any](
            lambda: triton_aio.InferenceServerClient(**config.replica_arguments(endpoint)), config.connection_age
        )

    async def infer(self, request: Request, timeout: float) -> Outcome:
        """Send one image and return how the call ended, which may be after the deadline."""
        channel = self._connections.take()
        try:
            result = await channel.infer(**request_arguments(self._config, request, timeout))
            return read_outcome(result, None, request.request_id)
        except InferenceServerException as error:
            return read_outcome(None, error, request.request_id)
        finally:
            self._connections.give_back(channel)

    async def ready(self, timeout: float) -> bool:
        """Return whether the detector answers, and all that it calls is ready."""
        ends = time.monotonic() + timeout
        channel = self._connections.take()
        try:
            # Triton does not know which networks a step of the ensemble calls, so ask for all models of the server.
            if not await channel.is_server_ready(client_timeout=timeout):
                return False
            if not await channel.is_model_ready(self._config.model, client_timeout=timeout):
                return False
        except (InferenceServerException, asyncio.CancelledError):  # cancelled: the channel was closed meanwhile
            return False
        finally:
            self._connections.give_back(channel)
        left = max(0.1, ends - time.monotonic())
        check = asyncio.create_task(self.infer(HEALTH_REQUEST, left))
        self._checks.add(check)  # not cancelled when late, as every call; the set keeps it from being collected
        check.add_done_callback(self._checks.discard)
        return bool((await asyncio.wait({check}, timeout=left))[0]) and shows_readiness(check.result())

    async def close_retired(self) -> None:
        """Close replaced channels with no call in flight."""
        for channel in self._connections.retired():
            await channel.close()

    async def close(self) -> None:
        """Close all channels when the last checks have ended, or after two seconds."""
        if self._checks:
            await asyncio.wait(self._checks, timeout=LINGER)
        for channel in self._connections.wait(0.0):
            await channel.close()


class AsyncCluster(Replicas[AsyncTritonTransport]):
    """Everything behind one asyncio client."""

    def __init__(self, config: ClientConfig) -> None:
        """Open channels to the addresses that are known."""
        addresses = Addresses(config.url, config.resolve_seconds)
        super().__init__(config, addresses, lambda endpoint: AsyncTritonTransport(config, endpoint))
        self._resolving = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def infer(self, request: Request, attempts: Attempts, timeout: float) -> Answer:
        """Send one attempt, and a hedge when the configuration asks for it; return the first answer.

        Calls outlive their deadline and a cancelled caller until they end by themselves.

        Raises:
            VeridictError: no call gave an answer.
        """
        await self._tend()
        ends = time.monotonic() + timeout
        first = self._balancer.pick(attempts.tried, request.request_id)
        calls = {self._send(first, request, attempts, timeout)}
        hedge_at = ends - timeout + self._config.hedge_after if self._config.hedge_after else ends
        while True:
            wait = max(0.0, min(hedge_at, ends) - time.monotonic())
            ended, calls = await asyncio.wait(calls, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            outcomes = [call.result() for call in ended]
            for outcome in outcomes:
                if isinstance(outcome, Answer):
                    return outcome
            for outcome in outcomes:
                if isinstance(outcome, VeridictError) and (not calls or not may_succeed_elsewhere(outcome)):
                    raise outcome
            if outcomes:
                continue
            left = ends - time.monotonic()
            if left <= 0 or hedge_at >= ends:
                raise no_time_left(request.request_id)
            hedge_at = ends
            replica = self._balancer.hedge(attempts.tried)
            if replica is not None:
                try:
                    calls.add(self._send(replica, request, attempts, left))
                except OverloadedError:
                    pass  # held back by the throttle: the first call goes on alone

    def _send(self, replica: _Replica, request: Request, attempts: Attempts, timeout: float) -> asyncio.Task[Outcome]:
        call = self._begin(replica, attempts, timeout)

        async def send() -> Outcome:
            outcome = await replica.transport.infer(request, timeout)
            self._end(call, outcome)
            attempts.tried[replica] = outcome if isinstance(outcome, VeridictError) else None
            return outcome

        return self._start(send())

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not report it as never retrieved

    async def _tend(self) -> None:
        """Look up addresses, check ejected replicas and close old connections, in tasks where that takes time."""
        if not self._addresses.known:
            async with self._resolving:
                if not self._addresses.known and self._addresses.due():
                    await self._look_up()
        elif self._addresses.due():
            self._start(self._look_up())
        for replica in self._balancer.due():
            self._start(self._check(replica))
        for transport in self._balancer.leaving():
            await transport.close()
        for transport in self._balancer.current():
            await transport.close_retired()

    async def _look_up(self) -> None:
        self._balancer.update(await asyncio.to_thread(self._addresses.look_up))

    async def _check(self, replica: _Replica) -> None:
        self._balancer.checked(replica, await replica.transport.ready(CHECK))

    async def ready(self, timeout: float) -> bool:
        """Return whether at least one replica is ready."""
        await self._tend()
        return any(await asyncio.gather(*(transport.ready(timeout) for transport in self._balancer.current())))

    async def close(self) -> None:
        """Close every connection when the last calls have ended, or after two seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LINGER)
        for transport in self._balancer.transports():
            await transport.close()
