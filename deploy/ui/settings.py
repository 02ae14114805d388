"""The settings of ``veridict ui``, as the command hands them to the page's process."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from veridict.client import ClientConfig, Tls
from veridict.explain.jobs.settings import QueueSettings

from .store import LEASE

#: The environment variable that holds the settings; set by the command for the process of the page, not by people.
VARIABLE = "VERIDICT_UI"


@dataclass(frozen=True)
class UiSettings:
    """What the page needs.

    ``url`` and the TLS files: the detector; ``policy``: its policy that judges, or "" for the repository's.
    ``database``: a SQLAlchemy URL. ``folder``: where images are stored. ``keep_days``: days after which an image is
    deleted. ``lease``: seconds for which an item is held. ``user_header``: the HTTP header in which a proxy names
    the reviewer, or "". ``notes``: what the command started, in sentences.
    """

    url: str
    database: str
    folder: Path
    keep_days: float = 30.0
    lease: float = LEASE
    user_header: str = ""
    policy: str = ""
    tls: tuple[str, str, str] | None = None
    redis_url: str = ""
    store_url: str = ""
    state: str = ""
    repository: str = ""
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def client_config(self) -> ClientConfig:
        """Return the configuration of the detector's client."""
        tls = None if self.tls is None else Tls(*(Path(name) if name else None for name in self.tls))
        return ClientConfig(self.url, tls=tls, deadline=30.0, policy=self.policy)

    def queue(self) -> QueueSettings:
        """Return the settings of the explanation queue."""
        return QueueSettings(
            redis_url=self.redis_url,
            store_url=self.store_url,
            state=Path(self.state),
            repository=Path(self.repository) if self.repository else None,
        )

    def to_environment(self) -> dict[str, str]:
        """Return the environment variable that carries the settings."""
        return {VARIABLE: json.dumps(asdict(self), default=str)}

    @classmethod
    def from_environment(cls) -> UiSettings:
        """Return the settings that the command left in the environment.

        Raises:
            KeyError: this process was not started by ``veridict ui``.
        """
        values: dict[str, Any] = json.loads(os.environ[VARIABLE])
        for name in ("sources", "notes", "tls"):
            values[name] = tuple(values[name]) if values[name] is not None else None
        return cls(**{**values, "folder": Path(values["folder"])})
