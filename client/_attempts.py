"""The retry loop of one request, shared by the blocking and the asyncio client: they only sleep differently."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ._config import ClientConfig
from ._errors import DeadlineError, VeridictError, is_retryable


class Attempts:
    """Iterates over the attempts of one request; each item is the number of seconds left for it."""

    def __init__(self, config: ClientConfig, deadline: float | None, request_id: str) -> None:
        """Start the clock; ``deadline`` is seconds over all attempts, None stands for the configured one."""
        self._config, self._request_id = config, request_id
        self._ends = time.monotonic() + (config.deadline if deadline is None else deadline)
        self._attempt = 0
        self._last: VeridictError | None = None

    def __iter__(self) -> Iterator[float]:
        """Yield the seconds left before each attempt, until the attempts or the time are used up."""
        for attempt in range(self._config.attempts):
            self._attempt = attempt
            left = self._ends - time.monotonic()
            if left <= 0:
                return
            yield left

    def pause_after(self, error: VeridictError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            VeridictError: ``error`` itself, when a retry cannot help or this was the last attempt.
        """
        self._last = error
        if not is_retryable(error) or self._attempt + 1 == self._config.attempts:
            raise error
        return max(0.0, min(self._config.wait(self._attempt), self._ends - time.monotonic()))

    def failure(self) -> VeridictError:
        """Return the error of a request whose time was used up: that of the last attempt, if there was one."""
        return self._last or DeadlineError("no time left before the first attempt", request_id=self._request_id)
