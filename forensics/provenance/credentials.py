"""Content credentials (C2PA), read and validated by c2pa-python with everything switched off that leaves the machine.

The library gets only files that carry credentials. It was tried with damaged, nested and huge manifests (tests).
"""

from __future__ import annotations

import io
import json
import os
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..contract import CredentialStatus
from .manifests import NO_STATEMENT, Statement, failed_checks, read_statement, succeeded_codes

#: Larger credentials (bytes) are not read. Manifests with thumbnails have up to some hundred KB.
MOST_BYTES = 4 * 1024 * 1024
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_MOST_CODES = 16
_STATES: dict[str, CredentialStatus] = {"Trusted": "trusted", "Valid": "untrusted"}
#: Failures that mean: these credentials do not belong to these bytes (C2PA 2.2, 15.2).
_TAMPERED = {
    "assertion.boxesHash.mismatch",
    "assertion.collectionHash.mismatch",
    "assertion.bmffHash.mismatch",
    "assertion.dataHash.mismatch",
    "assertion.hashedURI.mismatch",
    "assertion.missing",
    "claim.hardBindings.missing",
    "claimSignature.mismatch",
    "claimSignature.missing",
    "hashedURI.mismatch",
    "hashedURI.missing",
    "ingredient.manifest.mismatch",
}
#: Successes that together mean: the signature is sound, and it covers the bytes of the file.
_SIGNED = "claimSignature.validated"
_BOUND = {"assertion.dataHash.match", "assertion.boxesHash.match", "assertion.bmffHash.match"}


@dataclass(frozen=True)
class Credentials:
    """The state of a file's credentials, what they state, and the codes of the checks that failed."""

    status: CredentialStatus
    statement: Statement = NO_STATEMENT
    codes: tuple[str, ...] = ()


class CredentialsReader:
    """Reads and validates the content credentials of files; may be used by many threads and after a fork.

    Raises (on building):
        ValueError: the trust list cannot be read or holds anything but certificates.
    """

    def __init__(self, trust_list: Path | None = None) -> None:
        """Take the trust list: certificates (PEM) of the authorities whose signers are trusted; None trusts nobody."""
        anchors = ""
        if trust_list is not None:
            try:
                anchors = trust_list.read_text("ascii")
                # The library passes over what is no certificate, and then trusts nobody.
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=anchors)
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                raise ValueError(f"the trust list {trust_list} holds no certificates in PEM form: {error}") from error
        self._settings, self._trust_list = json.dumps(make_settings(anchors)), trust_list

    def check(self) -> None:
        """Check that files can be read. It starts the library, which a process that forks others had better not do.

        Raises:
            ImportError: c2pa-python is not installed.
            ValueError: the library refuses a certificate of the trust list.
        """
        try:
            _context(self._settings, os.getpid())
        except ImportError as error:
            raise ImportError("content credentials need c2pa-python: pip install 'veridict[serving]'") from error
        except Exception as error:  # the library's own type, which is not known before its import
            raise ValueError(f"the trust list {self._trust_list} is refused: {error}") from error

    def read(self, data: bytes, form: str) -> Credentials:
        """Return the credentials of a JPEG, PNG or WEBP file. Whatever the file holds, this does not raise."""
        from c2pa import Reader

        try:
            # The context belongs to the process that made it.
            with Reader(_TYPES[form], io.BytesIO(data), context=_context(self._settings, os.getpid())) as reader:
                state, store = reader.get_validation_state(), json.loads(reader.json())
            return judge(state or "", store)
        except Exception as error:
            return Credentials("unreadable", codes=(type(error).__name__.removeprefix("_C2pa"),))


def load_library() -> None:
    """Import the library, and nothing more, so that processes that are forked afterwards have it.

    Raises:
        ImportError: c2pa-python is not installed.
    """
    import c2pa  # noqa: F401


def make_settings(anchors: str) -> dict[str, Any]:
    """Return the library's settings: no remote manifests, no OCSP, no host at all.

    Identity assertions are not decoded either: their issuers are looked up on the web whatever the allowed hosts are.
    """
    trust = {"verify_trust_list": True, **({"trust_anchors": anchors} if anchors else {})}
    return {
        "version": 1,
        "trust": trust,
        "verify": {
            "verify_after_reading": True,
            "verify_trust": True,
            "verify_timestamp_trust": True,
            "remote_manifest_fetch": False,
            "ocsp_fetch": False,
        },
        "core": {
            "allowed_network_hosts": [],
            "decode_identity_assertions": False,
            "max_decompressed_manifest_size_in_mb": MOST_BYTES >> 20,
        },
    }


def judge(state: str, store: dict[str, Any]) -> Credentials:
    """Return what a manifest store and the library's validation state (Trusted, Valid, Invalid) come to.

    Raises:
        KeyError, TypeError, AttributeError: the store is malformed.
    """
    failures = failed_checks(store)
    codes = tuple(sorted({code for code, _ in failures}))
    succeeded = succeeded_codes(store)
    sound = _SIGNED in succeeded and bool(_BOUND & succeeded)
    status: CredentialStatus = "unreadable"
    if _TAMPERED & set(codes):
        status = "tampered"
    elif sound:
        status = _STATES.get(state, "nonconforming")
    return Credentials(status, read_statement(store, {label for _, label in failures}), codes[:_MOST_CODES])


@lru_cache(maxsize=4)
def _context(settings: str, process: int) -> Any:
    """Return the library's context for these settings in this process; making it costs a millisecond."""
    from c2pa import Context

    return Context.from_json(settings)
