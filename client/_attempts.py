"""The retry loop of one request, shared by the blocking and the asyncio client: they only sleep differently."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ._config import ClientConfig
from ._errors import DeadlineError, InternalError, OverloadedError, TlsError, VeridictError, is_retryable
from .balancer import Replica


class Attempts:
    """Iterates over the attempts of one request; each item is the number of seconds left for it."""

    def __init__(self, config: ClientConfig, deadline: float | None, request_id: str) -> None:
        """Start the clock; ``deadline`` is seconds over all attempts, None stands for the configured one."""
        self._config, self.request_id = config, request_id
        self._ends = time.monotonic() + (config.deadline if deadline is None else deadline)
        self._attempt = 0
        self._last: VeridictError | None = None
        #: The replicas that were tried, with their last errors; None while a call is in flight.
        self.tried: dict[Replica[Any], VeridictError | None] = {}

    def __iter__(self) -> Iterator[float]:
        """Yield the seconds left before each attempt, until the attempts or the time are used up."""
        for attempt in range(self._config.attempts):
            self._attempt = attempt
            left = self._ends - time.monotonic()
            if left <= 0:
                return
            yield left

    def pause_after(self, error: VeridictError, elsewhere: bool) -> float:
        """Return the seconds to wait before the next attempt.

        There is no wait where a replica failed and another one can be asked (``elsewhere``). After a refusal the client
        waits all the same, since the other replicas are likely to be full too. An internal error is retried once, and
        only elsewhere: the image may be the cause. So is one without a trusted connection.

        Raises:
            VeridictError: ``error`` itself, when a retry cannot help or this was the last attempt.
        """
        again = is_retryable(error)
        if isinstance(error, InternalError):
            again = elsewhere and not isinstance(self._last, InternalError)
        elif isinstance(error, TlsError):
            again = elsewhere
        self._last = error
        if not again or self._attempt + 1 == self._config.attempts:
            raise error
        if elsewhere and not isinstance(error, OverloadedError):
            return 0.0
        return max(0.0, min(self._config.wait(self._attempt), self._ends - time.monotonic()))

    def failure(self) -> VeridictError:
        """Return the error of a request whose time was used up: that of the last attempt, if there was one."""
        return self._last or DeadlineError("no time left before the first attempt", request_id=self.request_id)
