"""Keeps one server running: a server that ends by itself is followed by its standby, or started again, on its ports.

A standby is a second server that has loaded its models and waits (:mod:`.start_gate`). It takes over within a second,
where a start takes as long as loading the networks does, and it needs as much memory as the server itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from .launcher import LaunchError, ServerSettings, TritonServer
from .manifest import RepositoryError

#: Pauses before the first restart and the later ones, in seconds; the last one repeats. A standby follows at once.
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: A server that was ready for so many seconds counts as sound: the next restart has the first pause again.
SOUND_AFTER = 60.0
#: Failed starts in a row, after which the supervisor gives up: the service, or the standby.
MOST_FAILED_STARTS = 5
#: Seconds between two looks at the standby.
STANDBY_CHECKED_EVERY = 1.0


class Supervisor:
    """Runs a server until it is interrupted, and replaces it when it ends by itself or can no longer answer."""

    def __init__(
        self,
        settings: ServerSettings,
        log: Callable[[str], None],
        announce: Callable[[TritonServer], None],
        start_server: Callable[[ServerSettings, Callable[[str], None]], TritonServer] = TritonServer,
        pauses: tuple[float, ...] = PAUSES,
        standby: bool = False,
    ) -> None:
        """``log`` receives the server's lines and ours; ``announce`` is called with every server that became ready.

        ``standby``: keep a second server loaded, unless :meth:`run` is told not to restart.
        """
        self._settings, self._log, self._announce = settings, log, announce
        self._start_server, self._pauses = start_server, pauses
        self._with_standby = standby
        self._standby: TritonServer | None = None
        self._failed_standbys, self._next_standby = 0, 0.0

    def run(self, restart: bool = True) -> str:
        """Serve; return why the last server ended, when it is not started again.

        Raises:
            LaunchError: the first start failed, or so many restarts in a row that another is of no use.
            RepositoryError: the model repository is incomplete or altered.
        """
        try:
            return self._run(restart)
        finally:
            self._stop_standby()

    def _run(self, restart: bool) -> str:
        failures = short_lives = 0
        while True:
            began = None
            try:
                with self._take_standby() or self._start_server(self._settings, self._log) as server:
                    # A restarted server has the same addresses, also where the first one picked free ports.
                    grpc, http, metrics = (server.ports[name] for name in ("grpc", "http", "metrics"))
                    self._settings = replace(self._settings, grpc_port=grpc, http_port=http, metrics_port=metrics)
                    began = time.monotonic()
                    self._announce(server)
                    status = self._wait(server, restart and self._with_standby)
                    if self._standby is not None:  # the ports are free: it need not wait for the clean-up
                        self._standby.release()
                    reason = server.fault or f"tritonserver ended by itself with status {status}"
                    if not restart:
                        return reason
                failures = 0
            except LaunchError as error:
                failures += 1
                if short_lives == 0 or failures >= MOST_FAILED_STARTS:  # the first start, or hopeless
                    raise
                reason = str(error)
            sound = began is not None and time.monotonic() - began >= SOUND_AFTER
            short_lives = 1 if sound else short_lives + 1
            if self._standby is not None and self._standby.alive():
                self._log(f"veridict: {reason}; the standby takes over")
                continue
            pause = self._pauses[min(short_lives, len(self._pauses)) - 1]
            self._log(f"veridict: {reason}; starting again" + (f" in {pause:g} s" if pause else ""))
            time.sleep(pause)

    def _wait(self, server: TritonServer, with_standby: bool) -> int | None:
        """Wait until the server ends, and keep a standby meanwhile; return the exit status."""
        if not with_standby:
            return server.wait()
        self._failed_standbys, self._next_standby = 0, 0.0
        try:
            while True:
                self._keep_standby()
                if (status := server.wait(STANDBY_CHECKED_EVERY)) is not None:
                    return status
        except BaseException:  # an interrupt: the requests in flight get all cores
            self._stop_standby()
            raise

    def _keep_standby(self) -> None:
        """Start a standby where there is none, or where it ended; not for ever, since it may lack memory."""
        if self._standby is not None:
            if self._standby.alive():
                return
            self._standby_failed(self._standby.fault or "its process ended")
            self._stop_standby()
        if self._failed_standbys >= MOST_FAILED_STARTS or time.monotonic() < self._next_standby:
            return
        self._log("veridict: loading a standby")
        standby = self._start_server(self._settings, self._log)
        try:
            standby.hold()
        except (LaunchError, RepositoryError, ValueError, OSError) as error:
            self._standby_failed(str(error))
        else:
            self._standby = standby

    def _standby_failed(self, reason: str) -> None:
        self._failed_standbys += 1
        pause = self._pauses[-1]
        self._next_standby = time.monotonic() + pause
        last = self._failed_standbys >= MOST_FAILED_STARTS
        self._log(f"veridict: no standby: {reason}; " + ("given up" if last else f"another one in {pause:g} s"))

    def _take_standby(self) -> TritonServer | None:
        """Return the living standby, which is then the caller's."""
        if self._standby is None or not self._standby.alive():
            self._stop_standby()
            return None
        standby, self._standby = self._standby, None
        return standby

    def _stop_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.stop()
