"""The whole page."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from page.api import add_endpoints
from page.both_tab import build_both_tab
from page.desk import Desk
from page.example_tab import build_example_tab
from page.explore_tab import build_explore_tab
from page.guarded_blocks import GuardedBlocks
from page.panel import PRIVATE
from page.session import Session
from page.text_tab import build_text_tab
from page.video_tab import build_video_tab

_TITLE = "owlkit"


def make_page(
    desk: Desk, examples: Sequence[tuple[str, str]] = (), pictures: Path | None = None
) -> gr.Blocks:
    """Builds the page; nothing is loaded before the first question.

    Args:
        desk: Answers.
        examples: Picture files and words to try, each a row.
        pictures: A folder that all visitors may search; None if there is none.
    """
    with GuardedBlocks(desk.folder, title=_TITLE, analytics_enabled=False) as page:
        session = gr.State(Session(), time_to_live=desk.limits.kept_seconds)
        gr.HTML(
            f"<h1>{_TITLE}</h1><p>Words or example boxes find objects in your pictures.</p>",
            elem_classes="owl-header",
        )
        remedy = gr.Markdown(visible=False, elem_id="remedy", elem_classes="owl-remedy")
        with gr.Tab("Text", id="text"):
            build_text_tab(desk, session, examples)
        with gr.Tab("Image query", id="example"):
            build_example_tab(desk, session)
        with gr.Tab("Both", id="both"):
            build_both_tab(desk, session)
        with gr.Tab("Explore", id="explore"):
            build_explore_tab(desk, session, pictures)
        with gr.Tab("Video", id="video"):
            build_video_tab(desk, session)
        add_endpoints(page, desk)
        page.load(lambda: _notice(desk), None, remedy, **PRIVATE)
    page.queue(
        api_open=False,  # nothing passes the queue by
        max_size=desk.limits.waiting,
        default_concurrency_limit=desk.limits.workers,
    )
    return page


def _notice(desk: Desk) -> gr.Markdown:
    """What to do where there is no model yet."""
    remedy = desk.model.remedy
    return gr.Markdown(value=remedy or "", visible=remedy is not None)
