"""One item: picture, answer, buttons with which the reviewer decides, heatmaps and details."""

from __future__ import annotations

from html import escape

import streamlit as st

from veridict.forensics.contract import Verdict

from . import answer_view
from .heatmap_view import show_heatmaps
from .picture_view import show_picture
from .resources import parse_answer, shared
from .schema import Decision, Item
from .store import LONGEST_REASON, Kind, ReviewError
from .texts import plain

_SAID: dict[str, str] = {"confirm": "Confirmed", "overturn": "Overturned", "unsure": "Left unsure"}
#: Decision -> (label, key, what it means). Streamlit keeps C and R for itself, so Confirm has A, for agree.
_BUTTONS: dict[Kind, tuple[str, str, str]] = {
    "confirm": ("Confirm", "A", "The detector is right"),
    "overturn": ("Overturn", "O", "The detector is wrong: the opposite is true"),
    "unsure": ("Unsure", "U", "It cannot be told; the item is left out of labelled data"),
}
_NOTE = "note"
_REASONS = (
    "visible editing",
    "generated look",
    "face looks swapped",
    "ordinary photograph",
    "drawing or screenshot",
    "poor quality",
)


def show_item(item: Item, reviewer: str, page: str) -> None:
    """Show an item that the reviewer holds, or that somebody decided; ``page`` keeps widgets of pages apart."""
    key = f"{page}-{item.id}"
    verdict = parse_answer(item.answer)
    data = shared().images.get(item.sha256)
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.html(f'<h1 style="font-size:1.1rem;margin:0;padding:0;overflow-wrap:anywhere">{escape(item.name)}</h1>')
        if data is None:
            st.warning(
                f"The image is not stored any more: images are kept for {shared().settings.keep_days:g} days. "
                "Its answer is still here."
            )
        else:
            show_picture(verdict, item.name, data, key)
    with right:
        st.html(answer_view.verdict_html(verdict))
        decision = None if item.open else shared().store.decision_on(item.id)
        if decision is None:
            _show_buttons(item, reviewer, key)
        else:
            _show_decision(decision, reviewer, key)
        _keep_lease(item, reviewer)
    lower_left, lower_right = st.columns([3, 2], gap="large")
    with lower_left:
        if data is not None:
            show_heatmaps(item, verdict, data, key)
    with lower_right:
        _show_details(item, verdict)


def show_note() -> None:
    """Show what the last decision, undo or error was; screen readers say it, because it is an alert."""
    note = st.session_state.pop(_NOTE, None)
    if note is not None:
        (st.success if note[0] else st.error)(note[1])


def set_note(good: bool, text: str) -> None:
    """Leave a note for the next run of the page."""
    st.session_state[_NOTE] = (good, text)


def undo(reviewer: str) -> None:
    """Undo the reviewer's last decision, and leave a note."""
    item = shared().store.undo(reviewer)
    if item is None:
        set_note(False, "There is no decision of yours to undo.")
    else:
        set_note(True, f"Undone: {plain(item.name)} is open again.")


def _show_buttons(item: Item, reviewer: str, key: str) -> None:
    st.pills("Reason", _REASONS, selection_mode="multi", key=f"reasons-{key}", wrap=True)
    st.text_input(
        "In your own words",
        key=f"reason-{key}",
        max_chars=LONGEST_REASON,
        help="Keys decide only while no text field has the focus: leave it with Tab.",
    )
    with st.container(horizontal=True):
        for kind, (label, letter, meaning) in _BUTTONS.items():
            st.button(
                label,
                key=f"{kind}-{key}",
                shortcut=letter,
                help=meaning,
                on_click=_decide,
                args=(item.id, item.name, reviewer, kind, key),
            )
        st.button(
            "Next", key=f"next-{key}", shortcut="N", help="Leave it open", on_click=_skip, args=(item.id, reviewer)
        )
        _undo_button(reviewer, key)


def _undo_button(reviewer: str, key: str) -> None:
    st.button("Undo", key=f"undo-{key}", shortcut="Z", help="Undo your last decision", on_click=undo, args=(reviewer,))


def _decide(item: int, name: str, reviewer: str, kind: Kind, key: str) -> None:
    reasons = [*st.session_state.get(f"reasons-{key}", ()), st.session_state.get(f"reason-{key}", "").strip()]
    try:
        shared().store.decide(item, reviewer, kind, "; ".join(filter(None, reasons)))
    except ReviewError as error:
        set_note(False, f"Not stored: {plain(error.message)}.")
    else:
        set_note(True, f"Stored: {_SAID[kind].lower()} {plain(name)}.")


def _skip(item: int, reviewer: str) -> None:
    shared().store.skip(item, reviewer)


def _show_decision(decision: Decision, reviewer: str, key: str) -> None:
    reason = f": {plain(decision.reason)}" if decision.reason else ""
    st.info(f"{_SAID[decision.kind]} by {plain(decision.reviewer)}{reason}")
    if decision.reviewer == reviewer:
        _undo_button(reviewer, key)


def _keep_lease(item: Item, reviewer: str) -> None:
    """Renew the lease while the page is open, and say when somebody else has the item."""
    if not item.open:
        return

    def renew() -> None:
        if not shared().store.claim_item(item.id, reviewer):
            st.warning("Another reviewer has this item now. Press N for the next one.")

    st.fragment(renew, run_every=shared().settings.lease / 3)()


def _show_details(item: Item, verdict: Verdict) -> None:
    st.subheader("Evidence")
    st.html(answer_view.evidence_html(verdict))
    parts = {"Category": answer_view.category_rows(verdict), "Faces": answer_view.face_rows(verdict)}
    parts |= answer_view.further_parts(item.answer)
    for caption, rows in parts.items():
        if rows:
            st.html(answer_view.table_html(caption, rows))
    with st.expander("Measurements and file"):
        st.html(answer_view.table_html("Measurements", answer_view.measurement_rows(verdict)))
        st.html(answer_view.table_html("File and models", answer_view.file_rows(item.answer)))
