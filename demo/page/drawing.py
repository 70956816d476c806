"""Boxes that are drawn on a picture, with the mouse, a finger or the keyboard."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from owlkit.errors import QueryError
from page.limits import Limits
from page.picture import as_picture
from page.uploads import file_name, read_picture

_SCRIPT = Path(__file__).with_suffix(".js").read_text()

_TEMPLATE = """
{{#if picture}}
<div class="owl-figure" style="{{{picture.style}}}">
  <div class="owl-picture owl-sheet">
    <img src="{{{picture.source}}}" alt="Picture to draw on" draggable="false">
    <ul class="owl-boxes" aria-label="Drawn boxes"></ul>
  </div>
</div>
<div class="owl-tools" role="group" aria-label="What is drawn">
  <label><input type="radio" name="owl-kind" value="positive" checked> the object</label>
  <label><input type="radio" name="owl-kind" value="negative"> not this</label>
  <button type="button" data-action="add">Add a box</button>
  <button type="button" data-action="clear">Clear boxes</button>
</div>
<p class="owl-hint">Drag over the picture. Arrow keys move the box that has the focus; with Shift
they change its size; Delete removes it. Without a box, the model takes what stands out most.</p>
{{/if}}
"""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawn:
    """Boxes on a picture.

    Attributes:
        positive: On what is looked for; xyxy as shares of the picture.
        negative: On what must not be taken for it.
    """

    positive: tuple[Box, ...] = ()
    negative: tuple[Box, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.positive or self.negative)


def drawing_board(elem_id: str) -> gr.HTML:
    """A place to draw on, which is empty until it is given a picture."""
    return gr.HTML(
        value=[],
        picture=None,
        html_template=_TEMPLATE,
        js_on_load=_SCRIPT,
        label="Picture to draw boxes on",
        elem_id=elem_id,
        elem_classes="owl-board",
    )


def board_with(path: str | None, limits: Limits) -> gr.HTML:
    """The board with a picture; another one than before takes the boxes away.

    Raises:
        ImageError: If it cannot be read.
    """
    if path is None:
        return gr.HTML(picture=None)
    return gr.HTML(picture=as_picture(read_picture(path, limits), file_name(path)))


def board_without_boxes() -> gr.HTML:
    """The board with the picture that it has, and no box."""
    return gr.HTML(value=[])


def read_board(value: Any, limits: Limits) -> Drawn:
    """What is drawn on a board, whatever it was that arrived as its value.

    Raises:
        QueryError: If it is none, or more than allowed.
    """
    if not isinstance(value, list) or len(value) > limits.examples:
        raise QueryError(f"expected at most {limits.examples} drawn boxes")
    boxes = [(_corners(one), one.get("negative") is True) for one in value]
    return Drawn(
        tuple(box for box, negative in boxes if not negative),
        tuple(box for box, negative in boxes if negative),
    )


def _corners(one: Any) -> Box:
    box = one.get("box") if isinstance(one, dict) else None
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(share, int | float) and 0 <= share <= 1 for share in box)
    ):
        raise QueryError("expected drawn boxes, four shares of the picture each")
    x0, y0, x1, y1 = map(float, box)
    return x0, y0, x1, y1
