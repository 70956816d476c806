"""What a job found, read from the lines of its progress."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from owlkit.detections import Detections
from owlkit.errors import DatasetError, DetectionsError
from owlkit.labels.image import LabelledImage


@dataclass(frozen=True)
class Place:
    """Where the line of an image is, and what sorting needs of it."""

    file: Path
    start: int
    least_score: float | None
    error: str | None


class Results:
    """What was found in all images of a job, read from the disk when it is gone over.

    Attributes:
        classes: Names of the classes by label.
        unreadable: Why an image has no results, by name.
        least_scores: The least score of the boxes of every other image; None without boxes.
    """

    def __init__(
        self, images: Mapping[str, Path], places: Mapping[str, Place], classes: Sequence[str]
    ) -> None:
        self.classes = tuple(classes)
        self.unreadable = {
            name: place.error for name in images if (place := places[name]).error is not None
        }
        self.least_scores = {
            name: places[name].least_score for name in images if name not in self.unreadable
        }
        self._images = images
        self._places = places

    def __len__(self) -> int:
        return len(self.least_scores)

    def __iter__(self) -> Iterator[LabelledImage]:
        """Goes over the images that could be read, by ascending name."""
        return self.of(self.least_scores)

    def of(self, names: Iterable[str]) -> Iterator[LabelledImage]:
        """Goes over some images.

        Raises:
            DatasetError: If a line is damaged.
        """
        files: dict[Path, IO[bytes]] = {}
        try:
            for name in names:
                place = self._places[name]
                if place.file not in files:
                    files[place.file] = place.file.open("rb")
                file = files[place.file]
                file.seek(place.start)
                found = self._detections(json.loads(file.readline()), place)
                yield LabelledImage(name, found, self._images[name])
        finally:
            for file in files.values():
                file.close()

    def _detections(self, line: dict[str, Any], place: Place) -> Detections:
        try:
            labels = line["labels"]
            return Detections(
                boxes=line["boxes"],
                scores=line["scores"],
                labels=labels,
                names=tuple(self.classes[label] for label in labels),
                image_size=line["size"],
            )
        except (KeyError, TypeError, IndexError, DetectionsError) as error:
            raise damaged(place.file, place.start, repr(error)) from error


def damaged(file: Path, start: int, found: str) -> DatasetError:
    """What to raise for a line that is no line of progress; ``start`` is its first byte."""
    return DatasetError(
        f"{file}: expected the progress of a job, found a damaged line at byte {start}: {found}; "
        "delete the line or the file, and what it held is done again"
    )
