"""Example boxes of uploaded pictures, and how they are shown beside what the model took."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from owlkit.queries import Example, QueryClass, QuerySet
from owlkit.visualize import class_palette
from page.drawing import Box
from page.limits import Limits
from page.model import Model
from page.picture import as_picture, frame
from page.session import Kind, Session
from page.uploads import kept_examples, picture_size

_LONGEST_SIDE = 480


@dataclass(frozen=True)
class Shown:
    """An example and what the model took for the object.

    Attributes:
        name: Of its class.
        kind: Of the example.
        row: Among those of its class and kind.
        example: The box that was asked for.
        taken: xyxy in pixels of its picture.
        agreement: IoU of the two.
    """

    name: str
    kind: Kind
    row: int
    example: Example
    taken: Box
    agreement: float

    @property
    def title(self) -> str:
        """What it is called in lists."""
        said = "" if self.kind == "examples" else "not "
        return f"{said}{self.name}, agreement {self.agreement:.2f}"


def read_examples(path: str, boxes: Sequence[Box] | None, limits: Limits) -> list[Example]:
    """Examples of boxes that were drawn on an upload, see :func:`page.uploads.kept_examples`.

    Args:
        path: Of the upload.
        boxes: xyxy as shares of the picture; None for what stands out most.
        limits: For reading it.

    Raises:
        ImageError: If it cannot be read.
        QueryError: If a box has no area.
    """
    if boxes is None:
        return kept_examples(path, None, limits)
    if not boxes:
        return []
    width, height = picture_size(path, limits)
    return kept_examples(path, np.array(boxes) * [width, height, width, height], limits)


def shown_examples(model: Model, session: Session) -> list[Shown]:
    """All examples, class by class, with what the model took.

    Raises:
        QueryError: If the model cannot encode one of them.
    """
    return [
        Shown(name, kind, row, example, taken.box, taken.iou)
        for name in session.examples.names
        for (kind, row, example), taken in zip(
            _numbered(session.kept[name]),
            model.predictor().chosen(session.examples, name),
            strict=True,
        )
    ]


def examples_view(shown: Sequence[Shown], queries: QuerySet) -> gr.HTML:
    """Each picture once, with all boxes on it: solid as drawn, dashed as taken.

    Args:
        shown: The examples; those whose pictures were not kept are left out.
        queries: For the colours.

    Raises:
        QueryError: If a picture is damaged.
    """
    palette = class_palette(one.colour for one in queries.classes)
    colours = dict(zip(queries.names, palette, strict=False))
    sources = {one.example.digest: one.example for one in shown if one.example.image is not None}
    pictures, boxes = [], []
    for digest, example in sources.items():
        here = [one for one in shown if one.example.digest == digest]
        picture = example.pixels()
        pictures.append(
            as_picture(_small(picture), "Example picture", "; ".join(one.title for one in here))
        )
        height, width = picture.shape[:2]
        size = np.array([width, height, width, height])
        items = [item for one in here for item in _frames(one, size, colours[one.name])]
        boxes.append(
            f'<ul class="owl-boxes owl-crowded" aria-label="Examples">{"".join(items)}</ul>'
        )
    return gr.HTML(value=boxes, pictures=pictures)


def _frames(one: Shown, size: NDArray[np.int64], colour: tuple[int, int, int]) -> Iterator[str]:
    kind = "" if one.kind == "examples" else "owl-negative"
    said = one.name if one.kind == "examples" else f"not {one.name}"
    taken = np.array(one.taken).clip(0, size) / size
    yield frame(taken, f"{said}: taken, {one.agreement:.2f}", colour, f"owl-taken {kind}".strip())
    if one.example.box is not None:
        yield frame(np.array(one.example.box) / size, said, colour, kind)


def _numbered(one: QueryClass) -> Iterator[tuple[Kind, int, Example]]:
    for row, example in enumerate(one.examples):
        yield "examples", row, example
    for row, example in enumerate(one.negative_examples):
        yield "negative_examples", row, example


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(picture)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return np.asarray(image)
