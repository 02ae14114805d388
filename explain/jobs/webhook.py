"""Completions posted to one configured address, signed, until it takes them.

The completion is put into a stream by the same script that finishes the job, so neither can be lost without the other;
a poster delivers it at least once. ``Veridict-Signature`` is ``v1=`` + HMAC-SHA256(secret, timestamp + "." + body) in
hexadecimal, over the bytes as they were sent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from typing import Any

from .queue import JobQueue
from .settings import Webhook
from .streams import Delivery, Stream

TIMESTAMP = "Veridict-Timestamp"
SIGNATURE = "Veridict-Signature"


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of the signature header."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def verify(secret: str, timestamp: str, body: bytes, signature: str, tolerance: float = 300.0) -> bool:
    """Return whether a received completion is ours and at most ``tolerance`` seconds old; for receivers."""
    try:
        fresh = abs(time.time() - float(timestamp)) <= tolerance
    except ValueError:
        return False
    return fresh and hmac.compare_digest(sign(secret, timestamp, body), signature)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        """Follow nothing: the destination is the configured one."""


_OPENER = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


def post(webhook: Webhook, body: bytes) -> bool:
    """Send one signed body; return whether the receiver took it (any 2xx)."""
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        TIMESTAMP: timestamp,
        SIGNATURE: sign(webhook.secret, timestamp, body),
    }
    request = urllib.request.Request(webhook.url, body, headers, method="POST")
    try:
        with _OPENER.open(request, timeout=webhook.timeout) as answer:
            return 200 <= int(answer.status) < 300
    except (urllib.error.URLError, OSError, ValueError):
        return False


class Poster:
    """Posts what the completions stream holds; one step per :meth:`step`, any number of posters side by side."""

    def __init__(self, queue: JobQueue, webhook: Webhook) -> None:
        """Take the worker's queue and the destination."""
        self._queue, self._webhook = queue, webhook
        lease = max(queue.settings.lease, webhook.timeout * 2)
        self._stream = Stream(queue.client, queue.events_key, queue.consumer, lease)
        self.dead_key = f"{queue.settings.prefix}:events:dead"
        self.posted = self.failed = 0
        self._prepared = False

    def forget(self) -> None:
        """Create stream and group again at the next step: a Redis that lost its data lost them as well."""
        self._prepared = False

    def step(self) -> bool:
        """Post one completion, if there is one; return whether there was."""
        if not self._prepared:
            self._stream.create()
            self._prepared = True
        delivery = self._stream.reclaim() or self._stream.read()
        if delivery is None:
            return False
        status = self._queue.status(delivery.fields["job"])
        if status is None or post(self._webhook, _body(delivery, status.document())):
            self.posted += 1
            self._stream.acknowledge(delivery.id)
        elif delivery.count >= self._webhook.attempts:
            self.failed += 1
            # kept where an operator finds it; the result itself is in the store either way
            self._queue.client.xadd(self.dead_key, delivery.fields)
            self._stream.acknowledge(delivery.id)
        else:
            self._stream.release(delivery, self._webhook.backoff * 2 ** (delivery.count - 1))
        return True


def _body(delivery: Delivery, status: dict[str, Any]) -> bytes:
    return json.dumps({"schema": "veridict-completion/1", "completion": delivery.id, **status}).encode()
