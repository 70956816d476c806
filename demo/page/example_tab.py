"""The tab *Image query*: boxes on reference pictures find the same things in other pictures."""

from typing import Any

import gradio as gr

from owlkit.errors import ImageError, QueryError
from owlkit.queries import QuerySet
from page.desk import Asked, Desk
from page.drawing import board_with, board_without_boxes, drawing_board, read_board
from page.examples import examples_view, read_examples, shown_examples
from page.messages import speaking
from page.panel import PRIVATE, AnswerPanel, Settings, asking, on_model, on_question
from page.picture import picture_view
from page.session import Session
from page.uploads import PICTURE_TYPES, Files, checked_queries, picture_input


def build_example_tab(desk: Desk, session: gr.State) -> None:
    """Builds the tab inside the current one.

    Args:
        desk: Answers.
        session: Holds a :class:`~page.session.Session`.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            reference = picture_input("Reference picture", "example-reference", height=160)
            board = drawing_board("example-board")
            name = gr.Textbox(
                "object",
                label="Name",
                info="Several references may show one thing",
                elem_id="example-name",
                max_lines=1,
            )
            add = gr.Button("Add example", elem_id="example-add")
            _build_list(desk, session)
            targets = Files(
                label="Look in these pictures",
                file_count="multiple",
                file_types=PICTURE_TYPES,
                height=140,
                elem_id="example-targets",
            )
            same = gr.Checkbox(label="Look in the reference picture, too", elem_id="example-same")
            find = gr.Button("Find", variant="primary", elem_id="example-find")
            settings = Settings(desk)
        with gr.Column(scale=3, min_width=300):
            panel = AnswerPanel(
                desk,
                settings,
                name="example",
                nothing="What looks like your examples will appear here.",
            )

    def ask(
        kept: Session,
        path: str | None,
        drawn: Any,
        name: Any,
        targets: list[str] | None,
        same: bool,
    ) -> tuple[Session, Asked]:
        if path and (drawn or not kept.examples):
            kept = _with_drawn(desk, kept, path, drawn, name)
        if not kept.like:
            raise QueryError("draw a box on a reference picture first, on what to look for")
        here = (path,) if path and same else ()
        return kept, Asked((*here, *(targets or ())), kept.like)

    example = [session, reference, board, name]
    reference.change(
        speaking(lambda path: board_with(path, desk.limits)), reference, board, **PRIVATE
    )

    @speaking
    def added(*inputs: Any) -> tuple[Session, gr.HTML]:
        return _with_drawn(desk, *inputs), board_without_boxes()

    add.click(added, example, [session, board], **on_model(desk))
    answered = find.click(
        asking(panel, ask),
        [*example, targets, same, *settings.inputs],
        [session, *panel.outputs],
        **on_model(desk),
    )
    answered.success(board_without_boxes, None, board, **PRIVATE)
    panel.come_into_view(answered)


def _build_list(desk: Desk, session: gr.State) -> None:
    """The examples so far, and what removes one."""
    with gr.Accordion("Examples so far", open=True):
        view = picture_view(
            "Solid is what you draw, dashed what the model takes for it.",
            label="Examples",
            elem_id="example-list",
        )
        chosen = gr.Dropdown([], label="Example", elem_id="example-chosen")
        remove = gr.Button("Remove it", size="sm", elem_id="example-remove")
    # What the list shows now: other changes of the session do not touch it.
    shown = gr.State(None, time_to_live=desk.limits.kept_seconds)

    @speaking
    def show(kept: Session, queries: QuerySet | None) -> list[Any]:
        if kept.kept is queries:
            return [gr.skip()] * 3
        found = shown_examples(desk.model, kept)
        titles = [(f"{number}. {one.title}", number) for number, one in enumerate(found, start=1)]
        view = examples_view(found, kept.kept)
        return [view, gr.Dropdown(titles, value=len(found) or None), kept.kept]

    session.change(
        show, [session, shown], [view, chosen, shown], show_progress="hidden", **on_question(desk)
    )

    @speaking
    def without(kept: Session, number: Any) -> Session:
        found = shown_examples(desk.model, kept)
        if not isinstance(number, int) or not 1 <= number <= len(found):
            raise QueryError("choose an example first")
        one = found[number - 1]
        return kept.without_example(one.name, one.kind, one.row)

    remove.click(without, [session, chosen], session, **on_model(desk))


def _with_drawn(desk: Desk, kept: Session, path: str | None, drawn: Any, name: Any) -> Session:
    """The session with the boxes of the board, or the whole picture if there are none."""
    if not path:
        raise ImageError("choose a reference picture first")
    boxes = read_board(drawn, desk.limits)
    if boxes:
        positive = read_examples(path, boxes.positive, desk.limits)
        negative = read_examples(path, boxes.negative, desk.limits)
    else:
        positive, negative = read_examples(path, None, desk.limits), []
    further = kept.with_examples(name, positive, negative)
    checked_queries(further.kept, desk.limits)
    desk.model.predictor().embed(further.examples)
    return further
