"""The client's settings, as one frozen value."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tls:
    """TLS options, as PEM files; with ``certificate`` and ``key`` the client authenticates itself too (mutual TLS)."""

    root_certificates: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the TLS arguments of tritonclient's ``InferenceServerClient``."""
        paths = {
            "root_certificates": self.root_certificates,
            "private_key": self.key,
            "certificate_chain": self.certificate,
        }
        return {"ssl": True, **{name: str(path) for name, path in paths.items() if path is not None}}


@dataclass(frozen=True)
class ClientConfig:
    """Where the server is, and how requests are sent to it.

    ``url``: host:port. ``deadline``: seconds for one image over all attempts. ``attempts``: their number, the first one
    included. ``backoff``: the wait before attempt n is random between 0 and ``backoff`` x 2^n seconds (full jitter),
    but never longer than the deadline. ``concurrency``: requests in flight of ``detect_many``. ``throttle``: while the
    server refuses requests, the client sends at most this many times what the server accepts (:mod:`.throttle`); 0
    sends everything.
    """

    url: str = "127.0.0.1:8001"
    deadline: float = 10.0
    attempts: int = 4
    backoff: float = 0.05
    concurrency: int = 8
    throttle: float = 1.1
    tls: Tls | None = None
    model: str = "detector"

    def __post_init__(self) -> None:
        """Check ranges; raise ValueError naming the setting."""
        if "://" in self.url:
            raise ValueError(f"url is host:port without a scheme, not {self.url!r}")
        if self.deadline <= 0 or self.attempts < 1 or self.backoff < 0 or self.concurrency < 1:
            raise ValueError("deadline must be positive, attempts and concurrency at least 1, backoff not negative")
        if self.throttle and not self.throttle >= 1:
            raise ValueError(f"throttle is 0 (off) or at least 1, not {self.throttle:g}")

    def channel_arguments(self) -> dict[str, Any]:
        """Return the arguments of tritonclient's ``InferenceServerClient``, blocking or asyncio."""
        return {"url": self.url, **(self.tls.arguments() if self.tls else {})}

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt number ``attempt`` (from 0)."""
        return random.uniform(0.0, self.backoff * 2**attempt)  # noqa: S311 - jitter, not a secret
