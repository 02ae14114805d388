"""What every session of the page shares: settings, the store, images, the detector's client and caches."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from veridict.client import DetectorClient
from veridict.explain import ExplainError, ExplanationClient
from veridict.forensics.contract import Verdict
from veridict.forensics.decode import DecodedImage, decode_image

from .database import open_database
from .images import ImageFolder
from .maps import MapSettings, NotApplicableError, map_png, preview_jpeg
from .settings import UiSettings
from .store import ReviewStore

#: Seconds after which derived pictures are dropped from memory; they never outlive an image by more.
_KEEP = 600


@dataclass(frozen=True)
class Shared:
    """The shared objects; all may be used by several threads."""

    settings: UiSettings
    store: ReviewStore
    images: ImageFolder
    client: DetectorClient


@st.cache_resource(show_spinner=False)
def shared() -> Shared:
    """Return the shared objects, made once per process."""
    settings = UiSettings.from_environment()
    store = ReviewStore(open_database(settings.database), settings.lease)
    return Shared(settings, store, ImageFolder(settings.folder), DetectorClient(config=settings.client_config()))


@st.cache_resource(show_spinner=False, ttl=3600)
def _explanations() -> ExplanationClient:
    return ExplanationClient(shared().settings.queue())


def explanations() -> ExplanationClient:
    """Return the client of the explanation queue.

    Raises:
        ExplainError: no queue is to be had; the next call tries again.
    """
    return _explanations()


@st.cache_data(show_spinner=False, ttl=5)
def detector_ready() -> bool:
    """Return whether the detector answered within the last seconds."""
    return shared().client.ready(timeout=1.0)


@st.cache_data(show_spinner=False, ttl=5)
def queue_problem() -> str:
    """Return why no heatmaps can be computed, or ""."""
    try:
        workers = explanations().queue.model_versions()
    except ExplainError as error:
        return str(error)
    return "" if workers else "no worker has begun to take explanation jobs yet"


@st.cache_data(show_spinner=False, max_entries=2000)
def parse_answer(document: str) -> Verdict:
    """Return the verdict of a stored answer."""
    return Verdict.from_json(document)


@st.cache_resource(show_spinner=False, max_entries=4, ttl=_KEEP)
def decoded(sha256: str, _data: bytes) -> DecodedImage:
    """Return the decoded image of a file that the detector has accepted."""
    return decode_image(_data)


@st.cache_data(show_spinner=False, max_entries=64, ttl=_KEEP)
def preview(sha256: str, longest: int, _data: bytes) -> bytes:
    """Return a smaller JPEG of an image."""
    return preview_jpeg(decoded(sha256, _data), longest)


@st.cache_data(show_spinner=False, max_entries=64, ttl=_KEEP)
def map_layer(sha256: str, settings: MapSettings, _data: bytes) -> tuple[bytes, str]:
    """Return a map as a PNG, or b"" and the reason why it does not apply."""
    try:
        return map_png(decoded(sha256, _data), settings), ""
    except NotApplicableError as error:
        return b"", str(error)
