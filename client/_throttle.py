"""Client-side throttling: while a server refuses, most of what it would refuse is not sent to it.

A refusal costs an overloaded server a part of what a verdict costs, and that is lost to the requests it could judge:
see the table in loadtests/LOAD.md. Source: "Client-side throttling" in Beyer et al. 2016, Site Reliability Engineering,
ch. 21, with their aggressive ratio of 1.1, since a refusal here costs an eighth of a verdict; over a decaying window of
a second, since a full server is itself again within one.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._errors import DeadlineError, OverloadedError, UnavailableError, VeridictError

#: Time constant of the window in seconds; refusals in it that are passed over, so that a client with few requests is
#: never throttled; and the most that is held back, so that there are always requests that find out.
_WINDOW, _SLACK, _MOST = 1.0, 10.0, 0.9


class Throttle:
    """Counts what a server took and what it refused; safe to share between threads.

    With ``ratio`` k, requests are held back as soon as those of the last second exceed k times what was taken in; at
    most some k - 1 refusals come from the server for each request it takes. 0: nothing is ever held back.
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
        self._asked = self._taken = 0.0
        self._at = clock()

    @contextmanager
    def asking(self, request_id: str) -> Iterator[None]:
        """Check, then count how the call inside the ``with`` ends.

        Raises:
            OverloadedError: as :meth:`check`; the call is not begun.
        """
        self.check(request_id)
        try:
            yield
        except VeridictError as error:
            self.count(error)
            raise
        self.count(None)

    def check(self, request_id: str) -> None:
        """Return if the request may be sent.

        Raises:
            OverloadedError: it is held back; the code is ``client.throttled``.
        """
        with self._lock:
            self._decay()
            excess = self._asked - self._ratio * self._taken - _SLACK
            if not self._ratio or excess <= 0 or self._draw() >= min(_MOST, excess / self._asked):
                return
            self._asked += 1
        raise OverloadedError(
            "not sent: the server refused many requests of the last second",
            code="client.throttled",
            request_id=request_id,
        )

    def count(self, error: VeridictError | None) -> None:
        """Note the error of a request that was sent, None where it was answered.

        Only a full server is a reason to hold back; a refused image was taken in; of a server that cannot be reached,
        or that is late, nothing is known.
        """
        if isinstance(error, UnavailableError | DeadlineError):
            return
        with self._lock:
            self._decay()
            self._asked += 1
            self._taken += not isinstance(error, OverloadedError)

    def _decay(self) -> None:
        now = self._clock()
        kept = math.exp((self._at - now) / _WINDOW)
        self._asked *= kept
        self._taken *= kept
        self._at = now
