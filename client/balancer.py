"""Which replica gets the next request: round robin over those in rotation, ejection of those that fail, hedging.

Pure bookkeeping: nothing is sent and nobody waits here. The method is that of Envoy's outlier detection and of gRFC A50
(consecutive failures, ejection time that grows), except that an ejected replica must answer a readiness check before it
gets requests again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from ._config import ClientConfig
from ._errors import InternalError, OverloadedError, ProtocolError, UnavailableError, VeridictError
from .addresses import Endpoint
from .throttle import Throttle

T = TypeVar("T")
#: The longest ejection, in multiples of the first one.
_LONGEST = 60.0
#: Hedges per request, and how many may be saved up: a server that is slow for all requests must not get them twice.
_HEDGES, _SAVED = 0.1, 10.0
#: Errors that speak against the replica. Refused images, a full server and late requests are answers of a live one.
_FAILURES = (UnavailableError, InternalError, ProtocolError)


@dataclass(frozen=True)
class ReplicaState:
    """One replica as the client sees it.

    ``ejected``: out of rotation, for ``ejected_for`` more seconds before it is checked again (0 where not ejected).
    ``failures``: consecutive ones. ``sent``: requests so far, retries and hedges included. ``in_flight``: of these, the
    unanswered ones.
    """

    address: str
    ejected: bool
    ejected_for: float
    failures: int
    sent: int
    in_flight: int


class Replica(Generic[T]):
    """One replica's record, kept by the :class:`Balancer`; ``transport`` is what requests are sent with."""

    def __init__(self, endpoint: Endpoint, transport: T, throttle: Throttle) -> None:
        """Start in rotation."""
        self.endpoint, self.transport, self.throttle = endpoint, transport, throttle
        self.calls: set[Call[T]] = set()
        self.sent = self.failures = self.ejections = 0
        self.ejected = self.on_trial = self.checking = False
        self.changed = self.until = 0.0


@dataclass(eq=False)
class Call(Generic[T]):
    """One request that was sent to a replica at ``began``; the caller stops waiting at ``ends``."""

    replica: Replica[T]
    began: float
    ends: float
    counted: bool = False


class Balancer(Generic[T]):
    """Keeps the replicas and decides; safe to share between threads."""

    def __init__(
        self,
        config: ClientConfig,
        open_transport: Callable[[Endpoint], T],
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Start without replicas; the first request goes to a random one, so that many clients spread theirs."""
        self._config, self._open, self._clock, self._draw = config, open_transport, clock, draw
        self._lock = threading.Lock()
        self._replicas: list[Replica[T]] = []
        self._gone: list[Replica[T]] = []
        #: Whose turn it is for first attempts, and for retries and hedges. With one turn for both, a slow replica would
        #: get every first attempt, since each hedge to the other one would make it next again.
        self._turns = {False: -1, True: -1}
        self._hedges = _SAVED

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Set the replicas. Known ones keep their record; those left out get no more requests."""
        with self._lock:
            known = {replica.endpoint: replica for replica in self._replicas}
            wanted = list(endpoints)
            self._replicas = [known[e] if e in known else self._make(e) for e in wanted]
            self._gone += [replica for endpoint, replica in known.items() if endpoint not in wanted]

    def _make(self, endpoint: Endpoint) -> Replica[T]:
        return Replica(endpoint, self._open(endpoint), Throttle(self._config.throttle, self._clock, self._draw))

    def pick(self, tried: Mapping[Replica[T], VeridictError | None], request_id: str = "") -> Replica[T]:
        """Return the replica for the next attempt of a request; ``tried`` has the errors of its earlier attempts.

        The next one in turn of the best group: in rotation and untried, then full, then ejected, then failed.

        Raises:
            UnavailableError: no replica is known.
        """

        def rank(replica: Replica[T]) -> int:
            if replica in tried:
                return 1 if isinstance(tried[replica], OverloadedError) and not replica.ejected else 3
            return 2 if replica.ejected else 0

        with self._lock:
            if not self._replicas:
                raise UnavailableError("no server address is known: the DNS lookup gave none", request_id=request_id)
            self._count_overdue()
            self._hedges = min(_SAVED, self._hedges + _HEDGES)
            return self._in_turn(rank, bool(tried))

    def _in_turn(self, rank: Callable[[Replica[T]], int], again: bool) -> Replica[T]:
        total, turn = len(self._replicas), self._turns[again]
        first = turn if turn >= 0 else int(self._draw() * total)
        places = [(first + step) % total for step in range(total)]
        chosen = min(places, key=lambda place: rank(self._replicas[place]))
        self._turns[again] = chosen + 1
        return self._replicas[chosen]

    def hedge(self, tried: Mapping[Replica[T], VeridictError | None]) -> Replica[T] | None:
        """Return an untried replica in rotation for a second call of a request, or None: none is left, or no budget.

        At most a tenth of the requests are hedged in the long run.
        """
        with self._lock:
            if self._hedges < 1 or not any(not r.ejected and r not in tried for r in self._replicas):
                return None
            self._hedges -= 1
            return self._in_turn(lambda replica: int(replica.ejected or replica in tried), True)

    def elsewhere(self, tried: Mapping[Replica[T], VeridictError | None]) -> bool:
        """Return whether a replica in rotation is untried: a retry there need not wait."""
        with self._lock:
            return any(not replica.ejected and replica not in tried for replica in self._replicas)

    def begin(self, replica: Replica[T], timeout: float, request_id: str) -> Call[T]:
        """Count a request that is about to be sent; its caller waits ``timeout`` seconds.

        Raises:
            OverloadedError: the replica's throttle holds the request back; the code is ``client.throttled``.
        """
        replica.throttle.check(request_id)
        with self._lock:
            now = self._clock()
            call = Call(replica, now, now + timeout)
            replica.calls.add(call)
            replica.sent += 1
            return call

    def end(self, call: Call[T], error: VeridictError | None) -> None:
        """Count how a request ended."""
        call.replica.throttle.count(error)
        with self._lock:
            call.replica.calls.discard(call)
            if isinstance(error, _FAILURES):
                self._failed(call)
            else:
                self._answered(call)

    def _count_overdue(self) -> None:
        """Count requests that nobody answered in time: of a hung server nothing else is heard."""
        now = self._clock()
        for replica in self._replicas:
            for call in replica.calls:
                if now >= call.ends and not call.counted:
                    self._failed(call)

    def _failed(self, call: Call[T]) -> None:
        replica = call.replica
        if call.counted or call.began < replica.changed:
            return  # sent before the replica was ejected or came back: that failure is known
        call.counted = True
        replica.failures += 1
        limit = 1 if replica.on_trial else self._config.eject_after
        if not replica.ejected and replica.failures >= limit and len(self._replicas) > 1:
            self._eject(replica)

    def _eject(self, replica: Replica[T]) -> None:
        replica.changed = self._clock()
        replica.until = replica.changed + self._config.eject_seconds * min(2.0**replica.ejections, _LONGEST)
        replica.ejections += 1
        replica.ejected = True
        replica.on_trial = replica.checking = False

    def _answered(self, call: Call[T]) -> None:
        replica, now = call.replica, self._clock()
        if call.counted or call.began < replica.changed:
            return
        replica.failures = 0
        replica.on_trial = False
        if replica.ejected:  # all were ejected, so this one got a request
            self._return(replica)
        elif now - replica.changed > self._config.eject_seconds * _LONGEST:
            replica.ejections = 0

    def _return(self, replica: Replica[T]) -> None:
        replica.changed = self._clock()
        replica.failures = 0
        replica.ejected, replica.on_trial, replica.checking = False, True, False

    def due(self) -> list[Replica[T]]:
        """Return the ejected replicas to check for readiness now; report each to :meth:`checked`."""
        with self._lock:
            now = self._clock()
            found = [r for r in self._replicas if r.ejected and not r.checking and now >= r.until]
            for replica in found:
                replica.checking = True
            return found

    def checked(self, replica: Replica[T], ready: bool) -> None:
        """Take the result of a readiness check: back in rotation on trial, or ejected for longer."""
        with self._lock:
            if replica.ejected:
                if ready:
                    self._return(replica)
                else:
                    self._eject(replica)

    def leaving(self) -> list[T]:
        """Return the transports of removed replicas with no call in flight, each once: the caller closes them."""
        with self._lock:
            done = [replica for replica in self._gone if not replica.calls]
            self._gone = [replica for replica in self._gone if replica.calls]
            return [replica.transport for replica in done]

    def transports(self) -> list[T]:
        """Return the transports of all replicas, those with last calls in flight included."""
        with self._lock:
            return [replica.transport for replica in [*self._replicas, *self._gone]]

    def current(self) -> list[T]:
        """Return the transports of the present replicas."""
        with self._lock:
            return [replica.transport for replica in self._replicas]

    def states(self) -> list[ReplicaState]:
        """Return the state of every present replica."""
        with self._lock:
            now = self._clock()
            return [
                ReplicaState(
                    replica.endpoint.address,
                    replica.ejected,
                    max(0.0, replica.until - now) if replica.ejected else 0.0,
                    replica.failures,
                    replica.sent,
                    len(replica.calls),
                )
                for replica in self._replicas
            ]
