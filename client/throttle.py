"""Client-side throttling: while a server refuses requests, the client sends only part of them.

Each refusal costs an overloaded server about an eighth of a verdict, time that it lacks for requests that it accepts
(table in loadtests/LOAD.md). Source: "Client-side throttling" in Beyer et al. 2016, Site Reliability Engineering, ch.
21, with the aggressive ratio of 1.1 because of that cost, over a window that decays within a second, because a full
server recovers within a second.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

from ._errors import DeadlineError, OverloadedError, UnavailableError, VeridictError

#: Time constant of the window, in seconds.
_WINDOW = 1.0
#: Refusals in the window that are ignored, so that a client with few requests is never throttled.
_SLACK = 10.0
#: Largest share of requests that is not sent, so that some requests always test whether the server has recovered.
_MOST = 0.9


class Throttle:
    """Counts the requests that a server accepts and refuses; safe to share between threads.

    With ``ratio`` k, requests are not sent while those of the last second exceed k times the accepted ones. So the
    server refuses at most about k - 1 requests for each one that it accepts. 0: every request is sent.
    """

    def __init__(
        self,
        ratio: float,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Start with an empty window."""
        self._ratio, self._clock, self._draw = ratio, clock, draw
        self._lock = threading.Lock()
        self._sent = self._accepted = 0.0
        self._at = clock()

    def check(self, request_id: str) -> None:
        """Return if the request may be sent.

        Raises:
            OverloadedError: it may not be sent; the code is ``client.throttled``.
        """
        with self._lock:
            self._decay()
            excess = self._sent - self._ratio * self._accepted - _SLACK
            if not self._ratio or excess <= 0 or self._draw() >= min(_MOST, excess / self._sent):
                return
            self._sent += 1
        raise OverloadedError(
            "not sent: the server refused many requests of the last second",
            code="client.throttled",
            request_id=request_id,
        )

    def count(self, error: VeridictError | None) -> None:
        """Count the error of a request that was sent, or None for an answer.

        Only a full server throttles: a refused image was accepted as a request, and an unreachable or late server says
        nothing about its load.
        """
        if isinstance(error, UnavailableError | DeadlineError):
            return
        with self._lock:
            self._decay()
            self._sent += 1
            self._accepted += not isinstance(error, OverloadedError)

    def _decay(self) -> None:
        now = self._clock()
        kept = math.exp((self._at - now) / _WINDOW)
        self._sent *= kept
        self._accepted *= kept
        self._at = now
