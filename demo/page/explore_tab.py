"""The tab *Explore*: what a model sees, in one picture and in many."""

from pathlib import Path

import gradio as gr

from page.desk import Desk
from page.maps_part import build_maps
from page.search_part import build_search


def build_explore_tab(desk: Desk, session: gr.State, pictures: Path | None = None) -> None:
    """Builds the tab inside the current one.

    Args:
        desk: Answers.
        session: Holds a :class:`~page.session.Session`.
        pictures: A folder that all visitors may search; None if there is none.
    """
    with gr.Tabs():
        with gr.Tab("Maps of a picture", id="maps"):
            build_maps(desk, session)
        with gr.Tab("Search in pictures", id="search"):
            build_search(desk, session, pictures)
