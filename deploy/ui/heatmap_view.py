"""Heatmaps of an item: asked for with one button, shown one by one as the worker finishes them."""

from __future__ import annotations

from html import escape

import streamlit as st

from veridict.explain import Attribution, Budget, ExplainError
from veridict.explain.jobs.job import JobStatus
from veridict.explain.methods import METHODS, Method
from veridict.explain.reports.colours import css_stops, ends
from veridict.explain.reports.render import overlay, scale
from veridict.forensics.contract import Verdict

from .maps import encode_png
from .records import jobs_of, remember_jobs
from .resources import decoded, explanations, queue_problem, shared
from .schema import Item
from .texts import plain, small

#: Seconds between two looks at unfinished jobs.
_POLL = 1.0
_SIDE = 420
#: More seconds than by default: a slow heatmap is better than none, and the reviewer sees the progress.
_BUDGET = Budget(seconds=300.0)
_FACE_METHODS = ("grad_cam", "integrated_gradients")
_WHOLE_METHODS = ("tokens_occlusion", "clip_occlusion")
#: The networks of the whole image; the face CNN joins them where there is a face.
_WHOLE_MODELS = ("token_head", "clip")


def show_heatmaps(item: Item, verdict: Verdict, data: bytes, key: str) -> None:
    """Show the heatmaps of an item and the control that asks for more."""
    st.subheader("Heatmaps", help="What the networks reacted to. A heatmap does not prove what was manipulated.")
    jobs = jobs_of(shared().store, item.id)
    problem = queue_problem()
    if problem:
        st.info(f"No heatmaps: {plain(problem)}")
        st.fragment(_look_again, run_every=5.0)(problem)
        return
    models = (*_WHOLE_MODELS, "face_cnn") if verdict.faces else _WHOLE_MODELS
    missing = [row.name for row in METHODS.values() if row.model in models and row.name not in jobs]
    if missing:
        _ask(item, data, missing, verdict, key)
    if jobs:
        finished = _all_finished(jobs)
        # A fragment runs alone, so that polling does not run the rest of the page again.
        st.fragment(_progress, run_every=None if finished else _POLL)(jobs, verdict, data, finished)


def _look_again(problem: str) -> None:
    """Run the page again when the queue of explanations can be used."""
    if queue_problem() != problem:
        st.rerun()


def _ask(item: Item, data: bytes, missing: list[str], verdict: Verdict, key: str) -> None:
    usual = [name for name in (_FACE_METHODS if verdict.faces else _WHOLE_METHODS) if name in missing]
    chosen = st.pills(
        "Methods",
        missing,
        selection_mode="multi",
        default=usual,
        format_func=lambda name: METHODS[name].title,
        key=f"methods-{key}-{len(missing)}",
        wrap=True,
    )
    if st.button("Compute heatmaps", key=f"explain-{key}", disabled=not chosen, shortcut="H"):
        try:
            remember_jobs(shared().store, item.id, explanations().submit(data, chosen, budget=_BUDGET).jobs)
        except ExplainError as error:
            st.error(str(error))
        else:
            st.rerun()


def _status(job: str) -> JobStatus | ExplainError:
    try:
        return explanations().status(job)
    except ExplainError as error:
        return error


def _is_finished(status: JobStatus | ExplainError) -> bool:
    return isinstance(status, ExplainError) or status.finished


def _all_finished(jobs: dict[str, str]) -> bool:
    return all(_is_finished(_status(job)) for job in jobs.values())


def _progress(jobs: dict[str, str], verdict: Verdict, data: bytes, was_finished: bool) -> None:
    states = {name: _status(job) for name, job in jobs.items()}
    done = sum(_is_finished(status) for status in states.values())
    if done < len(states):
        st.progress(done / len(states), f"{done} of {len(states)} heatmaps finished")
    elif not was_finished:
        st.rerun()  # ends the polling
    columns = st.columns(2)
    for number, (name, status) in enumerate(states.items()):
        with columns[number % 2]:
            _show(METHODS[name], jobs[name], status, verdict, data)


def _show(method: Method, job: str, status: JobStatus | ExplainError, verdict: Verdict, data: bytes) -> None:
    if isinstance(status, ExplainError):
        st.warning(f"{method.title}: {status}")
        return
    if not status.finished:
        small(f"{method.title}: {status.state}")
        return
    if status.state == "dead":
        st.warning(f"{method.title}: {status.message}")
        st.button("Try again", key=f"again-{job}", on_click=_try_again, args=(job,))
        return
    try:
        picture, legend = _drawn(job, verdict.image.sha256, data)
    except ExplainError as error:
        st.warning(f"{method.title}: {error.message}")
        return
    st.image(picture, width="stretch", alt=f"{method.title} heatmap. {method.caption}")
    st.html(legend)
    small(f"{method.title}. {method.caption}")


def _try_again(job: str) -> None:
    queue = explanations().queue
    for letter in queue.dead_letters():
        if letter.job == job:
            queue.requeue(letter)


@st.cache_data(show_spinner=False, max_entries=64, ttl=600)
def _drawn(job: str, sha256: str, _data: bytes) -> tuple[bytes, str]:
    """Return a finished heatmap over its part of the image, as a PNG, and its legend."""
    result: Attribution = explanations().fetch(job)
    low, high = ends(result.kind)
    full = f"full colour: {scale(result).full_scale:.3g} {escape(result.unit)}"
    legend = (
        f'<div style="height:.5rem;background:linear-gradient(90deg,{css_stops(result.kind)})" aria-hidden="true">'
        '</div><div style="display:flex;justify-content:space-between;font-size:.8rem">'
        f"<span>{low}</span><span>{high}</span></div>"
        f'<div style="font-size:.8rem;opacity:.8">{full}</div>'
    )
    return encode_png(overlay(result, decoded(sha256, _data).pixels, _SIDE)), legend
