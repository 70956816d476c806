"""The part of the page that shows an answer, and the settings that change it at once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.events import Dependency

from owlkit.queries import QuerySet
from owlkit.visualize import class_palette
from page.desk import Answer, Asked, Desk, names_of
from page.downloads import KINDS, write_download
from page.messages import speaking
from page.picture import as_boxes, as_picture, picture_view
from page.uploads import read_picture

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
"""Of listeners that are no part of the API."""

LATEST: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last"}
"""Of private listeners that change nothing but what is shown.

What is pressed again before it has finished is done next (gradio does not hear it otherwise), so
what a visitor asked last is always answered.
"""

_HEADERS = ["picture", "name", "score", "x0", "y0", "x1", "y1"]
# Of what the button has made; gradio's own DownloadButton must know its file before it is pressed.
_SAVE = """(file) => {
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name;
  link.click();
}"""
_SCROLL = """() => {
  if (innerWidth < 640) document.getElementById("%s").scrollIntoView({behavior: "smooth"});
}"""


def on_model(desk: Desk) -> dict[str, Any]:
    """Of private listeners that use the model: only so many run at a time."""
    return {**PRIVATE, "concurrency_id": "model", "concurrency_limit": desk.limits.workers}


def on_question(desk: Desk) -> dict[str, Any]:
    """Of :data:`LATEST` listeners that use the model."""
    return {**on_model(desk), **LATEST}


class Settings:
    """Sliders; made inside the column of the controls.

    Args:
        desk: Its limits bound the sliders.
        own_thresholds: Offer the threshold of each class instead.
    """

    def __init__(self, desk: Desk, *, own_thresholds: bool = False) -> None:
        self.threshold = gr.Slider(
            0, 1, 0.1, step=0.01, label="Threshold", info="Boxes that score less are hidden"
        )
        self.own = gr.Checkbox(
            own_thresholds,
            label="Use the threshold of each class",
            visible=own_thresholds,
        )
        self.nms_iou = gr.Slider(
            0, 1, 0.5, step=0.01, label="NMS IoU", info="Of two boxes that overlap more, one stays"
        )
        self.boxes = gr.Slider(
            1, desk.limits.boxes, min(100, desk.limits.boxes), step=1, label="Most boxes"
        )

    @property
    def inputs(self) -> list[gr.components.Component]:
        """In the order in which :meth:`AnswerPanel.show` takes their values."""
        return [self.threshold, self.own, self.nms_iou, self.boxes]


class AnswerPanel:
    """Pictures with boxes, a line of times, a table, downloads; made inside its column.

    Args:
        desk: Answers.
        settings: Whose sliders filter again what is shown, without the network.
        name: Short, unlike that of other panels; part of the elements' ids.
        nothing: What is shown before the first answer.
    """

    def __init__(self, desk: Desk, settings: Settings, *, name: str, nothing: str) -> None:
        self._desk = desk
        self.settings = settings
        self.asked = gr.State(None, time_to_live=desk.limits.kept_seconds)
        self.view = picture_view(nothing, label="What was found", elem_id=f"{name}-view")
        self.summary = gr.HTML("", elem_id=f"{name}-summary", elem_classes="owl-summary")
        with gr.Accordion("Table of boxes", open=False):
            self.table = gr.Dataframe(
                headers=_HEADERS,
                datatype=["str", "str", *["number"] * 5],
                interactive=False,
                label="Boxes in pixels, best first",
                elem_id=f"{name}-table",
            )
        with gr.Row(elem_classes="owl-downloads"):
            for kind, title in KINDS.items():
                write, inputs = partial(self._write, kind), [self.asked, *settings.inputs]
                save_button(desk, title, write, inputs, elem_id=f"{name}-{kind}")
        for slider in settings.inputs:
            slider.input(
                self.show_again,
                [self.asked, *settings.inputs],
                self.outputs,
                show_progress="hidden",
                **on_question(desk),
            )

    def come_into_view(self, answered: Dependency) -> None:
        """On a phone, an answer stands below the controls."""
        answered.success(None, js=_SCROLL % self.view.elem_id, **PRIVATE)

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What :meth:`show` gives values for."""
        return [self.asked, self.view, self.summary, self.table]

    def show(self, asked: Asked, *settings: Any) -> list[Any]:
        """Answers a new question.

        Args:
            asked: The pictures and queries.
            *settings: Values of :attr:`Settings.inputs`.
        """
        answer = self._answer(asked, *settings)
        pictures = [
            as_picture(read_picture(path, self._desk.limits), name)
            for path, name in zip(asked.pictures, names_of(asked.pictures), strict=True)
        ]
        return self._values(asked, answer, pictures=pictures)

    def _answer(
        self, asked: Asked, threshold: float, own: bool, nms_iou: float, boxes: float
    ) -> Answer:
        return self._desk.answer(
            asked,
            threshold=None if own else threshold,
            nms_iou=nms_iou,
            boxes=int(boxes),
        )

    def _values(self, asked: Asked, answer: Answer, **shown: Any) -> list[Any]:
        palette = class_palette(one.colour for one in asked.queries.classes)
        boxes = [as_boxes(found, palette) for found in answer.found]
        view = gr.HTML(value=boxes, **shown)
        return [asked, view, _summary(answer), _rows(asked, answer)]

    @speaking
    def show_again(self, asked: Asked | None, *settings: Any) -> list[Any]:
        """The same question with other settings or colours: the pictures stay as they are."""
        if asked is None:
            return [gr.skip()] * len(self.outputs)
        return self._values(asked, self._answer(asked, *settings))

    @speaking
    def _write(self, kind: str, asked: Asked | None, *settings: Any) -> str:
        desk = self._desk
        asked = asked or Asked((), QuerySet())  # which is answered with what is missing
        answer = self._answer(asked, *settings)
        return write_download(kind, asked, answer, desk.folder, desk.limits)


def save_button(
    desk: Desk,
    title: str,
    write: Callable[..., str],
    inputs: Sequence[gr.components.Component],
    *,
    elem_id: str,
) -> None:
    """A button that makes its file when it is pressed.

    Args:
        desk: Whose model may be asked.
        title: On the button.
        write: Takes the inputs; returns the file.
        inputs: Of the page.
        elem_id: Of the button.
    """
    button = gr.Button(title, size="sm", elem_id=elem_id)
    file = gr.DownloadButton(visible=False)
    button.click(write, [*inputs], file, **on_model(desk)).success(None, file, js=_SAVE, **PRIVATE)


def asking(panel: AnswerPanel, ask: Callable[..., tuple[Any, Asked]]) -> Callable[..., list[Any]]:
    """A listener that works out what is asked and shows the answer.

    Args:
        panel: Shows it; its settings' values are the last inputs.
        ask: Takes the other inputs; returns the new session and what is asked.

    Returns:
        Gives values for the session, then for :attr:`AnswerPanel.outputs`.
    """

    @speaking
    def listener(*inputs: Any) -> list[Any]:
        count = len(panel.settings.inputs)
        session, asked = ask(*inputs[:-count])
        return [session, *panel.show(asked, *inputs[-count:])]

    return listener


def _summary(answer: Answer) -> str:
    count = sum(len(found) for found in answer.found)
    boxes = "1 box" if count == 1 else f"{count} boxes"
    total = answer.encode_s + answer.query_s
    encode = _milliseconds(answer.encode_s) if answer.encode_s > 1e-3 else "kept"
    times = (
        f"encode {encode} · query {_milliseconds(answer.query_s)} · total {_milliseconds(total)}"
    )
    return f'<p role="status"><strong>{boxes}</strong> <span class="owl-times">{times}</span></p>'


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def _rows(asked: Asked, answer: Answer) -> list[list[Any]]:
    rows = [
        [picture, name, round(score, 4), *(round(value, 1) for value in box)]
        for picture, found in zip(names_of(asked.pictures), answer.found, strict=True)
        for name, score, box in zip(
            found.names, found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]
    return sorted(rows, key=lambda row: row[2], reverse=True)
