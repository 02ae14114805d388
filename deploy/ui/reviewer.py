"""Who is deciding: a name that the reviewer types once, or that a proxy with sign-in gives."""

from __future__ import annotations

import streamlit as st

from .resources import shared
from .store import ReviewError, reviewer_name

_KEY = "reviewer"


def reviewer() -> str:
    """Return the reviewer's name; ask for it, and end the page there, while there is none.

    With ``--user-header`` the proxy's header is the only source. Else the name stands in the page's address, so that it
    survives a reload.
    """
    header = shared().settings.user_header
    text = str(st.context.headers.get(header) or "") if header else str(st.query_params.get(_KEY, ""))
    try:
        return reviewer_name(text)
    except ReviewError as error:
        if header:
            st.error(f"The header {header} names no reviewer: open the page through the proxy that signs people in.")
            st.stop()
        if text:
            st.error(error.message)
    with st.form("who", border=True):
        st.subheader("Who is deciding?")
        name = st.text_input("Your name", help="It is stored with each decision.", max_chars=128)
        if st.form_submit_button("Begin"):
            try:
                st.query_params[_KEY] = reviewer_name(name)
            except ReviewError as error:
                st.error(error.message)
            else:
                st.rerun()
    st.stop()


def keep_reviewer() -> None:
    """Put the name back into the address after a change of page, which clears it."""
    known = st.session_state.get(_KEY)
    named = st.query_params.get(_KEY)
    if named:
        st.session_state[_KEY] = named
    elif known:
        st.query_params[_KEY] = known
