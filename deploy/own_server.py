"""A server for the length of one command, which does not outlive it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from .launcher import ServerSettings, TritonServer

_FREE_PORTS = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def own_server(settings: ServerSettings = _FREE_PORTS) -> Iterator[TritonServer]:
    """Yield a running server, by default on free loopback ports; SIGTERM stops it like Ctrl-C. Main thread only.

    Raises:
        LaunchError: it cannot be started.
        RepositoryError: the model repository is incomplete or altered.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with TritonServer(settings) as server:
            yield server
    finally:
        signal.signal(signal.SIGTERM, before)
