"""The client's settings, as one frozen value."""

from __future__ import annotations

import math
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .addresses import Endpoint, split_url

#: Where `veridict serve` listens.
DEFAULT_URL = "127.0.0.1:8001"
#: Seconds within which a channel must connect, and longest pause before it tries again.
_CONNECT, _RECONNECT = 3.0, 2.0
_UNLIMITED = 2**31 - 1
#: Upper bound of every number of seconds: a week. gRPC counts milliseconds and microseconds in 64 bits.
_LONGEST = 7 * 86400.0


@dataclass(frozen=True)
class Tls:
    """TLS options, as PEM files; with ``certificate`` and ``key`` the client authenticates itself too (mutual TLS)."""

    root_certificates: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a key without its certificate and the reverse; raise ValueError."""
        if (self.certificate is None) != (self.key is None):
            present, missing = ("key", "certificate") if self.certificate is None else ("certificate", "key")
            raise ValueError(f"TLS: the {present} {getattr(self, present)} needs its {missing} (--tls-{missing})")

    def check_files(self) -> None:
        """Read the PEM files; raise ValueError naming the first one that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.root_certificates is not None:
            _check_readable(self.root_certificates)
            try:
                context.load_verify_locations(self.root_certificates)
            except ssl.SSLError:
                raise ValueError(f"TLS: {self.root_certificates} holds no PEM certificate") from None
        if self.certificate is None or self.key is None:
            return
        _check_readable(self.certificate)
        _check_readable(self.key)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except ssl.SSLError as error:
            raise ValueError(
                f"TLS: {self.certificate} and {self.key} are not a PEM certificate and its unencrypted PEM key "
                f"({error.reason or error})"
            ) from None

    def arguments(self) -> dict[str, Any]:
        """Return the TLS arguments of tritonclient's ``InferenceServerClient``."""
        paths = {
            "root_certificates": self.root_certificates,
            "private_key": self.key,
            "certificate_chain": self.certificate,
        }
        return {"ssl": True, **{name: str(path) for name, path in paths.items() if path is not None}}


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"TLS: {path} cannot be read ({error.strerror})") from None


def _no_password() -> str:
    """Answer OpenSSL, which otherwise asks for the password of an encrypted key at the terminal."""
    return ""


@dataclass(frozen=True)
class ClientConfig:
    """Where the servers are, and how requests are sent to them.

    ``url``: host:port of one server; or of several replicas, as a sequence or separated by commas; or
    ``dns:///name:port``, every address of a DNS name. It is kept as a string. ``deadline``: seconds for one image over
    all attempts. ``attempts``: their number, the first one included. ``backoff``: the wait before attempt n is random
    between 0 and ``backoff`` x 2^n seconds (full jitter), but never longer than the deadline. ``concurrency``: requests
    in flight of ``detect_many``. ``throttle``: while a server refuses requests, the client sends it at most this many
    times what it accepts (:mod:`.throttle`); 0 sends everything. ``policy``: the name of the policy that judges; "":
    none is named.

    With several replicas: after ``eject_after`` consecutive failures a replica gets no requests for ``eject_seconds``,
    and twice as long each time until 60 times as long; then it must answer a readiness check. ``hedge_after``: seconds
    after which an unanswered request is sent to a second replica as well, and the first answer wins; 0: never.

    ``resolve_seconds``: time between two DNS lookups. ``connection_age``: seconds after which a channel is replaced by
    a new one, while its calls in flight go on; 0: never. ``keepalive``: a connection with calls in flight and no data
    for so many seconds is checked, and closed when nothing is heard for half that time again; 0: never.
    """

    url: str | Sequence[str] = DEFAULT_URL
    deadline: float = 10.0
    attempts: int = 4
    backoff: float = 0.05
    concurrency: int = 8
    throttle: float = 1.1
    tls: Tls | None = None
    model: str = "detector"
    eject_after: int = 3
    eject_seconds: float = 1.0
    hedge_after: float = 0.0
    resolve_seconds: float = 30.0
    connection_age: float = 0.0
    keepalive: float = 20.0
    policy: str = ""

    def __post_init__(self) -> None:
        """Check ranges; raise ValueError naming the setting."""
        object.__setattr__(self, "url", ",".join(split_url(self.url)))
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not (math.isfinite(value) and value <= _LONGEST):
                raise ValueError(f"{name} must be a finite number of at most {_LONGEST:g}, not {value:g}")
        if self.deadline <= 0 or self.attempts < 1 or self.backoff < 0 or self.concurrency < 1:
            raise ValueError("deadline must be positive, attempts and concurrency at least 1, backoff not negative")
        if self.throttle and not self.throttle >= 1:
            raise ValueError(f"throttle is 0 (off) or at least 1, not {self.throttle:g}")
        if self.eject_after < 1 or self.eject_seconds <= 0 or self.resolve_seconds <= 0:
            raise ValueError("eject_after must be at least 1, eject_seconds and resolve_seconds positive")
        if min(self.hedge_after, self.connection_age, self.keepalive) < 0:
            raise ValueError("hedge_after, connection_age and keepalive are 0 (off) or positive")

    def channel_arguments(self) -> dict[str, Any]:
        """Return the arguments of tritonclient's ``InferenceServerClient``, blocking or asyncio: for the first address.

        gRPC resolves a DNS name by itself, and uses one of its addresses.
        """
        return {"url": split_url(self.url)[0], **(self.tls.arguments() if self.tls else {})}

    def replica_arguments(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return the arguments of ``InferenceServerClient`` for one replica, with keepalive and reconnection."""
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", _UNLIMITED),
            ("grpc.max_receive_message_length", _UNLIMITED),
            # Channels to one address share their connection by default, so a new channel would not connect anew.
            ("grpc.use_local_subchannel_pool", 1),
            # By default a channel tries to connect for 20 seconds, and waits up to two minutes before it tries again.
            ("grpc.min_reconnect_backoff_ms", int(_CONNECT * 1000)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", int(_RECONNECT * 1000)),
        ]
        if self.keepalive:
            # With more than two pings without data, or any without calls, Triton would close the connection. gRPC 1.85
            # ignores the keepalive timeout while the timeout of all pings (default: a minute) is longer.
            options += [
                ("grpc.keepalive_time_ms", int(self.keepalive * 1000)),
                ("grpc.keepalive_timeout_ms", int(self.keepalive * 500)),
                ("grpc.http2.ping_timeout_ms", int(self.keepalive * 500)),
                ("grpc.keepalive_permit_without_calls", 0),
                ("grpc.http2.max_pings_without_data", 2),
            ]
        if endpoint.name:  # the certificate and a proxy's routes name the host, not the address
            options.append(("grpc.default_authority", endpoint.name))
            if self.tls:
                options.append(("grpc.ssl_target_name_override", endpoint.name.rpartition(":")[0]))
        return {**self.channel_arguments(), "url": endpoint.address, "channel_args": options}

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt number ``attempt`` (from 0)."""
        return random.uniform(0.0, self.backoff * 2**attempt)  # noqa: S311 - jitter, not a secret
