"""What programs can ask: endpoints with names, for ``gradio_client`` and for HTTP."""

import inspect
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypedDict

import gradio as gr
from annotated_types import MaxLen
from gradio import FileData
from pydantic import Field, ValidationError, validate_call

from owlkit.detections import Detections
from owlkit.errors import QueryError
from owlkit.queries import QueryClass, QuerySet
from owlkit.queries.syntax import parse_words
from page.desk import Asked, Desk
from page.messages import speaking
from page.uploads import checked_queries, kept_examples, read_queries

# Far above the limits, which have messages of their own: so many faults are listed at most.
_MOST = 1000

# Indented further where it goes on.
_ARGUMENT = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Found(TypedDict):
    """A box, xyxy in pixels of the picture, and the probability that it shows a `label`."""

    label: str
    score: float
    box: list[float]


class Answer(TypedDict):
    """The size of a picture in pixels, and its boxes, best first."""

    width: int
    height: int
    detections: list[Found]


@dataclass(frozen=True)
class Reference:
    """A picture that shows what to look for.

    Attributes:
        picture: The file.
        name: Of the class that it shows.
        boxes: xyxy in pixels; None for what stands out most.
        negative: Whether it shows what must not be taken for the class.
    """

    picture: FileData
    name: str = "object"
    boxes: Annotated[list[list[float]], MaxLen(_MOST)] | None = None
    negative: bool = False


Pictures = Annotated[list[FileData], MaxLen(_MOST)]
References = Annotated[list[Reference], MaxLen(_MOST)]


class Endpoints:
    """The functions of the API; their documentation is what people read in the page's footer.

    Args:
        desk: Answers.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def detect(
        self,
        picture: FileData,
        words: str,
        templates: str = "none",
        threshold: Share = 0.1,
        nms_iou: Share | None = 0.5,
        boxes: Count = 100,
    ) -> Answer:
        """Finds words in a picture.

        Args:
            picture: The file.
            words: Names separated by commas; parts in brackets, as in: face [nose, eye].
            templates: Prompts that are made of each name: none, photo, ensemble7 or ensemble81.
            threshold: Boxes that score less are left out.
            nms_iou: Of two boxes of a class that overlap more, one stays; None keeps all.
            boxes: The most of them.

        Example:
            client = Client("http://127.0.0.1:7860")
            client.predict(handle_file("room.jpg"), "a cat, a remote control", api_name="/detect")
        """
        queries = parse_words(words, templates)
        return self._answers([picture], queries, threshold, nms_iou, boxes)[0]

    def detect_like(
        self,
        pictures: Pictures,
        references: References,
        threshold: Share = 0.1,
        nms_iou: Share | None = 0.5,
        boxes: Count = 100,
    ) -> list[Answer]:
        """Finds in pictures what other pictures show.

        Args:
            pictures: The files.
            references: Pictures with boxes, xyxy in pixels; without boxes what stands out most is
                meant. Those of one name are examples of one class; negative ones show what must
                not be taken for it.
            threshold: Boxes that score less are left out.
            nms_iou: Of two boxes of a class that overlap more, one stays; None keeps all.
            boxes: The most of them in each picture.

        Example:
            mug = {"picture": handle_file("mug.jpg"), "name": "mug", "boxes": [[20, 30, 90, 120]]}
            client.predict([handle_file("shelf.jpg")], [mug], api_name="/detect_like")
        """
        queries = self._examples(references)
        return self._answers(pictures, queries, threshold, nms_iou, boxes)

    def detect_with(
        self,
        pictures: Pictures,
        queries: FileData,
        threshold: Share | None = None,
        nms_iou: Share | None = 0.5,
        boxes: Count = 100,
    ) -> list[Answer]:
        """Finds in pictures what a file of queries asks for.

        Args:
            pictures: The files.
            queries: A .queries file, from this page, from make_queries or from owlkit.
            threshold: Boxes that score less are left out; None for the threshold of each class.
            nms_iou: Of two boxes of a class that overlap more, one stays; None keeps all.
            boxes: The most of them in each picture.

        Example:
            client.predict([handle_file("shelf.jpg")], handle_file("mugs.queries"),
            api_name="/detect_with")
        """
        asked = read_queries(queries.path, self._desk.limits)
        return self._answers(pictures, asked, threshold, nms_iou, boxes)

    def make_queries(
        self,
        words: str = "",
        templates: str = "none",
        references: References | None = None,
    ) -> FileData:
        """Makes a file of queries that answers without any text or example pass later on.

        Args:
            words: As for detect; may be empty.
            templates: As for detect.
            references: As for detect_like; a class that has words and references is asked for by
                both.

        Example:
            client.predict("a cat, a dog", "ensemble7", api_name="/make_queries")
        """
        queries = self._examples(references or [])
        if words.strip():
            queries = queries.merged(parse_words(words, templates))
        if not len(queries):
            raise QueryError("expected words or references, found none")
        self._desk.model.predictor().embed(checked_queries(queries, self._desk.limits))
        folder = tempfile.mkdtemp(dir=self._desk.folder, prefix="download-")
        path = Path(folder) / "made.queries"
        queries.save(path, images="all")
        return FileData(path=str(path), orig_name=path.name)

    def _examples(self, references: Sequence[Reference]) -> QuerySet:
        queries = QuerySet()
        for one in references:
            found = tuple(kept_examples(one.picture.path, one.boxes, self._desk.limits))
            kind = "negative_examples" if one.negative else "examples"
            queries = queries.merged(QuerySet([QueryClass(one.name, **{kind: found})]))
        return queries

    def _answers(
        self,
        pictures: Sequence[FileData],
        queries: QuerySet,
        threshold: float | None,
        nms_iou: float | None,
        boxes: int,
    ) -> list[Answer]:
        asked = Asked(tuple(one.path for one in pictures), queries)
        answer = self._desk.answer(asked, threshold=threshold, nms_iou=nms_iou, boxes=boxes)
        return [_as_answer(found) for found in answer.found]


def add_endpoints(page: gr.Blocks, desk: Desk) -> None:
    """Adds all endpoints to a page that is being built.

    Args:
        page: It.
        desk: Answers.
    """
    endpoints = Endpoints(desk)
    for function in (
        endpoints.detect,
        endpoints.detect_like,
        endpoints.detect_with,
        endpoints.make_queries,
    ):
        added = gr.api(
            speaking(_checked(function)),
            api_name=function.__name__,
            concurrency_id="model",
            concurrency_limit=desk.limits.workers,
        )
        descriptions = _descriptions(function)
        for name, block in zip(descriptions, page.fns[added["id"]].inputs, strict=True):
            block.label = name
            block.api_info()["additional_description"] = descriptions[name]


def _descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring says of each argument, in their order."""
    said = dict(_ARGUMENT.findall(inspect.getdoc(function) or ""))
    return {name: " ".join(said[name].split()) for name in inspect.signature(function).parameters}


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for arguments of any types: those that do not fit are a QueryError."""
    names = [*inspect.signature(function).parameters]
    fitting = validate_call(function)

    @wraps(function)
    def checked(*values: Any) -> Any:
        try:
            return fitting(*values)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
            row, *inside = fault["loc"]
            place = ".".join(map(str, [names[int(row)], *inside]))
            raise QueryError(f"{place}: {fault['msg']}") from error

    return checked


def _as_answer(found: Detections) -> Answer:
    height, width = found.image_size or (0, 0)
    rows = zip(found.names, found.scores.tolist(), found.boxes.tolist(), strict=True)
    detections: list[Found] = [{"label": name, "score": s, "box": box} for name, s, box in rows]
    return {"width": width, "height": height, "detections": detections}
