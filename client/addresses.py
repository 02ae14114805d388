"""The replicas' addresses: from a list, or from DNS, looked up again and again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_DNS = "dns:///"
#: Shortest time between two lookups, in seconds, however many replicas fail.
_SOONEST = 1.0


@dataclass(frozen=True)
class Endpoint:
    """The ``host:port`` of one replica; ``name`` is the host:port that DNS resolved to it, or ""."""

    address: str
    name: str = ""


def split_url(url: str | Sequence[str]) -> tuple[str, ...]:
    """Return the targets of a comma-separated string or a sequence: ``host:port`` or ``dns:///name:port`` each.

    Raises:
        ValueError: a target is empty, has another scheme, or is a DNS name without a port.
    """
    targets = tuple(part.strip() for part in (url.split(",") if isinstance(url, str) else url))
    if not all(targets) or not targets:
        raise ValueError(f"url has an empty address: {url!r}")
    for target in targets:
        host, _, port = target.removeprefix(_DNS).rpartition(":")
        if target.startswith(_DNS) and not (host and port.isdigit()):
            raise ValueError(f"url with a DNS name is dns:///name:port, not {target!r}")
        if "://" in target.removeprefix(_DNS):
            raise ValueError(f"url is host:port without a scheme, or dns:///name:port, not {target!r}")
    return targets


class Addresses:
    """The endpoints of a ``url``; safe to share between threads.

    A DNS name is looked up at first use, every ``every`` seconds, and soon after a replica failed. When a lookup fails,
    the endpoints of the last one stay.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        every: float,
        clock: Callable[[], float] = time.monotonic,
        lookup: Callable[..., Sequence[Any]] | None = None,
    ) -> None:
        """Take the targets; nothing is looked up yet. ``lookup`` replaces :func:`socket.getaddrinfo`."""
        self._targets = split_url(url)
        self._every, self._clock, self._lookup = every, clock, lookup or socket.getaddrinfo
        self._names = [target for target in self._targets if target.startswith(_DNS)]
        self._found: dict[str, list[Endpoint]] = {}
        self._lock = threading.Lock()
        self._next, self._last = clock(), clock() - _SOONEST

    @property
    def known(self) -> list[Endpoint]:
        """Return the endpoints known so far, each once; without DNS names these are all."""
        found = [self._found.get(t, []) if t in self._names else [Endpoint(t)] for t in self._targets]
        return list({endpoint.address: endpoint for endpoints in found for endpoint in endpoints}.values())

    def due(self) -> bool:
        """Return whether the caller should look up now; the next lookup is then due after the interval."""
        with self._lock:
            now = self._clock()
            if not self._names or now < self._next:
                return False
            self._last, self._next = now, now + self._every
            return True

    def hasten(self) -> None:
        """Make the next lookup due soon: a replica failed, so the addresses may have changed."""
        with self._lock:
            self._next = min(self._next, self._last + _SOONEST)

    def look_up(self) -> list[Endpoint]:
        """Ask DNS for every name and return :attr:`known`; blocks."""
        for name in self._names:
            host, _, port = name.removeprefix(_DNS).rpartition(":")
            try:
                answers = self._lookup(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            except OSError:
                self.hasten()
                continue
            # One family: a dual-stack replica has an address in each, and would get twice its share.
            family = answers[0][0]
            hosts = sorted({str(answer[4][0]) for answer in answers if answer[0] == family})
            shown = (f"[{host}]" if family == socket.AF_INET6 else host for host in hosts)
            self._found[name] = [Endpoint(f"{host}:{port}", name.removeprefix(_DNS)) for host in shown]
        return self.known
