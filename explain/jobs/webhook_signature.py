"""Signatures of webhooks by the Standard Webhooks specification 1.0.0 (standardwebhooks.com), for sender and receiver.

A request carries three headers. ``webhook-id`` is the same on every retry, so a receiver can drop duplicates by it.
``webhook-timestamp`` is the Unix time of this attempt in seconds. ``webhook-signature`` holds one signature per secret,
separated by spaces: ``v1,`` + base64(HMAC-SHA256(secret, id + "." + timestamp + "." + body)), with the bytes of the
body as they are sent. A secret is ``whsec_`` + base64 of 24 to 64 random bytes.

Why not the PyPI package ``standardwebhooks``: version 1.1.0 signs with one secret only, so a sender cannot rotate
secrets, and its ``verify`` raises ``ValueError`` or ``binascii.Error`` for a malformed signature header. This module
needs the standard library only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
_PREFIX = "whsec_"
_SECRET_BYTES = (24, 64)


def parse_secrets(text: str) -> list[bytes]:
    """Return the keys of one or more secrets separated by spaces.

    Raises:
        ValueError: there is no secret, or one is not ``whsec_`` + base64 of 24 to 64 bytes. The message does not
            contain the secret.
    """
    secrets = [_parse_secret(word) for word in text.split()]
    if not secrets:
        raise ValueError("a webhook secret is missing")
    return secrets


def _parse_secret(text: str) -> bytes:
    encoded = text.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    low, high = _SECRET_BYTES
    if not text.startswith(_PREFIX) or not low <= len(key) <= high:
        raise ValueError(
            f"a webhook secret is {_PREFIX} followed by the base64 of {low} to {high} random bytes; "
            f'make one: echo "{_PREFIX}$(openssl rand -base64 32)"'
        )
    return key


def sign(secret: str, message_id: str, timestamp: int | str, body: bytes) -> str:
    """Return the value of ``webhook-signature``: one signature per secret in ``secret``, separated by spaces.

    Raises:
        ValueError: as :func:`parse_secrets`.
    """
    content = f"{message_id}.{timestamp}.".encode("utf-8", "replace") + body
    digests = [hmac.new(key, content, hashlib.sha256).digest() for key in parse_secrets(secret)]
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def sign_headers(secret: str, message_id: str, body: bytes) -> dict[str, str]:
    """Return the three headers of a request that is sent now.

    Raises:
        ValueError: as :func:`parse_secrets`.
    """
    timestamp = str(int(time.time()))
    return {ID: message_id, TIMESTAMP: timestamp, SIGNATURE: sign(secret, message_id, timestamp, body)}


def verify(secret: str, headers: Mapping[str, str], body: bytes, tolerance: float = 300.0) -> bool:
    """Return whether a received webhook was signed with ``secret`` at most ``tolerance`` seconds ago.

    ``headers`` are those of the request, in upper or lower case. ``body`` is the received bytes, not parsed and
    serialised again. One matching signature is enough, so a sender or a receiver can use an old and a new secret at the
    same time.

    Raises:
        ValueError: ``secret`` is malformed; never for a malformed request.
    """
    received = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = received.get(ID, ""), received.get(TIMESTAMP, "")
    try:
        fresh = abs(time.time() - int(timestamp)) <= tolerance
    except ValueError:
        fresh = False
    wanted = [signature.encode() for signature in sign(secret, message_id, timestamp, body).split()]
    given = [signature.encode("utf-8", "replace") for signature in received.get(SIGNATURE, "").split()]
    matches = [hmac.compare_digest(ours, theirs) for ours in wanted for theirs in given]
    return bool(message_id) and fresh and any(matches)
