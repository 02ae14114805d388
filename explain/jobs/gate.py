"""The gate: while verdicts are given, explanations compute only a small share of the time.

Idle scheduling (:mod:`veridict.deploy.serving.scheduling`) gives a verdict the core, but not its caches; and a core
that is never idle is slow to wake another process. Both costs go away only where explanations do not run at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from veridict.forensics.signature import DETECTOR

from ..errors import ExplainError

LOG = logging.getLogger("veridict.explain")
#: Share of the time that a worker computes while verdicts are given.
SHARE = 0.05
#: Seconds of work between two pauses: a few units of work, and short beside what a person notices.
SLICE = 0.1
#: Seconds between two looks at the server, and seconds without a verdict after which nobody is in the way.
LOOK = 0.1
CALM = 0.5
#: A server that has not answered for so many seconds is held to give no verdicts. One that merely is at its limit
#: answers late now and then, and that is the worst moment to start computing.
UNANSWERED = 5.0
_TIMEOUT = 1.0


class Signal(Protocol):
    """What ends a wait early: a ``threading.Event``, or a test's clock."""

    def is_set(self) -> bool:
        """Return whether the wait is to end."""

    def wait(self, timeout: float) -> bool:
        """Sleep until it is set, at most ``timeout`` seconds."""


class Pace:
    """Decides when the gate is closed and how long work pauses; moments are seconds of one monotonic clock."""

    def __init__(self, share: float = SHARE) -> None:
        """Take the share of the time, 0 < ``share`` <= 1, that is worked while verdicts are given.

        Raises:
            ExplainError: ``explain.bad_request`` for another share.
        """
        if not 0 < share <= 1:
            raise ExplainError("explain.bad_request", f"share must be above 0 and at most 1, not {share:g}")
        self._share = share
        self._count: int | None = None
        self._verdict = self._answer = float("-inf")
        self._worked = 0.0
        self.closed = False

    def look(self, count: int | None, now: float) -> None:
        """Take what the server has counted at ``now``; None where it did not answer."""
        if count is None:
            self.closed = self.closed and now - self._answer < UNANSWERED
            return
        # a server that was restarted counts from 0 again
        if self._count is not None and count > self._count:
            self._verdict = now
        self._count, self._answer = count, now
        self.closed = now - self._verdict < CALM

    def pause_after(self, stretch: float) -> float:
        """Return the seconds to pause after another ``stretch`` of seconds worked; 0 within a slice or while open.

        A stretch counts as one slice at most: longer ones are a first import or compilation, a process that was
        stopped, or one that waited for a core, and would be followed by a pause of minutes.
        """
        if not self.closed:
            self._worked = 0.0
            return 0.0
        self._worked += min(stretch, SLICE)
        if self._worked < SLICE:
            return 0.0
        pause = self._worked * (1 - self._share) / self._share
        self._worked = 0.0
        return pause


class Gate:
    """Where computing loops wait their turn; one thread computes, another one looks at the server."""

    def __init__(
        self,
        pace: Pace,
        count: Callable[[], int],
        *,
        note: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the pace and ``count``, which returns how many requests the detector has answered or raises OSError.

        ``note`` is told the seconds of every wait.
        """
        self._pace, self._count, self._note, self._clock = pace, count, note, clock
        self._since = clock()
        self._reached = True
        # a plain flag: stop() is called in signal handlers, where an Event's lock may be held already
        self._stopped = False

    def start(self) -> None:
        """Look at the server from a thread of its own until :meth:`stop`."""
        threading.Thread(target=self._look_on, name="gate", daemon=True).start()

    def stop(self) -> None:
        """Open for good: what is in hand is to be finished."""
        self._stopped = True

    def _look_on(self) -> None:
        while not self._stopped:
            time.sleep(LOOK if self.look() else 10 * LOOK)

    def look(self) -> bool:
        """Look at the server once; return whether it answered."""
        try:
            self._pace.look(self._count(), self._clock())
        except OSError as error:
            self._pace.look(None, self._clock())
            if self._reached:
                LOG.warning("whether verdicts are given is unknown (%s): explanations do not wait for them", error)
            self._reached = False
        else:
            self._reached = True
        return self._reached

    def begin(self) -> None:
        """Start to count work: what passed before was none."""
        self._since = self._clock()

    def wait(self, signal: Signal) -> float:
        """Return when work may go on, at once where ``signal`` is set; the result is the seconds waited."""
        began = now = self._clock()
        ends = began + self._pace.pause_after(began - self._since)
        while now < ends and self._pace.closed and not self._stopped and not signal.is_set():
            signal.wait(min(LOOK, ends - now))
            now = self._clock()
        self._since = now
        if now > began:
            self._note(now - began)
        return now - began


class VerdictCounter:
    """Asks a Triton server how many detector requests it has answered, refused ones included."""

    def __init__(self, url: str) -> None:
        """Open a channel to ``host:port``; nothing is sent yet."""
        import tritonclient.grpc as triton

        # By default a channel waits up to two minutes before it tries a lost server again.
        backoff = [("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 2000)]
        self._client: Any = triton.InferenceServerClient(url, channel_args=backoff)
        self._url = url

    def __call__(self) -> int:
        """Return the count; it starts from 0 with the server.

        Raises:
            ConnectionError: the server does not answer within a second, or serves no detector.
        """
        from tritonclient.utils import InferenceServerException

        try:
            found = self._client.get_inference_statistics(DETECTOR.name, client_timeout=_TIMEOUT)
        except InferenceServerException as error:
            raise ConnectionError(f"{self._url}: {error.message()}") from error
        stats = [model.inference_stats for model in found.model_stats]
        return sum(int(s.success.count) + int(s.fail.count) for s in stats)
