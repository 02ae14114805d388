"""Sends completions to one configured URL, signed by the Standard Webhooks specification, until the receiver accepts.

The script that finishes a job also adds its completion to a stream, so neither exists without the other. A sender
delivers every completion at least once; its ``webhook-id`` is the same on every attempt.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from ..retry import backoff_seconds
from .queue import JobQueue
from .settings import Webhook
from .streams import Delivery, Stream
from .webhook_signature import sign_headers


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        """Follow no redirect: completions go to the configured URL only."""


_OPENER = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


def post(webhook: Webhook, completion: str, body: bytes) -> bool:
    """Send one signed body with the completion's id; return whether the receiver accepted it (any 2xx status)."""
    headers = {"Content-Type": "application/json", **sign_headers(webhook.secret, completion, body)}
    request = urllib.request.Request(webhook.url, body, headers, method="POST")
    try:
        with _OPENER.open(request, timeout=webhook.timeout) as answer:
            return 200 <= int(answer.status) < 300
    except (urllib.error.URLError, OSError, ValueError):
        return False


class WebhookSender:
    """Sends the completions stream, one completion per :meth:`step`. Several senders can share the stream."""

    def __init__(self, queue: JobQueue, webhook: Webhook) -> None:
        """Take the worker's queue and the destination."""
        self._queue, self._webhook = queue, webhook
        lease = max(queue.settings.lease, webhook.timeout * 2)
        self._stream = Stream(queue.client, queue.events_key, queue.consumer, lease)
        self.dead_key = f"{queue.settings.prefix}:events:dead"
        self.posted = self.failed = 0
        self._created = False

    def reset(self) -> None:
        """Create stream and group again at the next step: a Redis that lost its data lost both."""
        self._created = False

    def step(self) -> bool:
        """Send one completion if there is one; return whether there was."""
        if not self._created:
            self._stream.create()
            self._created = True
        delivery = self._stream.reclaim() or self._stream.read()
        if delivery is None:
            return False
        status = self._queue.status(delivery.fields["job"])
        if status is None or post(self._webhook, delivery.id, _body(delivery, status.document())):
            self.posted += 1
            self._stream.acknowledge(delivery.id)
        elif delivery.count >= self._webhook.attempts:
            self.failed += 1
            # An operator can read it here; the result itself is in the store either way.
            self._queue.client.xadd(self.dead_key, delivery.fields)
            self._stream.acknowledge(delivery.id)
        else:
            self._stream.release(delivery, backoff_seconds(self._webhook.backoff, delivery.count))
        return True


def _body(delivery: Delivery, status: dict[str, Any]) -> bytes:
    return json.dumps({"schema": "veridict-completion/1", "completion": delivery.id, **status}).encode()
