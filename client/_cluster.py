"""The blocking client's replicas: sends each attempt to one of them, and keeps them in order in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Protocol

from ._attempts import Attempts
from ._config import ClientConfig
from ._errors import OverloadedError, VeridictError, may_succeed_elsewhere
from ._replicas import CHECK, Replicas
from ._triton import TritonTransport, no_time_left
from ._types import Answer, Outcome, Request, Transport
from .addresses import Addresses, Endpoint
from .balancer import Replica

_Replica = Replica["Sender"]


class Sender(Protocol):
    """How requests reach one replica."""

    def begin(self, request: Request, timeout: float, done: Callable[[Outcome], None]) -> None:
        """Send one request; call ``done`` once, when the call has ended."""

    def ready(self, timeout: float) -> bool:
        """Return whether the replica is ready to judge."""

    def close_retired(self) -> None:
        """Close replaced connections that have no call in flight."""

    def close(self) -> None:
        """Release the connections."""


class BlockingSender:
    """Sends by a :class:`Transport`, in the caller's thread."""

    def __init__(self, transport: Transport) -> None:
        """Take the transport."""
        self._transport = transport

    def begin(self, request: Request, timeout: float, done: Callable[[Outcome], None]) -> None:
        """Send and wait for the answer."""
        try:
            done(self._transport.infer(request.data, request.request_id, timeout, request.headers))
        except VeridictError as error:
            done(error)

    def ready(self, timeout: float) -> bool:
        """Return whether the transport's server is ready."""
        return self._transport.ready(timeout)

    def close_retired(self) -> None:
        """Do nothing: the transport has one connection."""

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


class Cluster(Replicas[Sender]):
    """Everything behind one blocking client; safe to share between threads."""

    def __init__(self, config: ClientConfig, transport: Transport | None) -> None:
        """Open channels to the addresses that are known; ``transport`` replaces gRPC."""

        def connect(endpoint: Endpoint) -> Sender:
            return BlockingSender(transport) if transport else TritonTransport(config, endpoint)

        # A transport stands for one replica.
        super().__init__(config, Addresses("transport" if transport else config.url, config.resolve_seconds), connect)
        self._resolving = threading.Lock()

    def infer(self, request: Request, attempts: Attempts, timeout: float) -> Answer:
        """Send one attempt, and a hedge when the configuration asks for it; return the first answer.

        Raises:
            VeridictError: no call gave an answer.
        """
        self._tend()
        ends = time.monotonic() + timeout
        outcomes: SimpleQueue[tuple[_Replica, Outcome]] = SimpleQueue()
        self._send(self._balancer.pick(attempts.tried, request.request_id), request, attempts, timeout, outcomes)
        hedge_at = ends - timeout + self._config.hedge_after if self._config.hedge_after else ends
        while True:
            try:
                replica, outcome = outcomes.get(timeout=max(0.0, min(hedge_at, ends) - time.monotonic()))
            except Empty:
                left = ends - time.monotonic()
                if left <= 0 or hedge_at >= ends:
                    raise no_time_left(request.request_id) from None
                hedge_at = ends
                self._hedge(request, attempts, left, outcomes)
                continue
            if isinstance(outcome, Answer):
                return outcome
            attempts.tried[replica] = outcome
            if None not in attempts.tried.values() or not may_succeed_elsewhere(outcome):
                raise outcome

    def _send(
        self,
        replica: _Replica,
        request: Request,
        attempts: Attempts,
        timeout: float,
        outcomes: SimpleQueue[tuple[_Replica, Outcome]],
    ) -> None:
        call = self._begin(replica, attempts, timeout)

        def done(outcome: Outcome) -> None:
            self._end(call, outcome)
            outcomes.put((replica, outcome))

        replica.transport.begin(request, timeout, done)

    def _hedge(
        self, request: Request, attempts: Attempts, left: float, outcomes: SimpleQueue[tuple[_Replica, Outcome]]
    ) -> None:
        replica = self._balancer.hedge(attempts.tried)
        if replica is not None:
            try:
                self._send(replica, request, attempts, left, outcomes)
            except OverloadedError:
                pass  # held back by the throttle: the first call goes on alone

    def _tend(self) -> None:
        """Look up addresses, check ejected replicas and close old connections, in threads where that takes time."""
        if not self._addresses.known:
            with self._resolving:
                if not self._addresses.known and self._addresses.due():
                    self._look_up()
        elif self._addresses.due():
            _in_background(self._look_up)
        for replica in self._balancer.due():
            _in_background(self._check, replica)
        for sender in self._balancer.leaving():
            sender.close()
        for sender in self._balancer.current():
            sender.close_retired()

    def _look_up(self) -> None:
        self._balancer.update(self._addresses.look_up())

    def _check(self, replica: _Replica) -> None:
        self._balancer.checked(replica, replica.transport.ready(CHECK))

    def ready(self, timeout: float) -> bool:
        """Return whether at least one replica is ready."""
        self._tend()
        senders = self._balancer.current()
        if len(senders) < 2:
            return any(sender.ready(timeout) for sender in senders)
        with ThreadPoolExecutor(len(senders)) as pool:
            return any(pool.map(lambda sender: sender.ready(timeout), senders))

    def close(self) -> None:
        """Close every connection."""
        for sender in self._balancer.transports():
            sender.close()


def _in_background(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()
