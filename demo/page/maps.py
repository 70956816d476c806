"""Maps of a picture: where words fit, and where the model looks.

Shapes: h, w cells of the patch grid; P = h w patches; Q queries.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from owlkit.attention_map import AttentionMaps, cells_on_image
from owlkit.calibration import QueryCalibrations
from owlkit.errors import ConfigError, QueryError
from owlkit.geometry import ImageTransform
from owlkit.heatmaps import overlay
from owlkit.predictor import Predictor
from owlkit.queries import QuerySet
from owlkit.scene import Scene
from page.desk import Desk
from page.messages import message
from page.picture import as_picture
from page.recent import Recent
from page.uploads import file_name, read_picture

MOST_WORDS = 12
_ROOM = 64  # Pictures whose attention is kept; of one it takes about 0.2 MB.
# Longer side of a map in pixels: alone, and one of several.
_ALONE, _OF_SEVERAL = 1024, 512
_ALPHA = 0.5

Floats = NDArray[np.float32]


class Maps:
    """Draws maps over pictures; each picture passes the network once, whatever the words or heads.

    Args:
        desk: Encodes pictures.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._attention: Recent[str, AttentionMaps] = Recent(_ROOM)

    def of_words(self, path: str, queries: QuerySet, *, smooth: bool) -> list[dict[str, str]]:
        """A map of the scores of each class, with its best score.

        Args:
            path: Of the picture.
            queries: The classes.
            smooth: Interpolate between the patches.

        Raises:
            ImageError: If the picture cannot be read.
            QueryError: If there are too many classes, or an image of an example is not there.
        """
        if len(queries) > MOST_WORDS:
            raise QueryError(f"expected at most {MOST_WORDS} words, found {len(queries)}")
        scene, predictor = self._desk.scene(path), self._desk.model.predictor()
        scores = patch_scores(predictor, scene, queries)
        cells = list(as_cells(scores, predictor.backend.preprocessing.size))
        return self._drawn(path, cells, scene.transform, [*queries.names], smooth=smooth)

    def of_attention(self, path: str, *, head: int | None, smooth: bool) -> list[dict[str, str]]:
        """A map of where the model looks.

        Args:
            path: Of the picture.
            head: Which one, from 0; None takes the mean of all.
            smooth: Interpolate between the patches.

        Raises:
            ImageError: If the picture cannot be read, or there is no such head.
            TokenError: If the model is no vision transformer.
        """
        maps = self._looked(path)
        whose = "Mean of all heads" if head is None else f"Head {head + 1}"
        cells = maps.mean if head is None else maps.heads[head]
        return self._drawn(path, [cells], maps.transform, [whose], smooth=smooth)

    def heads(self, path: str) -> int:
        """How many heads look at a picture."""
        return len(self._looked(path).heads)

    def _looked(self, path: str) -> AttentionMaps:
        return self._attention.get(path, lambda: self._look(path))

    def _look(self, path: str) -> AttentionMaps:
        pixels = read_picture(path, self._desk.limits)
        try:
            return self._desk.model.predictor().attention(pixels)
        except ConfigError as error:
            raise message(
                "This model was exported without attention maps. Export it again with: "
                "owlkit export MODEL OUT --attention"
            ) from error

    def _drawn(
        self,
        path: str,
        maps: list[Floats],
        where: ImageTransform,
        titles: list[str],
        *,
        smooth: bool,
    ) -> list[dict[str, str]]:
        """Maps [h, w] over the picture, each with its title and its highest number."""
        side = _ALONE if len(maps) == 1 else _OF_SEVERAL
        picture, where = _resized(read_picture(path, self._desk.limits), where, side)
        drawn = []
        for cells, title in zip(maps, titles, strict=True):
            colours = overlay(picture, cells_on_image(cells, where, smooth=smooth), alpha=_ALPHA)
            best = cells_on_image(cells, where).max()
            name = f"{title} in {file_name(path)}"
            drawn.append(as_picture(np.asarray(colours), name, f"{title}: up to {best:.3f}"))
        return drawn


def patch_scores(predictor: Predictor, scene: Scene, queries: QuerySet) -> Floats:
    """The probability of each class on each patch [P, Q]; no image pass."""
    backend = predictor.backend
    vectors = queries.compiled(predictor.embed(queries).table(backend.identity))
    logits = vectors.logits(partial(backend.score, scene.features))
    calibrations = [one.calibration or backend.calibration for one in queries.classes]
    numbers = np.broadcast_to(np.arange(logits.shape[1]), logits.shape)
    found = QueryCalibrations(calibrations, len(queries)).probabilities(
        logits.ravel(), numbers.ravel()
    )
    return found.reshape(logits.shape)


def as_cells(scores: Floats, size: tuple[int, int]) -> Floats:
    """Scores of patches [P, Q] at their places [Q, h, w].

    Args:
        scores: Row by row of the grid.
        size: (H, W) of the model's input, which the patches fill as equal squares.
    """
    height = round((len(scores) * size[0] / size[1]) ** 0.5)
    return scores.T.reshape(scores.shape[1], height, -1)


def _resized(
    image: NDArray[np.uint8], where: ImageTransform, side: int
) -> tuple[NDArray[np.uint8], ImageTransform]:
    """A picture whose longer side is ``side``, and where it lies in the model's input."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    rows, columns = max(1, round(scale * height)), max(1, round(scale * width))
    shown = Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC)
    across, down = where.scale
    scales = across * width / columns, down * height / rows
    return np.asarray(shown), replace(where, image_size=(rows, columns), scale=scales)
