"""An authority for tests, and certificates of it."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


@dataclass(frozen=True)
class Files:
    """The PEM files of a certificate."""

    certificate: Path
    key: Path


class Authority:
    """An authority with its own certificate, ``NAME.pem`` in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self._key = folder, name, ec.generate_private_key(ec.SECP256R1())
        usage = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = self._write(name, self._key, name, (-3, 3), [(usage, True)]).certificate

    def issue(
        self,
        name: str,
        days: tuple[float, float] = (-1, 30),
        names: Sequence[x509.GeneralName] = LOCAL,
        client_only: bool = False,
    ) -> Files:
        """Write a certificate that is valid for ``days``, counted from now, and return its files."""
        extensions: list[tuple[x509.ExtensionType, bool]] = []
        if names:
            extensions.append((x509.SubjectAlternativeName(names), False))
        if client_only:
            extensions.append((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False))
        return self._write(name, ec.generate_private_key(ec.SECP256R1()), self._name, days, extensions)

    def _write(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        days: tuple[float, float],
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> Files:
        now = dt.datetime.now(dt.UTC)
        subject, authority = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        files = Files(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        certificate = builder.sign(self._key, hashes.SHA256())
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files.key.touch(mode=0o600)
        files.key.write_bytes(key.private_bytes(*form))
        return files
