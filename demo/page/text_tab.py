"""The tab *Text*: words find objects in a picture."""

import copy
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.events import Dependency

from owlkit.prompts import TEMPLATES
from owlkit.queries.syntax import parse_words
from page.colour import read_colour, shown_colour
from page.desk import Asked, Desk
from page.messages import speaking
from page.panel import PRIVATE, AnswerPanel, Settings, asking, on_question
from page.session import Session
from page.uploads import checked_queries, picture_input

_SETTLE = "() => new Promise((done) => setTimeout(done, 50))"


def build_text_tab(desk: Desk, session: gr.State, examples: Sequence[tuple[str, str]]) -> None:
    """Builds the tab inside the current one.

    Args:
        desk: Answers.
        session: Holds a :class:`~page.session.Session`.
        examples: Picture files and words, to be clicked on; may be none.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = picture_input("Picture", "text-picture")
            words = gr.Textbox(
                label="Look for",
                info="Names separated by commas; parts in brackets: face [nose, eye]",
                placeholder="a cat, a remote control",
                elem_id="text-words",
                lines=1,
                max_lines=4,
            )
            find = gr.Button("Find", variant="primary", elem_id="text-find")
            templates = gr.Dropdown(
                sorted(TEMPLATES), value="none", label="Prompt templates", elem_id="text-templates"
            )
            settings = Settings(desk)
            with gr.Accordion("Colours", open=False):
                name = gr.Dropdown([], label="Class", elem_id="text-colour-class")
                colour = gr.ColorPicker(label="Colour", elem_id="text-colour")
        with gr.Column(scale=3, min_width=300):
            panel = AnswerPanel(
                desk, settings, name="text", nothing="Boxes will appear on your picture here."
            )
            tried = _add_examples(desk, examples, [picture, words]) if examples else None

    def ask(kept: Session, path: str | None, text: str, templates: str) -> tuple[Session, Asked]:
        kept = kept.with_words(checked_queries(parse_words(text, templates), desk.limits))
        return kept, Asked((path,) if path else (), kept.words)

    question: dict[str, Any] = {
        "fn": asking(panel, ask),
        "inputs": [session, picture, words, templates, *settings.inputs],
        "outputs": [session, *panel.outputs],
        **on_question(desk),
    }
    asked = [gr.on([find.click, words.submit], **question)]
    if tried:
        asked.append(tried.success(**question))
    for one in asked:
        one.success(_offer, panel.asked, [name, colour], **PRIVATE)
        panel.come_into_view(one)
    name.input(_shade, [panel.asked, name], colour, **PRIVATE)
    painting: dict[str, Any] = {
        "fn": partial(_paint, panel),
        "inputs": [session, panel.asked, name, colour, *settings.inputs],
        "outputs": [session, *panel.outputs],
        "show_progress": "hidden",
        **on_question(desk),
    }
    gr.on([colour.input, colour.blur], **painting)
    # What was typed becomes the value only after Enter is told.
    colour.submit(None, js=_SETTLE, **PRIVATE).then(**painting)


def _add_examples(
    desk: Desk, examples: Sequence[tuple[str, str]], fields: list[gr.components.Component]
) -> Dependency:
    """Rows to be clicked on; what fills in the fields."""
    # gradio hands out what lies in its own folder.
    places = [tempfile.mkdtemp(dir=desk.folder, prefix="example-") for _ in examples]
    samples = [
        [shutil.copy(picture, place), words]
        for (picture, words), place in zip(examples, places, strict=True)
    ]
    rows = gr.Dataset(components=fields, samples=samples, label="Try one of these")
    return rows.click(
        lambda sample: sample or [None, None], rows, fields, show_progress="hidden", **PRIVATE
    )


@speaking
def _offer(asked: Asked | None) -> tuple[gr.Dropdown, str | None]:
    """The classes that can be painted, and the colour of the first."""
    names = asked.queries.names if asked else ()
    first = names[0] if names else None
    return gr.Dropdown(list(names), value=first), _shade(asked, first)


@speaking
def _shade(asked: Asked | None, name: str | None) -> str | None:
    return shown_colour(asked.queries, name) if asked and name else None


@speaking
def _paint(
    panel: AnswerPanel,
    kept: Session,
    asked: Asked | None,
    name: str | None,
    colour: str,
    *values: Any,
) -> list[Any]:
    rgb = read_colour(colour)
    if asked is None or not name or rgb == read_colour(shown_colour(asked.queries, name)):
        return [gr.skip()] * (1 + len(panel.outputs))
    queries = copy.deepcopy(asked.queries)
    queries.update(name, colour=rgb)
    return [
        kept.with_class(name, colour=rgb),
        *panel.show_again(Asked(asked.pictures, queries), *values),
    ]
