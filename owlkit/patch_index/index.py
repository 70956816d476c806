"""Search over all patches of many images: exact, by one short dot product a patch.

Shapes: I images, N patches, V vectors, Q queries, E embedding width.
"""

import heapq
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.calibration import Calibration, QueryCalibrations
from owlkit.errors import DatasetError, QueryError
from owlkit.patch_index.codes import greatest_logits, multiply
from owlkit.patch_index.shards import ImagePatches, Shard, read_shards
from owlkit.postprocess import MASKED_LOGIT
from owlkit.queries.compiled import CompiledQueries
from owlkit.suppression import box_iou

# Codes that one thread multiplies at a time, at least those of one image.
_CHUNK_BYTES = 4 << 20
_THREADS = min(8, os.cpu_count() or 1)
# Below every probability.
_NOTHING = np.float32(-1)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PatchHit:
    """A patch that answers a query.

    Attributes:
        path: Of the image, below the folder that was indexed, with slashes.
        box: (x0, y0, x1, y1) in pixels of that image.
        score: Probability in [0, 1].
        logit: Before the sigmoid or calibration; it tells apart equal scores.
        query: Which of the queries, in [0, Q).
    """

    path: str
    box: tuple[float, float, float, float]
    score: float
    logit: float
    query: int


class PatchIndex:
    """The patches of a folder of images, on disk; what :func:`update_patch_index` makes.

    Nothing is approximated: eight bits of each number tell what the logits of an image are at most,
    and images are compared in float32, the most promising first, until no other can be among the
    best. Files are mapped into memory: a second search finds them there, if there is room.

    Args:
        shards: The files, of one kind; of an image in several the last counts.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        last = {
            path: (number, image)
            for number, shard in enumerate(shards)
            for image, path in enumerate(shard.paths)
        }
        self._shards = tuple(shards)
        self.paths = tuple(sorted(last))
        self._places = tuple(last[path] for path in self.paths)
        # The image that each one of a file is here, -1 for those that a later file replaces.
        self._images = tuple(np.full(len(shard.paths), -1, np.int64) for shard in shards)
        for image, (number, place) in enumerate(self._places):
            self._images[number][place] = image

    @classmethod
    def open(cls, folder: str | Path, identity: str) -> "PatchIndex":
        """Opens an index as it is.

        Args:
            folder: Of the index.
            identity: Of the model that queries are made with, see
                :class:`owlkit.backend.Backend`.

        Raises:
            DatasetError: If there is no index, a file is damaged, or it is of another model.
        """
        shards = read_shards(Path(folder), identity)
        if not shards:
            raise DatasetError(f"{folder}: expected a patch index, found none")
        return cls(shards)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.paths)

    def patches(self, image: int) -> ImagePatches:
        """What is kept of the image ``paths[image]``."""
        number, place = self._places[image]
        return self._shards[number].patches(place)

    def search(
        self,
        queries: ArrayLike | CompiledQueries,
        *,
        top: int = 50,
        per_image: int = 1,
        threshold: float | Sequence[float] | None = None,
        nms_iou: float = 0.5,
        calibrations: Sequence[Calibration | None] | None = None,
    ) -> list[PatchHit]:
        """The patches that answer queries best.

        A patch counts for the query it answers best. Of two patches of one image whose boxes
        overlap by more than ``nms_iou`` only the better one counts.

        Args:
            queries: Unit vectors or means of unit vectors, one per query [V, E]; or a compiled
                query set.
            top: At most so many hits.
            per_image: At most so many of one image.
            threshold: Scores must be above this, in [0, 1]; one number or one per query. None
                sets no limit.
            nms_iou: In [0, 1].
            calibrations: What turns logits into scores, one per query, None for the sigmoid.

        Returns:
            Hits by descending score; equal ones by descending logit, then by path and patch.

        Raises:
            QueryError: If vectors or options cannot be used.
            DatasetError: If the index holds NaN.
        """
        compiled = queries if isinstance(queries, CompiledQueries) else _compiled(queries)
        self._check_width(compiled)
        count = len(compiled.starts)
        rating = _Rating(QueryCalibrations(calibrations, count), _limits(threshold, count))
        _check_options(top, per_image, nms_iou)
        bounds = self._greatest_logits(compiled)
        scores, logits, _ = rating.best_query(bounds)
        order = np.lexsort((-logits, -scores))
        hits: list[tuple[PatchHit, int, int]] = []
        # The best scores and logits so far, as many as there may be hits, the least one first.
        best: list[tuple[float, float]] = []
        for image in order[scores[order] > _NOTHING].tolist():
            if len(best) == top and (float(scores[image]), float(logits[image])) < best[0]:
                break
            for patch, hit in self._hits(image, compiled, rating, per_image, nms_iou):
                hits.append((hit, image, patch))
                keep = heapq.heappush if len(best) < top else heapq.heappushpop
                keep(best, (hit.score, hit.logit))
        hits.sort(key=lambda entry: (-entry[0].score, -entry[0].logit, *entry[1:]))
        return [hit for hit, _, _ in hits[:top]]

    def _greatest_logits(self, compiled: CompiledQueries) -> Floats:
        """What the logits of each image are at most, for each query [I, Q]; -inf without patch."""
        greatest = np.full((len(self.paths), len(compiled.starts)), -np.inf, dtype=np.float32)
        # Negatives only take away, so that what is largest without them is large enough.
        alone = replace(compiled, negatives=compiled.negatives[:0], rivals=compiled.rivals[:0])

        def rate(shard: Shard, images: NDArray[np.int64], chunk: slice) -> None:
            counts = shard.counts[chunk]
            first = int(shard.counts[: chunk.start].sum())
            rows = slice(first, first + int(counts.sum()))
            codes, terms = shard.codes[rows], shard.terms[rows]
            logits = alone.logits(partial(greatest_logits, codes, terms))
            # An image without patches has no segment.
            some = counts > 0
            maxima = np.maximum.reduceat(logits, (np.cumsum(counts) - counts)[some], axis=0)
            target = images[chunk][some]
            greatest[target[target >= 0]] = maxima[target >= 0]

        # Numpy lets other threads run while it converts and multiplies.
        with ThreadPoolExecutor(max_workers=_THREADS) as pool:
            jobs = [
                pool.submit(rate, shard, images, chunk)
                for shard, images in zip(self._shards, self._images, strict=True)
                for chunk in _chunks(shard)
            ]
            for job in jobs:
                job.result()
        self._check_numbers(greatest)
        return greatest

    def _check_numbers(self, logits: Floats) -> None:
        """Raises if logits of images [I, Q] hold NaN."""
        if np.isnan(logits).any():
            image = int(np.isnan(logits).any(axis=1).argmax())
            self._refuse(image)

    def _refuse(self, image: int) -> NoReturn:
        file = self._shards[self._places[image][0]].file
        raise DatasetError(f"{file}: expected numbers, found NaN for {self.paths[image]}")

    def _hits(
        self,
        image: int,
        compiled: CompiledQueries,
        rating: "_Rating",
        most: int,
        nms_iou: float,
    ) -> Iterator[tuple[int, PatchHit]]:
        """The best patches of one image that do not overlap too much, best first."""
        patches = self.patches(image)
        exact = compiled.logits(partial(_products, patches.rows))
        if np.isnan(exact).any():
            self._refuse(image)
        scores, logits, queries = rating.best_query(exact)
        kept: list[int] = []
        for patch in np.lexsort((-logits, -scores)).tolist():
            if scores[patch] == _NOTHING or len(kept) == most:
                return
            box = patches.boxes[patch]
            if kept and box_iou(box[None], patches.boxes[kept]).max() > nms_iou:
                continue
            kept.append(patch)
            x0, y0, x1, y1 = box.tolist()
            yield (
                patch,
                PatchHit(
                    path=self.paths[image],
                    box=(x0, y0, x1, y1),
                    score=float(scores[patch]),
                    logit=float(logits[patch]),
                    query=int(queries[patch]),
                ),
            )

    def _check_width(self, compiled: CompiledQueries) -> None:
        for shard in self._shards[:1]:
            expected, found = shard.rows.shape[1] - 1, compiled.prototypes.shape[1]
            if expected != found:
                raise QueryError(f"expected vectors [V, {expected}], found width {found}")


@dataclass(frozen=True, eq=False)
class _Rating:
    """How logits become scores, and which of them count.

    Attributes:
        calibrations: Of the queries.
        limits: Scores of each query must be above this; negative for no limit [Q].
    """

    calibrations: QueryCalibrations
    limits: Floats

    def best_query(self, logits: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Score, logit and number of the best query of each row of logits [K, Q].

        Where none passes, the score is -1.
        """
        queries = np.broadcast_to(np.arange(logits.shape[1]), logits.shape)
        scores = self.calibrations.probabilities(logits.ravel(), queries.ravel())
        scores = scores.reshape(logits.shape)
        # As in postprocess: the limit 0 lets a score through that rounds to 0.
        passed = ((scores > self.limits) | (self.limits <= 0)) & (logits > MASKED_LOGIT)
        scores = np.where(passed, scores, _NOTHING)
        highest = scores.max(axis=1, keepdims=True)
        best = np.where(scores == highest, logits, -np.inf).argmax(axis=1)
        rows = np.arange(len(logits))
        return scores[rows, best], logits[rows, best], best


def _products(rows: Floats, vectors: Floats) -> Floats:
    """Logits [N, V] of vectors [V, E] on rows [N, E + 1]."""
    products = np.empty((len(vectors), len(rows)), dtype=np.float32)
    multiply(rows[:, :-1], vectors, products)
    products += rows[:, -1]
    return products.T


def _chunks(shard: Shard) -> Iterator[slice]:
    """Ranges of images, with at least one patch, that one thread takes at a time."""
    ends = np.cumsum(shard.counts)
    most = max(1, _CHUNK_BYTES // shard.codes.shape[1])
    first = 0
    while first < len(ends):
        start = ends[first] - shard.counts[first]
        stop = max(first + 1, int(np.searchsorted(ends, start + most, side="right")))
        if ends[stop - 1] > start:
            yield slice(first, stop)
        first = stop


def _compiled(vectors: ArrayLike) -> CompiledQueries:
    try:
        rows = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise QueryError(f"expected vectors [V, E] of numbers, found {vectors!r}") from error
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        finite = "" if np.isfinite(rows).all() else " with NaN or infinity"
        raise QueryError(
            f"expected one or more finite vectors [V, E], found shape {list(rows.shape)}{finite}"
        )
    nothing = np.empty((0, rows.shape[1]), dtype=np.float32)
    return CompiledQueries.of([row[None] for row in rows], [nothing] * len(rows), nothing)


def _limits(threshold: float | Sequence[float] | None, count: int) -> Floats:
    if threshold is None:
        return np.full(count, -1, dtype=np.float32)
    try:
        limits = np.asarray(threshold, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise QueryError(f"expected a threshold in [0, 1], found {threshold!r}") from error
    if limits.shape not in ((), (count,)) or not ((limits >= 0) & (limits <= 1)).all():
        raise QueryError(f"expected a threshold in [0, 1], or {count} of them; found {threshold!r}")
    return np.broadcast_to(limits, count)


def _check_options(top: Any, per_image: Any, nms_iou: Any) -> None:
    for name, value in (("top", top), ("per_image", per_image)):
        if type(value) is not int or value < 1:
            raise QueryError(f"{name}: expected an integer of at least 1, found {value!r}")
    if not isinstance(nms_iou, int | float) or not 0 <= nms_iou <= 1:
        raise QueryError(f"nms_iou: expected a number in [0, 1], found {nms_iou!r}")
