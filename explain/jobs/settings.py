"""Where the queue and the store are and how patient the workers are; the one place that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ExplainError


def _default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "veridict"


@dataclass(frozen=True)
class Webhook:
    """Where completions are posted and the secret they are signed with; from configuration, never from a job."""

    url: str
    secret: str = field(repr=False)
    timeout: float = 5.0
    attempts: int = 8
    backoff: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what could leak completions or leave them unsigned."""
        if not self.url.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")):
            raise ExplainError("explain.bad_request", "a webhook URL is https:// (http:// only on loopback)")
        if len(self.secret) < 16:
            raise ExplainError("explain.bad_request", "the webhook secret needs at least 16 characters")


@dataclass(frozen=True)
class QueueSettings:
    """One queue and its store.

    ``redis_url``: empty means the embedded Redis in ``state``. ``store_url``: an fsspec URL or a folder; empty means
    ``state``/store. ``lease``: seconds without a sign of life after which another worker takes a job. ``deliveries``:
    how often a job is tried. ``backoff``: seconds before the second try, doubled for the third. ``keep``: seconds for
    which Redis remembers a finished job (its result stays in the store).
    """

    redis_url: str = ""
    store_url: str = ""
    state: Path = field(default_factory=_default_state)
    prefix: str = "{veridict}"
    lease: float = 30.0
    deliveries: int = 3
    backoff: float = 2.0
    keep: float = 7 * 86400.0
    webhook: Webhook | None = None

    def __post_init__(self) -> None:
        """Check ranges; raise ExplainError naming the setting."""
        if self.lease < 0.5 or self.deliveries < 1 or self.backoff < 0 or self.keep < 1:
            raise ExplainError(
                "explain.bad_request", "lease at least 0.5 s, deliveries 1, backoff 0, keep 1 s are needed"
            )

    @property
    def store(self) -> str:
        """Return the store's URL or folder."""
        return self.store_url or str(self.state / "store")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> QueueSettings:
        """Return the settings of the environment.

        ``VERIDICT_REDIS_URL``, ``VERIDICT_STORE_URL``, ``VERIDICT_STATE``, ``VERIDICT_WEBHOOK_URL`` and
        ``VERIDICT_WEBHOOK_SECRET``.
        """
        env = os.environ if environment is None else environment
        url = env.get("VERIDICT_WEBHOOK_URL", "")
        return cls(
            redis_url=env.get("VERIDICT_REDIS_URL", ""),
            store_url=env.get("VERIDICT_STORE_URL", ""),
            state=Path(env["VERIDICT_STATE"]) if env.get("VERIDICT_STATE") else _default_state(),
            webhook=Webhook(url, env.get("VERIDICT_WEBHOOK_SECRET", "")) if url else None,
        )
