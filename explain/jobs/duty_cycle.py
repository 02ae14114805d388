"""The duty-cycle limiter: while the server gives verdicts, explanations compute for only a small share of the time.

Idle scheduling (:mod:`veridict.deploy.serving.scheduling`) gives a verdict the core at once, but an explanation has
replaced the contents of the core's caches, and a core that is never idle is slow to wake another process. Both costs
disappear only while explanations do not run at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from veridict.client import ClientConfig
from veridict.forensics.signature import DETECTOR

from ..errors import ExplainError

LOG = logging.getLogger("veridict.explain")
#: Share of the time for which a worker computes while the server gives verdicts.
SHARE = 0.05
#: Seconds of work between two pauses: a few units of work, and too short for a person to notice.
WORK_SLICE = 0.1
#: Seconds between two polls of the server.
POLL_INTERVAL = 0.1
#: Idle time in seconds, without a verdict, after which explanations run at full speed.
IDLE_AFTER = 0.5
#: Seconds without an answer after which a server counts as idle. A server at its limit sometimes answers late, and that
#: is the worst moment to start computing.
UNREACHABLE_AFTER = 5.0
_TIMEOUT = 1.0


class Waitable(Protocol):
    """What ends a pause early: a ``threading.Event``, or the clock of a test."""

    def is_set(self) -> bool:
        """Return whether the pause must end."""

    def wait(self, timeout: float) -> bool:
        """Sleep for ``timeout`` seconds, or until it is set."""


class DutyCycle:
    """Decides when work is limited and how long it pauses. All times are seconds of one monotonic clock."""

    def __init__(self, share: float = SHARE) -> None:
        """Take the share of the time, 0 < ``share`` <= 1, for which work runs while the server gives verdicts.

        Raises:
            ExplainError: ``explain.bad_request`` for another share.
        """
        if not 0 < share <= 1:
            raise ExplainError("explain.bad_request", f"share must be above 0 and at most 1, not {share:g}")
        self._share = share
        self._count: int | None = None
        self._last_verdict = self._last_answer = float("-inf")
        self._worked = 0.0
        self.limiting = False

    def observe(self, count: int | None, now: float) -> None:
        """Take the number of requests that the server had counted at ``now``, None when it did not answer."""
        if count is None:
            self.limiting = self.limiting and now - self._last_answer < UNREACHABLE_AFTER
            return
        # A restarted server counts from 0 again: a lower count is no verdict.
        if self._count is not None and count > self._count:
            self._last_verdict = now
        self._count, self._last_answer = count, now
        self.limiting = now - self._last_verdict < IDLE_AFTER

    def pause_after(self, worked: float) -> float:
        """Return the seconds to pause after ``worked`` more seconds of work; 0 within a slice or without a limit.

        One call counts at most one slice. Longer work is a first import, a compilation, a stopped process, or one that
        waited for a core; counted in full it would cause a pause of minutes.
        """
        if not self.limiting:
            self._worked = 0.0
            return 0.0
        self._worked += min(worked, WORK_SLICE)
        if self._worked < WORK_SLICE:
            return 0.0
        pause = self._worked * (1 - self._share) / self._share
        self._worked = 0.0
        return pause


class DutyCycleLimiter:
    """Pauses a computing thread by a :class:`DutyCycle`, while another thread polls the server."""

    def __init__(
        self,
        duty_cycle: DutyCycle,
        count: Callable[[], int],
        *,
        on_pause: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the duty cycle and ``count``, which returns how many requests the detector has answered.

        ``count`` raises OSError when the server does not answer. ``on_pause`` receives the seconds of every pause.
        """
        self._duty_cycle, self._count, self._on_pause, self._clock = duty_cycle, count, on_pause, clock
        self._since = clock()
        self._reached = True
        self._stopped = False

    def start(self) -> None:
        """Poll the server in a thread until :meth:`stop`."""
        threading.Thread(target=self._poll_until_stopped, name="duty-cycle", daemon=True).start()

    def stop(self) -> None:
        """Never pause again, so that the current job can finish. Takes no lock."""
        self._stopped = True

    def _poll_until_stopped(self) -> None:
        while not self._stopped:
            time.sleep(POLL_INTERVAL if self.poll() else 10 * POLL_INTERVAL)

    def poll(self) -> bool:
        """Ask the server once; return whether it answered."""
        try:
            self._duty_cycle.observe(self._count(), self._clock())
        except OSError as error:
            self._duty_cycle.observe(None, self._clock())
            if self._reached:
                LOG.warning("cannot see whether the server gives verdicts (%s): explanations run at full speed", error)
            self._reached = False
        else:
            self._reached = True
        return self._reached

    def begin(self) -> None:
        """Start to measure work: the time before this call does not count."""
        self._since = self._clock()

    def pause(self, cancelled: Waitable) -> float:
        """Pause if the duty cycle asks for it, at most until ``cancelled`` is set; return the seconds paused."""
        began = now = self._clock()
        ends = began + self._duty_cycle.pause_after(began - self._since)
        while now < ends and self._duty_cycle.limiting and not self._stopped and not cancelled.is_set():
            cancelled.wait(min(POLL_INTERVAL, ends - now))
            now = self._clock()
        self._since = now
        if now > began:
            self._on_pause(now - began)
        return now - began


class VerdictCounter:
    """Asks a Triton server how many detector requests it has answered, including refused ones."""

    def __init__(self, server: ClientConfig) -> None:
        """Open a channel to the server; nothing is sent yet."""
        import tritonclient.grpc as triton

        # By default a channel waits up to two minutes before it connects to a lost server again.
        backoff = [("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 2000)]
        self._client: Any = triton.InferenceServerClient(**server.channel_arguments(), channel_args=backoff)
        self._url = server.url

    def __call__(self) -> int:
        """Return the count since the server started.

        Raises:
            ConnectionError: the server does not answer within a second, or does not serve the detector.
        """
        from tritonclient.utils import InferenceServerException

        try:
            found = self._client.get_inference_statistics(DETECTOR.name, client_timeout=_TIMEOUT)
        except InferenceServerException as error:
            raise ConnectionError(f"{self._url}: {error.message()}") from error
        stats = [model.inference_stats for model in found.model_stats]
        return sum(int(s.success.count) + int(s.fail.count) for s in stats)
