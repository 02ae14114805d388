"""The script that Streamlit runs for each session; ``veridict ui`` starts it."""

import streamlit as st

from veridict.deploy.ui import pages
from veridict.deploy.ui.reviewer import keep_reviewer

st.set_page_config(page_title="Veridict review", layout="wide", initial_sidebar_state="collapsed")
chosen = st.navigation(
    [
        st.Page(pages.queue, title="Queue", url_path="queue", default=True),
        st.Page(pages.upload, title="Judge a picture", url_path="judge"),
        st.Page(pages.results, title="Results", url_path="results"),
    ],
    position="top",
)
keep_reviewer()
pages.sidebar()
chosen.run()
