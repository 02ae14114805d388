"""The picture of an item: zoom, faces, forensic maps with sliders, and a second picture beside it."""

from __future__ import annotations

import streamlit as st

from veridict.client import VeridictError
from veridict.forensics.contract import Verdict

from . import viewer
from .answer_view import describe
from .maps import MAPS, MapKind, MapSettings
from .resources import map_layer, preview, shared
from .sources import MAX_BYTES
from .texts import plain, small

#: Files up to this size are sent as they are; of larger ones first a smaller picture.
SENT_WHOLE = 1_000_000
_PREVIEW_SIDE = 1280
_PLAIN = "Picture"


def show_picture(verdict: Verdict, name: str, data: bytes, key: str) -> None:
    """Show the picture with its controls. ``key`` is different for each item and page."""
    titles = {_PLAIN: None, **{row.title: kind for kind, row in MAPS.items()}}
    chosen = st.segmented_control("View", list(titles), default=_PLAIN, key=f"view-{key}", label_visibility="collapsed")
    kind = titles[chosen or _PLAIN]
    # The viewer keeps its place on the page, whatever stands in the containers: else it would lose zoom and position.
    controls, place = st.container(), st.container()
    native = False
    with controls:
        settings, opacity = (None, 0.0) if kind is None else _sliders(kind, key)
        if len(data) > SENT_WHOLE:
            native = st.toggle(
                f"Load native pixels ({len(data) / 1e6:.1f} MB)",
                key=f"native-{key}",
                help="Until then a smaller picture is shown.",
            )
        pictures = [_picture(verdict, name, data, settings, opacity, native)]
    second = _second_picture(key)
    if second is not None:
        pictures.append(_picture(*second, settings, opacity, native=False))
    with place:
        viewer.show(pictures, key=f"viewer-{key}")
        if settings is not None:
            _legend(settings)


def _sliders(kind: MapKind, key: str) -> tuple[MapSettings, float]:
    row = MAPS[kind]
    columns = st.columns(4 if kind == "ela" else 3)
    quality = MapSettings.quality
    if kind == "ela":
        quality = columns[0].slider("Quality", 50, 99, quality, key=f"quality-{key}", help="Of the JPEG compression")
    gain = columns[-3].slider("Gain", 0.5, 10.0, 1.0, 0.5, key=f"gain-{kind}-{key}", help="Brightness of the map")
    window = columns[-2].slider(
        "Scale", 1, 48, row.window, key=f"window-{kind}-{key}", help="Side in pixels of the averaged squares"
    )
    overlay = columns[-1].slider(
        "Overlay", 0, 100, 100, 5, format="%d%%", key=f"overlay-{kind}-{key}", help="0% shows the picture alone"
    )
    return MapSettings(kind, quality, gain, window), overlay / 100


def _picture(
    verdict: Verdict, name: str, data: bytes, settings: MapSettings | None, opacity: float, native: bool
) -> viewer.Picture:
    sha256 = verdict.image.sha256
    shown = data if native or len(data) <= SENT_WHOLE else preview(sha256, _PREVIEW_SIDE, data)
    layer, why_not = (b"", "") if settings is None else map_layer(sha256, settings, data)
    if why_not and settings is not None:
        st.info(f"{plain(name)}: no {MAPS[settings.kind].title.lower()} map, since {why_not}.")
    faces = tuple(
        viewer.FaceBox(
            face.box, f"{face.fake_probability:.2f}", f"Face {number}: fake probability {face.fake_probability:.2f}"
        )
        for number, face in enumerate(verdict.faces, 1)
    )
    alt = f"{name}, {verdict.image.width} x {verdict.image.height} pixels, judged {describe(verdict)}"
    layer_alt = "" if settings is None else f"{MAPS[settings.kind].title} map of {name}"
    return viewer.Picture(
        shown, verdict.image.width, verdict.image.height, alt, faces, layer, layer_alt, opacity if layer else 0.0
    )


def _legend(settings: MapSettings) -> None:
    from veridict.explain.reports.colours import css_stops

    st.html(
        f'<div style="height:.6rem;background:linear-gradient(90deg,{css_stops("measurement")})" aria-hidden="true">'
        '</div><div style="display:flex;justify-content:space-between;font-size:.85rem"><span>0</span>'
        f"<span>grey levels</span><span>{settings.full_scale:.3g} and more</span></div>"
    )
    small(f"{MAPS[settings.kind].caption} Neither bright nor dark means fake.")


def _second_picture(key: str) -> tuple[Verdict, str, bytes] | None:
    """Return a picture that the reviewer uploads for comparison. It is judged and kept in memory only."""
    if not st.toggle("Compare with a second picture", key=f"compare-{key}"):
        return None
    file = st.file_uploader("Second picture", ["jpg", "jpeg", "png", "webp"], key=f"second-{key}")
    if file is None:
        return None
    data = file.getvalue()
    try:
        if len(data) > MAX_BYTES:
            raise VeridictError("the file is larger than the limit", code="image.too_large")
        verdict = _judge(data)
    except VeridictError as error:
        st.error(f"[{error.code}] {error.message}")
        return None
    st.markdown(f"**Second picture:** {plain(f'{describe(verdict)}. {verdict.explanation}')}")
    return verdict, file.name, data


@st.cache_data(show_spinner="Judging the picture", max_entries=32, ttl=600)
def _judge(data: bytes) -> Verdict:
    return shared().client.detect(data)
