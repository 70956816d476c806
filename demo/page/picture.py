"""Detections over a picture as HTML: boxes that can be pointed at, tabbed to and read aloud.

The pictures travel once; moving a slider sends their boxes alone.
"""

import base64
import io
from collections.abc import Sequence
from html import escape

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from owlkit.detections import Detections

_LONGEST_SIDE = 1280
# Smaller pictures are shown pixel by pixel instead of blurred.
_TINY = 160
# Beyond so many, names show only where the pointer is.
_MOST_NAMES = 40
# As shares of the picture: across and down.
_SAME_PLACE = (0.08, 0.03)
_LITERAL = str.maketrans({"$": "&#36;", "`": "&#96;", "\\": "&#92;"})

_TEMPLATE = """
{{#each pictures}}
<figure class="owl-figure" style="{{{this.style}}}">
  <div class="owl-picture">
    <img src="{{{this.source}}}" alt="{{{this.name}}}">
    {{{lookup ../value @index}}}
  </div>
  {{#if this.caption}}<figcaption>{{{this.caption}}}</figcaption>{{/if}}
</figure>
{{else}}
<p class="owl-nothing">{{{nothing}}}</p>
{{/each}}
"""


def picture_view(nothing: str, *, label: str, elem_id: str) -> gr.HTML:
    """A place for pictures with boxes.

    Args:
        nothing: What stands there before there are any.
        label: For those who cannot see it.
        elem_id: In the page.
    """
    return gr.HTML(
        value=[],
        pictures=[],
        nothing=as_text(nothing),
        html_template=_TEMPLATE,
        label=label,
        elem_id=elem_id,
        elem_classes="owl-view",
    )


def as_picture(image: NDArray[np.uint8], name: str, caption: str = "") -> dict[str, str]:
    """A picture as the view takes it.

    Args:
        image: RGB, uint8 [H, W, 3].
        name: Of the file.
        caption: Below it; none if empty.
    """
    height, width = image.shape[:2]
    shown = Image.fromarray(image)
    shown.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    kind, options = ("PNG", {}) if max(width, height) <= _TINY else ("JPEG", {"quality": 88})
    with io.BytesIO() as file:
        shown.save(file, format=kind, **options)
        data = base64.b64encode(file.getvalue()).decode()
    tiny = " --owl-scaling: pixelated;" if max(width, height) <= _TINY else ""
    return {
        "source": f"data:image/{kind.lower()};base64,{data}",
        "name": as_text(name),
        "caption": as_text(caption),
        "style": f"--owl-aspect: {width / height:.5f};{tiny}",
    }


def as_boxes(found: Detections, palette: Sequence[tuple[int, int, int]]) -> str:
    """The boxes of one picture, best first, as a list in HTML.

    Args:
        found: Knows the size of its picture.
        palette: RGB of each label.
    """
    height, width = found.image_size or (1, 1)
    corners = found.boxes.clip(0, [width, height, width, height]) / [width, height, width, height]
    crowded = " owl-crowded" if len(found) > _MOST_NAMES else ""
    rows = zip(
        *(corners, found.scores.tolist(), found.labels.tolist(), found.names, _lines(corners)),
        strict=True,
    )
    # The best ones last, so that they lie on top of the others.
    boxes = "".join(
        frame(corners, f"{name} {score:.2f}", palette[label % len(palette)], line=line)
        for corners, score, label, name, line in reversed([*rows])
    )
    return f'<ul class="owl-boxes{crowded}" aria-label="{len(found)} boxes">{boxes}</ul>'


def _lines(corners: NDArray[np.float64]) -> list[int]:
    """Lines of the names, so that those of boxes in the same place stand above each other."""
    if len(corners) > _MOST_NAMES:
        return [0] * len(corners)
    near = np.abs(corners[:, None, :2] - corners[None, :, :2]) < _SAME_PLACE
    return np.tril(near.all(-1), -1).sum(-1).tolist()


def frame(
    corners: NDArray[np.float64],
    text: str,
    colour: tuple[int, int, int],
    kind: str = "",
    *,
    line: int = 0,
) -> str:
    """One box as an item of a list in HTML.

    Args:
        corners: x0, y0, x1, y1 as shares of the picture.
        text: Beside it.
        colour: RGB.
        kind: A class of the style sheet.
        line: Of the text, counted from the box.
    """
    x0, y0, x1, y1 = (100 * corners).tolist()
    text = as_text(text)
    sides = [kind, "owl-top" if y0 < 6 else "", "owl-right" if x0 > 70 else ""]
    return (
        f'<li tabindex="0" class="{" ".join(["owl-box", *filter(None, sides)])}" '
        f'aria-label="{text}" title="{text}" '
        f'style="left: {x0:.3f}%; top: {y0:.3f}%; width: {x1 - x0:.3f}%; height: {y1 - y0:.3f}%; '
        f'--owl-colour: rgb({", ".join(map(str, colour))}); --owl-line: {line};">'
        f'<span aria-hidden="true">{text}</span></li>'
    )


def as_text(text: str) -> str:
    """Text that stands for nothing but itself in the template of a view.

    gradio evaluates what a template has rendered once more, as a template literal of JavaScript.
    """
    return escape(text).translate(_LITERAL)
