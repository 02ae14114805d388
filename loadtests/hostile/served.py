"""The preparation of an image as the server does it, with all that reads the file: decoding, signals, provenance."""

from __future__ import annotations

from functools import cache

from veridict.forensics.decode import Limits
from veridict.forensics.preprocess import Prepared, prepare, warm_up
from veridict.forensics.provenance.read import ProvenanceReader
from veridict.forensics.work import estimate_seconds


@cache
def _provenance() -> ProvenanceReader:
    return ProvenanceReader()


def get_ready() -> None:
    """Load what the first image would load."""
    warm_up()
    _provenance()


def prepare_as_served(data: bytes, limits: Limits = Limits()) -> Prepared:  # noqa: B008 - frozen value
    """Prepare an image, after the guess at its work.

    Raises:
        ImageError: the image is refused.
    """
    estimate_seconds(data)
    return prepare(data, limits, provenance=_provenance())
