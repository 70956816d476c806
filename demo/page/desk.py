"""What all tabs work with: the model, the pictures it has seen, and the answers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from owlkit.detections import Detections
from owlkit.errors import ImageError, QueryError
from owlkit.queries import QuerySet
from owlkit.scene import Scene
from page.limits import Limits
from page.model import Model
from page.recent import Recent
from page.uploads import checked_queries, file_name, read_picture

_ROOM = 64  # Scenes in memory; one of OWLv2 base takes about 8 MB.


@dataclass(frozen=True)
class Asked:
    """What a visitor has asked last, so that it can be answered again with other settings.

    Attributes:
        pictures: Where the uploads are kept.
        queries: Never changed: settings that change it make another one.
    """

    pictures: tuple[str, ...]
    queries: QuerySet


@dataclass(frozen=True)
class Answer:
    """Detections in each picture, and what they took.

    Attributes:
        found: One for each picture.
        encode_s: Seconds in the image tower; 0 where all pictures were still known.
        query_s: Seconds for everything else.
    """

    found: tuple[Detections, ...]
    encode_s: float
    query_s: float


class Desk:
    """Answers questions; the network sees a picture once, whatever is asked about it.

    Args:
        model: Answers.
        limits: What is taken.
        folder: For files on their way to visitors; gradio serves what is below it.
    """

    def __init__(self, model: Model, limits: Limits, folder: Path) -> None:
        self.model = model
        self.limits = limits
        self.folder = folder
        self._scenes: Recent[str, Scene] = Recent(_ROOM)

    def scene(self, path: str) -> Scene:
        """The encoded picture of an upload, from memory if it was seen lately.

        Raises:
            ImageError: If it cannot be read.
        """
        return self._scenes.get(path, lambda: self._encoded(path))

    def _encoded(self, path: str) -> Scene:
        encoded = self.model.predictor().encode(read_picture(path, self.limits))
        # By its path: the pixels of many photographs would not fit into memory.
        return Scene(encoded.boxes, encoded.transform, encoded.features, path)

    def answer(
        self,
        asked: Asked,
        *,
        threshold: float | None,
        nms_iou: float | None,
        boxes: int,
    ) -> Answer:
        """Finds the queries in the pictures.

        Args:
            asked: Pictures and queries.
            threshold: In [0, 1]; None for that of each class.
            nms_iou: In [0, 1]; None for all boxes.
            boxes: Most of each picture.

        Raises:
            ImageError: If there is no picture, there are too many, or one cannot be read.
            QueryError: If there are no queries, or an option cannot be used.
        """
        self._check(asked)
        start = time.perf_counter()
        scenes = [self.scene(path) for path in asked.pictures]
        encoded = time.perf_counter()
        found = self.model.predictor().detect(
            scenes,
            asked.queries,
            threshold=threshold,
            nms_iou=nms_iou,
            top_k=min(int(boxes), self.most(asked.queries, len(asked.pictures))),
        )
        return Answer(tuple(found), encoded - start, time.perf_counter() - encoded)

    def most(self, queries: QuerySet, pictures: int) -> int:
        """How many boxes a look may find: parts cost a look at each box that may have them.

        Args:
            queries: What is looked for.
            pictures: In so many.
        """
        levels = _levels(queries)
        if not levels:
            return self.limits.boxes
        looks = self.limits.looks / pictures
        return min(self.limits.boxes, max(1, int(looks ** (1 / levels))))

    def _check(self, asked: Asked) -> None:
        if not asked.pictures:
            raise ImageError("choose a picture first")
        if len(asked.pictures) > self.limits.pictures:
            raise ImageError(
                f"expected at most {self.limits.pictures} pictures, found {len(asked.pictures)}"
            )
        if not len(asked.queries):
            raise QueryError("say what to look for first")
        checked_queries(asked.queries, self.limits)


def _levels(queries: QuerySet) -> int:
    """How deep parts of parts go, 0 where nothing has parts."""
    depths: dict[str | None, int] = {None: -1}
    waiting = list(queries.classes)
    while waiting:
        depths |= {one.name: depths[one.parent] + 1 for one in waiting if one.parent in depths}
        waiting = [one for one in waiting if one.name not in depths]
    return max(depths.values())


def names_of(pictures: Sequence[str]) -> list[str]:
    """File names of uploads."""
    return [file_name(path) for path in pictures]
