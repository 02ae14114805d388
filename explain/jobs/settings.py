"""Settings of the queue, the store and the webhook. Only this module reads them from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ExplainError
from .webhook_signature import parse_secrets


def _default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "veridict"


@dataclass(frozen=True)
class Webhook:
    """Where completions are sent and how they are signed; from configuration, never from a job.

    ``secret``: ``whsec_`` + base64 of 24 to 64 random bytes. Two secrets separated by a space give two signatures, so
    that a receiver can change from one to the other. ``timeout``: seconds per attempt. ``attempts``: how often a
    completion is sent at most. ``backoff``: seconds before the second attempt, doubled for each further one.
    """

    url: str
    secret: str = field(repr=False)
    timeout: float = 5.0
    attempts: int = 8
    backoff: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an unencrypted URL and a malformed secret."""
        if not self.url.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")):
            raise ExplainError("explain.bad_request", "a webhook URL starts with https:// (http:// only for loopback)")
        try:
            parse_secrets(self.secret)
        except ValueError as error:
            raise ExplainError("explain.bad_request", str(error)) from None


@dataclass(frozen=True)
class QueueSettings:
    """One queue and its store.

    ``redis_url``: empty means the embedded Redis in ``state``. ``store_url``: an fsspec URL or a folder; empty means
    ``state``/store. ``lease``: seconds after which another worker takes a job whose lease was not renewed.
    ``deliveries``: how often a job is tried at most. ``backoff``: seconds before the second try, doubled for each
    further one. ``keep``: seconds for which Redis remembers a finished job (its result stays in the store).
    ``repository``: the model repository whose networks are explained; None means the bundled one.
    """

    redis_url: str = field(default="", repr=False)
    store_url: str = ""
    state: Path = field(default_factory=_default_state)
    prefix: str = "{veridict}"
    lease: float = 30.0
    deliveries: int = 3
    backoff: float = 2.0
    keep: float = 7 * 86400.0
    webhook: Webhook | None = None
    repository: Path | None = None

    def __post_init__(self) -> None:
        """Check ranges; raise ExplainError naming the setting."""
        if self.lease < 0.5 or self.deliveries < 1 or self.backoff < 0 or self.keep < 1:
            raise ExplainError(
                "explain.bad_request", "the least values are: lease 0.5 s, deliveries 1, backoff 0 s, keep 1 s"
            )

    @property
    def store(self) -> str:
        """Return the store's URL or folder."""
        return self.store_url or str(self.state / "store")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> QueueSettings:
        """Return the settings from the environment variables.

        They are ``VERIDICT_REDIS_URL``, ``VERIDICT_STORE_URL``, ``VERIDICT_STATE``, ``VERIDICT_WEBHOOK_URL``,
        ``VERIDICT_WEBHOOK_SECRET`` and ``VERIDICT_REPOSITORY``.
        """
        env = os.environ if environment is None else environment
        url = env.get("VERIDICT_WEBHOOK_URL", "")
        return cls(
            redis_url=env.get("VERIDICT_REDIS_URL", ""),
            store_url=env.get("VERIDICT_STORE_URL", ""),
            state=Path(env["VERIDICT_STATE"]) if env.get("VERIDICT_STATE") else _default_state(),
            webhook=Webhook(url, env.get("VERIDICT_WEBHOOK_SECRET", "")) if url else None,
            repository=Path(env["VERIDICT_REPOSITORY"]) if env.get("VERIDICT_REPOSITORY") else None,
        )
