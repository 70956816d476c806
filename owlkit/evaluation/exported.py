"""How good an exported detector is: its graphs on ONNX Runtime, measured as any detector is.

Shapes: P patches, Q classes, E embedding width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owlkit.data.coco import DetectionDataset, read_coco
from owlkit.data.queries import fill_unless_marked, spell_names
from owlkit.evaluation.predictions import PredictionSettings
from owlkit.evaluation.truth import Truth, read_truth
from owlkit.images import load_image
from owlkit.postprocess import postprocess
from owlkit.prompts import resolve_templates
from owlkit.runtime import OnnxBackend


class ExportedAccuracy:
    """Measures exported folders on one data set.

    Args:
        annotations: COCO or LVIS JSON.
        images: Folder of the images.
        settings: Prompts, selection and batch size; None for those of ``owlkit evaluate``.
        max_images: Measure on the first so many; None for all.

    Raises:
        DatasetError: If the annotations or images cannot be used.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        settings: PredictionSettings | None = None,
        max_images: int | None = None,
    ) -> None:
        names = ("--annotations", "--images")
        self._truth: Truth = read_truth(annotations, settings=names)
        self._dataset: DetectionDataset = read_coco(
            annotations, images, max_images=max_images, merge_repeated=False, settings=names
        )
        self._settings = settings or PredictionSettings()

    def __call__(self, folder: Path) -> dict[str, float]:
        """COCO's or LVIS's numbers, in [0, 1], by name; among them ``AP``.

        Args:
            folder: An exported detector whose manifest is complete.

        Raises:
            CheckpointError: If the folder is damaged.
            ImageError: If an image cannot be read.
        """
        ids = [record.id for record in self._dataset.images]
        measured = self._truth.measure(self.detect(folder), image_ids=ids)
        return {name: float(value) for name, value in measured.metrics.items()}

    def detect(self, folder: Path) -> list[dict[str, Any]]:
        """Entries of a COCO results file, in the order of the images.

        Args:
            folder: As for the call.

        Raises:
            CheckpointError: If the folder is damaged.
            ImageError: If an image cannot be read.
        """
        backend = OnnxBackend(folder)
        names = list(self._truth.names.values())
        queries = _embed_classes(backend, names, self._settings)
        records, size = self._dataset.images, self._settings.batch_size
        results: list[dict[str, Any]] = []
        for start in range(0, len(records), size):
            batch = records[start : start + size]
            prepared = [backend.preprocessing(load_image(record.path)) for record in batch]
            features = backend.encode_images(np.stack([pixels for pixels, _ in prepared]))
            for record, (_, transform), each in zip(batch, prepared, features, strict=True):
                found = postprocess(
                    backend.score(each, queries),
                    transform.invert(backend.boxes(each)),
                    names=names,
                    image_size=transform.image_size,
                    selection=self._settings.selection,
                    source=record.path,
                )
                results += found.to_coco(record.id, list(self._truth.names))
        return results


def _embed_classes(
    backend: OnnxBackend, names: Sequence[str], settings: PredictionSettings
) -> NDArray[np.float32]:
    """One vector per class, the mean of its prompts' unit vectors [Q, E]."""
    templates = resolve_templates(settings.templates)
    prompts = [
        fill_unless_marked(template, name, canonical=settings.canonicalize)
        for name in spell_names(names, canonicalize=settings.canonicalize)
        for template in templates
    ]
    units = backend.encode_texts(prompts).reshape(len(names), len(templates), -1)
    means: NDArray[np.float32] = units.mean(axis=1)
    return means
