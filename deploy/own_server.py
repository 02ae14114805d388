"""A server that a command starts for itself, and that ends with the command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .interrupts import interrupt_once
from .launcher import ServerSettings, TritonServer

_FREE_PORTS = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)


@contextlib.contextmanager
def own_server(settings: ServerSettings = _FREE_PORTS) -> Iterator[TritonServer]:
    """Yield a running server, by default on free loopback ports. SIGTERM stops it like Ctrl-C. Main thread only.

    Raises:
        LaunchError: it cannot be started.
        RepositoryError: the model repository is incomplete or altered.
    """
    with interrupt_once(), TritonServer(settings) as server:
        yield server
