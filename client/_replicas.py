"""What the blocking and the asyncio client share about their replicas; they only send and wait differently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ._attempts import Attempts
from ._config import ClientConfig
from ._errors import OverloadedError, UnavailableError, VeridictError
from ._types import Outcome
from .addresses import Addresses, Endpoint
from .balancer import Balancer, Call, Replica, ReplicaState

T = TypeVar("T")
#: Seconds that a readiness check of an ejected replica may take.
CHECK = 2.0


class Replicas(Generic[T]):
    """The addresses and the balancer of one client."""

    def __init__(self, config: ClientConfig, addresses: Addresses, open_transport: Callable[[Endpoint], T]) -> None:
        """Open channels to the addresses that are known."""
        self._config, self._addresses = config, addresses
        self._balancer: Balancer[T] = Balancer(config, open_transport)
        self._balancer.update(addresses.known)

    def _begin(self, replica: Replica[T], attempts: Attempts, timeout: float) -> Call[T]:
        """Count a call that is about to be sent.

        Raises:
            OverloadedError: the replica's throttle holds it back.
        """
        try:
            call = self._balancer.begin(replica, timeout, attempts.request_id)
        except OverloadedError as error:
            attempts.tried[replica] = error
            raise
        attempts.tried[replica] = None
        return call

    def _end(self, call: Call[T], outcome: Outcome) -> None:
        """Count how a call ended."""
        error = outcome if isinstance(outcome, VeridictError) else None
        self._balancer.end(call, error)
        if isinstance(error, UnavailableError):
            self._addresses.hasten()

    def elsewhere(self, attempts: Attempts) -> bool:
        """Return whether a replica in rotation has not been asked yet."""
        return self._balancer.elsewhere(attempts.tried)

    def states(self) -> list[ReplicaState]:
        """Return the state of every replica."""
        return self._balancer.states()
