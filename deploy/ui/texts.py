"""Text on the page: what comes from outside has no meaning to Markdown, and small text keeps its contrast."""

from __future__ import annotations

import streamlit as st

_MARKDOWN = frozenset("\\`*_{}[]()<>#+-.!|~$:&")


def plain(text: str) -> str:
    """Return Markdown that shows ``text`` as it is, such as the name of a file."""
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in text)


def small(text: str) -> None:
    """Show plain text in a small size. The colour of Streamlit's captions is too pale for small text (WCAG 1.4.3)."""
    st.markdown(f":small[{plain(text)}]")
