"""Keeps one server running: a server that ends by itself is started again, on the same ports."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from .launcher import LaunchError, ServerSettings, TritonServer

#: Pauses before the first restart and the later ones, in seconds; the last one repeats.
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: A server that was ready for so many seconds counts as sound: the next restart has the first pause again.
SOUND_AFTER = 60.0
#: Failed starts in a row, after which the supervisor gives up.
MOST_FAILED_STARTS = 5


class Supervisor:
    """Runs a server until it is interrupted, and restarts it when it ends by itself or can no longer answer."""

    def __init__(
        self,
        settings: ServerSettings,
        log: Callable[[str], None],
        announce: Callable[[TritonServer], None],
        start_server: Callable[[ServerSettings, Callable[[str], None]], TritonServer] = TritonServer,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        """``log`` receives the server's lines and ours; ``announce`` is called with every server that became ready."""
        self._settings, self._log, self._announce = settings, log, announce
        self._start_server, self._pauses = start_server, pauses

    def run(self, restart: bool = True) -> str:
        """Serve; return why the last server ended, when it is not started again.

        Raises:
            LaunchError: the first start failed, or so many restarts in a row that another is of no use.
            RepositoryError: the model repository is incomplete or altered.
        """
        failures = short_lives = 0
        while True:
            began = None
            try:
                with self._start_server(self._settings, self._log) as server:
                    # A restarted server has the same addresses, also where the first one picked free ports.
                    grpc, http, metrics = (server.ports[name] for name in ("grpc", "http", "metrics"))
                    self._settings = replace(self._settings, grpc_port=grpc, http_port=http, metrics_port=metrics)
                    began = time.monotonic()
                    self._announce(server)
                    status = server.wait()
                    reason = server.fault or f"tritonserver ended by itself with status {status}"
                failures = 0
            except LaunchError as error:
                failures += 1
                if short_lives == 0 or failures >= MOST_FAILED_STARTS:  # the first start, or hopeless
                    raise
                reason = str(error)
            if not restart:
                return reason
            sound = began is not None and time.monotonic() - began >= SOUND_AFTER
            short_lives = 1 if sound else short_lives + 1
            pause = self._pauses[min(short_lives, len(self._pauses)) - 1]
            self._log(f"veridict: {reason}; starting again" + (f" in {pause:g} s" if pause else ""))
            time.sleep(pause)
