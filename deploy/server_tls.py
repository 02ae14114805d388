"""The server's TLS: its certificate, its key and the authority of its clients, checked before tritonserver starts."""

from __future__ import annotations

import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridict.client import Tls

from .installation import LaunchError

#: A certificate that ends within so many seconds is worth a warning: tritonserver reads it at its start only.
_SOON = 14 * 86400.0


@dataclass(frozen=True)
class ServerTls:
    """PEM files of the gRPC endpoint; with ``client_ca`` only clients with a certificate of that authority connect."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def check(self, now: float | None = None) -> list[str]:
        """Read the files and return warnings, one sentence each. ``now``: Unix time in seconds.

        Raises:
            ValueError: a file is missing, unreadable or no PEM, certificate and key do not fit together, the
                certificate has expired, is not valid yet or is not for servers, or all of ``client_ca`` has expired.
        """
        Tls(self.client_ca, self.certificate, self.key).check_files()
        warnings = []
        now = time.time() if now is None else now
        shown = _present(self.certificate, self.key)
        ends = ssl.cert_time_to_seconds(shown["notAfter"])
        if ends - now < _SOON:
            warnings.append(f"the certificate {self.certificate} ends on {shown['notAfter']}: restart with a new one")
        if not shown.get("subjectAltName"):
            warnings.append(f"the certificate {self.certificate} names no host (subjectAltName): clients refuse it")
        if self.key.stat().st_mode & stat.S_IROTH:
            warnings.append(f"every user of this machine can read the key {self.key}")
        if self.client_ca is not None and _all_expired(self.client_ca, now):
            raise ValueError(f"TLS: {self.client_ca} holds expired certificates only, so no client could connect")
        return warnings

    def arguments(self) -> list[str]:
        """Return tritonserver's options."""
        files = [f"--grpc-server-cert={self.certificate.absolute()}", f"--grpc-server-key={self.key.absolute()}"]
        if self.client_ca is None:
            return ["--grpc-use-ssl=true", *files]
        # Both switches: tritonserver ignores the files without the first one, by its own help.
        return [
            "--grpc-use-ssl=true",
            "--grpc-use-ssl-mutual=true",
            *files,
            f"--grpc-root-cert={self.client_ca.absolute()}",
        ]

    @property
    def name(self) -> str:
        """Return ``TLS`` or ``mutual TLS``."""
        return "TLS" if self.client_ca is None else "mutual TLS"


def check_exposure(host: str, tls: ServerTls | None) -> list[str]:
    """Return warnings about what others can reach and read; ``host``: the address that the server listens on.

    Raises:
        LaunchError: a TLS file cannot be used.
    """
    if tls is not None:
        try:
            return [f"veridict: {warning}" for warning in tls.check()]
        except ValueError as error:
            raise LaunchError(str(error)) from error
    if host == "localhost" or host.startswith("127."):
        return []
    return [f"veridict: listening on {host} without TLS: whoever reaches the port can send images and read others'"]


def _present(certificate: Path, key: Path) -> dict[str, Any]:
    """Return what a client sees of the certificate that ends the chain in a file, after a handshake in memory.

    The client trusts that certificate itself, so all that can fail is the certificate: its dates and its purpose.

    Raises:
        ValueError: the client refuses it.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate, key)
    client.load_verify_locations(certificate)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the trusted certificate need not be an authority's
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside = server.wrap_bio(to_server, to_client, server_side=True)
    outside = client.wrap_bio(to_client, to_server)
    try:
        for _ in range(3):
            for side in (outside, inside):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    pass
    except ssl.SSLCertVerificationError as error:
        raise ValueError(f"TLS: clients would refuse {certificate}: {error.verify_message}") from None
    shown = outside.getpeercert()
    assert shown
    return dict(shown)


def _all_expired(path: Path, now: float) -> bool:
    """Return whether a file holds certificates of authorities, all of which have expired."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    ends = [ssl.cert_time_to_seconds(str(found["notAfter"])) for found in context.get_ca_certs()]
    return bool(ends) and max(ends) < now
