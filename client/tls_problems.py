"""What gRPC's messages about a failed connection say of TLS, in sentences for people."""

from __future__ import annotations

#: Part of gRPC's or BoringSSL's message -> the sentence. The first one that occurs counts.
_CAUSES = {
    "certificate has expired": "the server's certificate has expired",
    "certificate is not yet valid": "the server's certificate is not valid yet: compare the clocks",
    "Hostname Verification Check failed": "the server's certificate is for another host than the address names",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate was not issued by an authority that this client trusts "
    "(--tls-root)",
    "WRONG_VERSION_NUMBER": "the server does not use TLS on this port",
}
#: How gRPC begins a failed handshake; older versions say "Ssl".
_HANDSHAKE = ("Tls handshake failed", "Ssl handshake failed")
#: A server with TLS closes a connection without TLS, and one with mutual TLS a connection without a certificate; under
#: TLS 1.3 the client's side of the handshake is complete by then, so gRPC knows no cause.
_CLOSED = ("failed to connect to all addresses", "Socket closed")


def find_tls_problem(message: str) -> str:
    """Return why TLS failed, by gRPC's message for the status UNAVAILABLE; "" when that is not what it says."""
    for part, sentence in _CAUSES.items():
        if part in message:
            return sentence
    return "the TLS handshake failed" if any(words in message for words in _HANDSHAKE) else ""


def hint_of_closed_connection(message: str) -> str:
    """Return what may be the cause where a server closed a connection during its set-up; "" for other messages."""
    if all(part in message for part in _CLOSED):
        return "; it closes new connections: perhaps it asks for TLS (--tls) or for a client certificate"
    return ""
