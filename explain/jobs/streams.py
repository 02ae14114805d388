"""One Redis stream with one consumer group: entries are delivered, renewed, released or acknowledged.

Redis counts the deliveries and the idle time of every entry. A worker renews its entries, which sets their idle time to
0. A dead worker does not, so their idle time exceeds the lease, and XAUTOCLAIM gives them to another worker. To release
an entry early, its idle time is set so that it exceeds the lease after the wanted delay. Needs Redis 6.2 or later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from ..errors import ExplainError

GROUP = "workers"

# Only the owner may renew or release an entry: after a long pause, another worker may own it.
# KEYS: stream. ARGV: group, consumer, id, idle in ms.
_SET_IDLE = """
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if #held == 0 or held[1][2] ~= ARGV[2] then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4], 'JUSTID')
return 1
"""


def connect(url: str, retries: int = 12) -> Any:
    """Return a Redis client (text, RESP2) that retries after a lost connection; 12 retries take about ten seconds.

    A retry may send a command twice, so scripts check the state that they change.

    Raises:
        ExplainError: ``explain.queue`` when ``url`` is not a Redis URL.
    """
    try:
        return redis.Redis.from_url(
            url,
            decode_responses=True,
            protocol=2,
            socket_timeout=10,
            socket_connect_timeout=5,
            health_check_interval=15,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries),
            retry_on_error=[RedisConnectionError, RedisTimeoutError],
        )
    except ValueError as error:
        raise ExplainError("explain.queue", f"not a Redis URL: {error}") from error


@dataclass(frozen=True)
class Delivery:
    """One entry delivered to one consumer: its stream, id, fields, and how often it was delivered (from 1)."""

    stream: str
    id: str
    fields: dict[str, str]
    count: int


class Stream:
    """One stream, used by one consumer."""

    def __init__(self, client: Any, name: str, consumer: str, lease: float) -> None:
        """Take a client of :func:`connect`, the stream's key, this consumer's name and the lease in seconds."""
        self.client, self.name, self.consumer, self.lease = client, name, consumer, lease
        self._cursor = "0-0"
        self._set_idle = client.register_script(_SET_IDLE)

    def create(self) -> None:
        """Create the stream and the group if they are missing; the group starts at the first entry."""
        try:
            self.client.xgroup_create(self.name, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def read(self) -> Delivery | None:
        """Return a new entry, or None at once when there is none."""
        found = self.client.xreadgroup(GROUP, self.consumer, {self.name: ">"}, count=1)
        return self._first(found[0][1], 1) if found else None

    def reclaim(self) -> Delivery | None:
        """Return an entry that its owner did not renew for a lease, or None; repeated calls walk through the stream."""
        answer = self.client.xautoclaim(
            self.name, GROUP, self.consumer, int(self.lease * 1000), start_id=self._cursor, count=1
        )
        self._cursor = answer[0]
        return self._first([entry for entry in answer[1] if entry[0] is not None], None)

    def _first(self, entries: list[tuple[str, dict[str, str] | None]], count: int | None) -> Delivery | None:
        for entry, fields in entries:
            if not fields:  # deleted while it was pending
                self.client.xack(self.name, GROUP, entry)
                continue
            if count is None:
                pending = self.client.xpending_range(self.name, GROUP, entry, entry, 1)
                count = int(pending[0]["times_delivered"]) if pending else 1
            return Delivery(self.name, entry, fields, count)
        return None

    def renew(self, entry: str) -> bool:
        """Renew the lease of an entry; False when this consumer does not own it any more."""
        return bool(self._set_idle(keys=[self.name], args=[GROUP, self.consumer, entry, 0]))

    def release(self, delivery: Delivery, delay: float = 0.0) -> None:
        """Release the entry, so that any consumer can claim it after ``delay`` seconds (at most a lease)."""
        idle = max(0, int((self.lease - delay) * 1000)) + 1
        self._set_idle(keys=[self.name], args=[GROUP, self.consumer, delivery.id, idle])

    def acknowledge(self, entry: str) -> bool:
        """Acknowledge and delete the entry; False when it was acknowledged before."""
        with self.client.pipeline() as pipe:
            pipe.xack(self.name, GROUP, entry)
            pipe.xdel(self.name, entry)
            return bool(pipe.execute()[0])

    def waiting(self) -> tuple[int, int]:
        """Return the numbers of (entries not yet delivered, entries delivered and not acknowledged)."""
        if not self.client.xlen(self.name):  # perhaps there is no group yet
            return 0, 0
        # In one transaction: an entry acknowledged between the two would count as not yet delivered.
        with self.client.pipeline() as pipe:
            pipe.xlen(self.name)
            pipe.xpending(self.name, GROUP)
            length, delivered = pipe.execute()
        pending = int(delivered["pending"])
        return max(0, length - pending), pending

    def oldest(self) -> float | None:
        """Return the Unix time at which the oldest entry was added, or None for an empty stream."""
        first = self.client.xrange(self.name, count=1)
        return int(first[0][0].split("-")[0]) / 1000 if first else None
