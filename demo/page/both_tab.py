"""The tab *Both*: one query set of words and examples, which can be saved, loaded and mixed."""

import re
import tempfile
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from owlkit.errors import QueryError
from owlkit.queries import QueryClass, QuerySet
from owlkit.queries.syntax import parse_words
from page.colour import read_colour, shown_colour
from page.desk import Asked, Desk
from page.messages import speaking
from page.panel import LATEST, PRIVATE, AnswerPanel, Settings, asking, on_question, save_button
from page.session import Session
from page.uploads import PICTURE_TYPES, QUERY_TYPES, Files, checked_queries, read_queries

_COLUMNS = ("name", "colour", "prompts", "examples", "negatives", "threshold")
_LONGEST_NAME = 80
_MODES = {"replace": "in place of what is here", "mix": "beside what is here"}


def build_both_tab(desk: Desk, session: gr.State) -> None:
    """Builds the tab inside the current one.

    Args:
        desk: Answers.
        session: Holds a :class:`~page.session.Session`.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            pictures = Files(
                label="Pictures",
                file_count="multiple",
                file_types=PICTURE_TYPES,
                height=140,
                elem_id="both-pictures",
            )
            find = gr.Button("Find", variant="primary", elem_id="both-find")
            settings = Settings(desk, own_thresholds=True)
            _build_changes(desk, session)
            _build_files(desk, session)
        with gr.Column(scale=3, min_width=300):
            table = gr.HTML(_table(Session()), elem_id="both-classes", elem_classes="owl-classes")
            panel = AnswerPanel(
                desk,
                settings,
                name="both",
                nothing="What words and examples find together will appear here.",
            )

    def ask(kept: Session, paths: list[str] | None) -> tuple[Session, Asked]:
        return kept, Asked(tuple(paths or ()), _embedded(desk, kept))

    session.change(_table, session, table, show_progress="hidden", **LATEST)
    answered = find.click(
        asking(panel, ask),
        [session, pictures, *settings.inputs],
        [session, *panel.outputs],
        **on_question(desk),
    )
    panel.come_into_view(answered)


def _build_changes(desk: Desk, session: gr.State) -> None:
    """What changes classes and adds some."""
    with gr.Accordion("Change a class", open=False):
        name = gr.Dropdown([], label="Class to change", elem_id="both-class")
        with gr.Row():
            threshold = gr.Number(
                None,
                label="Its threshold",
                info="0 to 1; empty for the model's",
                minimum=0,
                maximum=1,
                step=0.01,
                elem_id="both-threshold",
            )
            colour = gr.ColorPicker(label="Its colour", elem_id="both-colour")
        with gr.Row():
            change = gr.Button("Change it", size="sm", elem_id="both-change")
            remove = gr.Button("Remove it", size="sm", elem_id="both-remove")
    with gr.Accordion("Add words", open=False):
        words = gr.Textbox(
            label="Words",
            info="Names separated by commas; a name that is there gets the word, too",
            elem_id="both-words",
            max_lines=4,
        )
        add = gr.Button("Add words", size="sm", elem_id="both-add")

    fields = [name, threshold, colour]
    gr.on(
        [session.change, name.input],
        _fields,
        [session, name],
        fields,
        show_progress="hidden",
        **LATEST,
    )

    @speaking
    def changed(kept: Session, name: Any, threshold: Any, colour: Any) -> Session:
        return kept.with_class(_known(kept, name), threshold=threshold, colour=read_colour(colour))

    change.click(changed, [session, *fields], session, **PRIVATE)
    remove.click(
        speaking(lambda kept, name: kept.without(_known(kept, name))),
        [session, name],
        session,
        **PRIVATE,
    )

    @speaking
    def with_words(kept: Session, text: str | None) -> Session:
        further = kept.with_kept(parse_words(text or ""))
        checked_queries(further.queries, desk.limits)
        return further

    gr.on([add.click, words.submit], with_words, [session, words], session, **PRIVATE)


def _build_files(desk: Desk, session: gr.State) -> None:
    """What saves the query set and loads another."""
    with gr.Accordion("Save and load", open=True):
        name = gr.Textbox(
            "my",
            label="File name",
            info=f"ends in {QUERY_TYPES[0]}",
            elem_id="both-name",
            max_lines=1,
        )
        write = speaking(partial(_write, desk))
        save_button(desk, "Save", write, [session, name], elem_id="both-save")
        file = Files(label="Query file", file_types=QUERY_TYPES, height=140, elem_id="both-file")
        mode = gr.Radio(
            [(title, mode) for mode, title in _MODES.items()],
            value="replace",
            label="Load it",
            elem_id="both-mode",
        )
        load = gr.Button("Load", size="sm", elem_id="both-load")

    @speaking
    def loaded(kept: Session, path: str | None, mode: str) -> Session:
        if not path:
            raise QueryError(f"choose a {QUERY_TYPES[0]} file first")
        further = kept.with_file(read_queries(path, desk.limits), mix=mode == "mix")
        checked_queries(further.queries, desk.limits)
        return further

    load.click(loaded, [session, file, mode], session, **PRIVATE)


def _embedded(desk: Desk, kept: Session) -> QuerySet:
    """All classes with their embeddings, which stay with the session."""
    checked_queries(kept.queries, desk.limits)
    if not kept.queries:
        raise QueryError("say what to look for first: words, or a box in Image query")
    predictor = desk.model.predictor()
    if kept.examples:
        predictor.embed(kept.examples)
    return predictor.embed(kept.queries)


def _write(desk: Desk, kept: Session, name: Any) -> str:
    """A file of the whole query set; it names no file of the server, because it holds pictures."""
    queries = _embedded(desk, kept)
    plain = re.sub(r"[^\w .-]", "_", name if isinstance(name, str) else "")[:_LONGEST_NAME]
    stem = plain.removesuffix(QUERY_TYPES[0]).strip(" .") or "my"
    path = Path(tempfile.mkdtemp(dir=desk.folder, prefix="download-")) / f"{stem}{QUERY_TYPES[0]}"
    queries.save(path, images="all")
    return str(path)


def _fields(kept: Session, name: Any) -> list[Any]:
    """What the class of a name, or else the first one, is set to."""
    queries = kept.queries
    if not queries:
        return [gr.Dropdown([], value=None), None, None]
    name = name if name in queries.names else queries.names[0]
    names = gr.Dropdown(list(queries.names), value=name)
    return [names, queries[name].threshold, shown_colour(queries, name)]


def _known(kept: Session, name: Any) -> str:
    if name not in kept.queries.names:
        raise QueryError("choose a class first")
    return str(name)


def _table(kept: Session) -> str:
    """The classes as a table in HTML."""
    if not kept.queries:
        return '<p class="owl-nothing">Classes of the tabs Text and Image query meet here.</p>'
    head = "".join(f'<th scope="col">{column}</th>' for column in _COLUMNS)
    rows = "".join(_row(one, shown_colour(kept.queries, one.name)) for one in kept.queries.classes)
    return f"<table><caption>Classes</caption><tr>{head}</tr>{rows}</table>"


def _row(one: QueryClass, colour: str) -> str:
    prompts = ", ".join(one.prompts[:3]) + (" …" if len(one.prompts) > 3 else "")
    negatives = len(one.negative_examples) + len(one.negative_prompts)
    threshold = "model's" if one.threshold is None else f"{one.threshold:g}"
    sample = f'<span class="owl-sample" style="background: {colour};"></span>{colour}'
    cells = [escape(prompts), str(len(one.examples)), str(negatives), threshold]
    columns = "".join(f"<td>{cell}</td>" for cell in (sample, *cells))
    return f'<tr><th scope="row">{escape(one.name)}</th>{columns}</tr>'
