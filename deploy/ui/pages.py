"""The pages: the queue, a picture of one's own, and figures with decisions and export."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePath

import streamlit as st

from veridict.client import VeridictError

from .agreement import Agreement, figures
from .export import zip_bytes
from .item_view import set_note, show_item, show_note, undo
from .records import count, latest_decisions, refusals
from .resources import detector_ready, queue_problem, shared
from .reviewer import reviewer
from .sources import judge_and_add
from .texts import plain, small


def queue() -> None:
    """Hand out one item after the other, the most urgent first."""
    name = reviewer()
    show_note()
    item = shared().store.claim(name)
    counts = count(shared().store)
    source = "" if item is None else f", this one from {PurePath(item.source).name}"
    small(f"Reviewer {name}: {counts.waiting} waiting{source}, {counts.decided} decided")
    if item is not None:
        show_item(item, name, "queue")
        return
    st.info("Nothing is waiting for you." + (" Others hold the rest." if counts.held else ""))
    st.button("Undo", shortcut="Z", help="Undo your last decision", on_click=undo, args=(name,))
    _show_refusals(counts.refused)
    st.fragment(_look_again, run_every=5.0)(name)


def _look_again(name: str) -> None:
    """Run the page again as soon as something is waiting."""
    if shared().store.claim(name) is not None:
        st.rerun()


def _show_refusals(number: int) -> None:
    if number:
        with st.expander(f"Refused files and lines: {number}"):
            st.table(
                [{"file": row.place, "why": f"[{row.code}] {row.message}"} for row in refusals(shared().store)],
                hide_index=True,
            )


def upload() -> None:
    """Judge a picture that the reviewer uploads; it can be decided at once."""
    name = reviewer()
    show_note()
    file = st.file_uploader(
        "A picture to judge", ["jpg", "jpeg", "png", "webp"], help="JPEG, PNG or WebP, at most 20 MB"
    )
    if file is None:
        small(
            f"The picture is judged by the detector and stored for {shared().settings.keep_days:g} days. "
            "With low confidence it also joins the queue."
        )
        return
    store = shared().store
    judged = st.session_state.get("judged")
    if judged is None or judged[0] != file.file_id:
        try:
            with st.spinner("Judging the picture"):
                item_id = judge_and_add(
                    shared().client, store, shared().images, file.getvalue(), file.name, f"upload by {name}"
                )
        except VeridictError as error:
            st.error(f"[{error.code}] {error.message}")
            return
        st.session_state["judged"] = judged = (file.file_id, item_id)
        store.claim_item(item_id, name)
    item = store.get(judged[1])
    assert item is not None
    if item.open and not store.claim_item(item.id, name):
        set_note(False, "Another reviewer is working on this picture.")
        show_note()
    show_item(item, name, "upload")


def results() -> None:
    """Show how often reviewers agree with the detector, the latest decisions, and the export."""
    show_note()
    found = figures(shared().store)
    overall = found.overall
    if not overall.confirmed + overall.overturned + overall.unsure:
        st.info("Nothing is decided yet.")
        return
    with st.container(horizontal=True):
        st.metric("Agreement with the detector", _percent(overall))
        st.metric("Decided", overall.confirmed + overall.overturned + overall.unsure)
        st.metric("Overturned", overall.overturned)
        st.metric("Unsure", overall.unsure)
    small("Agreement: confirmed among confirmed and overturned; in brackets the 95% interval.")
    for title, groups in (
        ("By confidence", found.by_confidence),
        ("By verdict", found.by_verdict),
        ("By category", found.by_category),
        ("By day (UTC)", found.by_day),
    ):
        st.subheader(title)
        st.table([_row(group) for group in groups], hide_index=True)
    if len(found.by_day) > 1:
        st.line_chart({each.group: each.share for each in found.by_day if each.share is not None}, y_label="agreement")
    st.subheader("Labelled data")
    small(
        "Folders real and fake, manifest.csv and decisions.jsonl: veridict evaluate and veridict calibrate read them."
    )
    # A click must not run the script again: the start of a run empties the queue of messages to the browser, so that
    # now and then the address of the ZIP was lost, the button turned for ever and nothing was downloaded.
    st.download_button(
        "Export as ZIP",
        lambda: zip_bytes(shared().store, shared().images),
        file_name="veridict-review.zip",
        mime="application/zip",
        on_click="ignore",
    )
    st.subheader("Latest decisions")
    st.table(
        [
            {
                "when (UTC)": datetime.fromtimestamp(decision.at, UTC).strftime("%Y-%m-%d %H:%M"),
                "picture": item.name,
                "detector": item.verdict,
                "decision": decision.kind,
                "reason": decision.reason,
                "reviewer": decision.reviewer,
            }
            for decision, item in latest_decisions(shared().store)
        ],
        hide_index=True,
    )
    _show_refusals(count(shared().store).refused)


def _percent(group: Agreement) -> str:
    return "no decision" if group.share is None else f"{group.share:.0%}"


def _row(group: Agreement) -> dict[str, object]:
    interval = group.interval
    shown = "" if interval is None else f" ({interval[0]:.0%} to {interval[1]:.0%})"
    return {
        "group": group.group,
        "agreement": _percent(group) + shown,
        "confirmed": group.confirmed,
        "overturned": group.overturned,
        "unsure": group.unsure,
    }


def _ask_service_again() -> None:
    detector_ready.clear()
    queue_problem.clear()


def sidebar() -> None:
    """Show whether detector and heatmaps can be used, and what the command started."""
    settings = shared().settings
    with st.sidebar:
        st.subheader("Service")
        st.markdown(f"Detector at `{settings.url}`: {'ready' if detector_ready() else '**not ready**'}")
        st.markdown(f"Heatmaps: {plain(queue_problem()) or 'ready'}")
        for note in settings.notes:
            small(note)
        small(f"Images are deleted after {settings.keep_days:g} days.")
        st.button("Look again", on_click=_ask_service_again, help="Ask the detector and the queue once more")
