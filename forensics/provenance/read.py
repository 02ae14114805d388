"""The provenance of one file: its content credentials, the traces in its metadata, and its camera data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..arrays import Pixels
from ..containers import format_of
from ..contract import Provenance, ProvenanceTrace
from .blocks import read_blocks
from .camera import check_camera
from .credentials import MOST_BYTES, Credentials, CredentialsReader
from .exif_tags import read_exif_tags
from .generators import Finding, find_traces
from .manifests import STRENGTH
from .wording import word

_MOST_TRACES = 16


class ProvenanceReader:
    """Reads where files say that they come from; may be used by many threads and after a fork.

    Raises (on building):
        ValueError: the trust list cannot be read or holds no certificate.
    """

    def __init__(self, trust_list: Path | None = None) -> None:
        """Take the trust list: certificates (PEM) of the authorities whose signers are trusted; None trusts nobody."""
        self._credentials = CredentialsReader(trust_list)
        self.check = self._credentials.check

    def read(self, data: bytes, preview: Pixels, size: tuple[int, int]) -> Provenance:
        """Return the provenance of a file that was decoded; whatever its metadata hold, this does not raise.

        ``preview`` [h, w, 3] uint8: a small copy of the upright picture. ``size``: its full width and height in pixels.
        """
        blocks = read_blocks(data)
        tags = read_exif_tags(blocks.exif)
        findings = list(find_traces(blocks, tags))
        camera, camera_traces = check_camera(
            blocks, tags, preview, size, any(f.trace.kind in ("generator", "editor") for f in findings)
        )
        traces = (*(f.trace for f in findings), *camera_traces)[:_MOST_TRACES]
        credentials = Credentials("none")
        if blocks.credentials > MOST_BYTES:
            credentials = Credentials("unreadable", codes=("tooLarge",))
        elif blocks.credentials:
            credentials = self._credentials.read(data, format_of(data))
        elif any(f.trace.kind == "reference" for f in findings):
            credentials = Credentials("remote")
        found = _combine(credentials, findings, traces)
        return replace(found, camera=camera, text=word(replace(found, camera=camera)))


def _combine(credentials: Credentials, findings: list[Finding], traces: tuple[ProvenanceTrace, ...]) -> Provenance:
    """Return what credentials and metadata declare together: the stronger one, the signed one where they are equal."""
    stated = credentials.statement
    signed = Provenance(
        status=credentials.status,
        generator=stated.generator,
        source_type=stated.source_type,
        signer=stated.signer,
        codes=credentials.codes,
        traces=traces,
    )
    if stated.declares and credentials.status in ("trusted", "untrusted", "nonconforming"):
        sure = credentials.status == "trusted" and stated.sure
        signed = replace(signed, declares=stated.declares, guarantee="trusted" if sure else "signed")
    written = max(findings, key=lambda finding: STRENGTH[finding.declares], default=None)
    if written is None or STRENGTH[written.declares] <= STRENGTH[signed.declares]:
        return signed
    named = next((f.generator for f in findings if f.generator and f.declares == written.declares), "")
    return replace(
        signed,
        declares=written.declares,
        guarantee="metadata",
        generator=named or written.generator,
        source_type=written.source_type,
    )
