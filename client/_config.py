"""The client's settings, as one frozen value."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tls:
    """TLS options; with ``certificate`` and ``key`` the client proves itself too (mutual TLS). PEM files."""

    root_certificates: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class ClientConfig:
    """Where the server is and how patient to be.

    ``deadline`` is seconds for one image over all attempts; ``attempts`` counts the first one; the wait before attempt
    n is a random part of ``backoff`` x 2^n seconds (full jitter), never beyond the deadline. While the server refuses,
    requests beyond ``throttle`` times those it takes are held back (:mod:`._throttle`); 0 sends everything.
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

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt number ``attempt`` (from 0)."""
        return random.uniform(0.0, self.backoff * 2**attempt)  # noqa: S311 - jitter, not a secret
