"""Addresses and ports to listen on: which are free, and why one cannot be used."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping


class AddressError(ValueError):
    """Nothing can listen on an address or port; the message says why and what to do."""


def bind_problem(error: OSError, host: str, port: int) -> str:
    """Return the sentence for an error of ``bind``: only EADDRINUSE means that the port is taken."""
    if isinstance(error, socket.gaierror):
        return f"the address {host} cannot be used: the name cannot be resolved ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken: stop what listens there, or choose another port (0 picks a free one)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"the address {host} cannot be used: no network interface of this machine has it"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} cannot be used: this user may not listen on it ({error.strerror})"
    return f"port {port} on {host} cannot be used: {error.strerror or error}"


def check_host(host: str) -> None:
    """Return if ``host`` is an IPv4 address, or a name that has one.

    Raises:
        AddressError: it is an IPv6 address, or a name without an IPv4 address.
    """
    if ":" in host:
        raise AddressError(
            f"the address {host} cannot be used: IPv6 is not supported here; use an IPv4 address such as 127.0.0.1"
        )
    try:
        if not host:
            raise socket.gaierror(socket.EAI_NONAME, "it is empty")
        socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise AddressError(bind_problem(error, host or "''", 0)) from None
    except UnicodeError:
        raise AddressError(f"the address {host!r} cannot be used: it is no host name") from None


def free_ports(host: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return a port per name: the wanted ones, and a free one in place of each 0.

    Raises:
        AddressError: ``host`` or a port cannot be used, or two ports are the same.
    """
    chosen = [port for port in wanted.values() if port]
    if len(set(chosen)) != len(chosen):
        raise AddressError(f"two ports are the same, and each needs its own: {dict(wanted)}")
    for name, port in wanted.items():
        if not 0 <= port <= 65535:
            raise AddressError(f"the {name} port {port} is not in the range 0 to 65535")
    check_host(host)
    sockets, ports = [], {}
    try:
        for name, port in wanted.items():
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sockets.append(probe)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise AddressError(f"--{name}-port: {bind_problem(error, host, port)}") from error
            ports[name] = probe.getsockname()[1]
    finally:
        for probe in sockets:
            probe.close()
    return ports
