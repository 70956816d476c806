"""One image and what was found in it, for the writers of label files."""

from dataclasses import dataclass
from pathlib import Path

from owlkit.detections import Detections
from owlkit.errors import DetectionsError


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image file with its boxes.

    Attributes:
        file_name: Below the folder of the images, with slashes.
        detections: Its boxes, which know the image's size.
        path: Where the file is; None if labels need not lead to it.

    Raises:
        DetectionsError: If the detections do not know the size of their image.
    """

    file_name: str
    detections: Detections
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.detections.image_size is None:
            raise DetectionsError(
                f"{self.file_name}: expected detections that know image_size, found None"
            )

    @property
    def height(self) -> int:
        """Of the image, in pixels."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Of the image, in pixels."""
        return self._size[1]

    @property
    def _size(self) -> tuple[int, int]:
        size = self.detections.image_size
        assert size is not None, "checked at birth"
        return size
