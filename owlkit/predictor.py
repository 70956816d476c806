"""The predictor: encode an image once, query it as often as you like."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from owlkit.backend import Backend
from owlkit.detections import Detections
from owlkit.errors import ConfigError, MissingDependencyError, QueryError
from owlkit.geometry import ImageTransform
from owlkit.images import ImageSource, load_image
from owlkit.postprocess import Selection, Threshold, postprocess
from owlkit.queries import Ensemble, QuerySet
from owlkit.query_vectors import QueryVectors

Queries = QuerySet | Sequence[str]


class SelectionOptions(TypedDict, total=False):
    """Further keyword arguments of ``detect``; see :class:`owlkit.postprocess.Selection`."""

    class_agnostic: bool
    soft_nms: Literal["linear", "gaussian"] | None
    top_k: int | None
    one_label_per_box: bool


@dataclass(frozen=True, eq=False)
class Scene:
    """An encoded image; what :meth:`Predictor.encode` returns and ``detect`` takes.

    Attributes:
        boxes: The box of every patch, xyxy in pixels of the original image [P, 4], float32; not
            clipped.
        transform: How the image was placed in the model input.
        features: What the backend keeps to score queries.
        source: The image as it was given, by reference.
    """

    boxes: NDArray[np.float32] = field(repr=False)
    transform: ImageTransform
    features: Any = field(repr=False)
    source: ImageSource = field(repr=False)


class Predictor:
    """Finds what words describe, in images of any size.

    Args:
        backend: What runs the networks.
        batch_size: How many images of a list are encoded at a time, at least 1.

    A predictor may be used from several threads.

    Raises:
        ConfigError: If the batch size is no positive integer.
    """

    def __init__(self, backend: Backend, *, batch_size: int = 8) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size must be an integer of at least 1, found {batch_size!r}")
        self.backend = backend
        self.batch_size = batch_size
        self._queries = QueryVectors(backend)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        *,
        device: str | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        convention: Literal["scenic", "hf"] | None = None,
        batch_size: int = 8,
    ) -> "Predictor":
        """Loads a model and everything it needs to answer.

        Args:
            folder_or_id: An owlkit model folder, a Hugging Face OWL-ViT or OWLv2 folder, or a hub
                id such as ``google/owlv2-base-patch16-ensemble``.
            device: For example ``"cpu"`` or ``"cuda"``; None takes a GPU if there is one.
            precision: Of the image tower.
            convention: Compute as the original (``scenic``) or as transformers (``hf``) does; None
                keeps what the checkpoint says.
            batch_size: How many images of a list are encoded at a time.

        Raises:
            CheckpointError: If the model is missing or damaged.
            MissingDependencyError: If PyTorch is not installed.
        """
        try:
            backend_class = importlib.import_module("owlkit.torch_backend").TorchBackend
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("owlkit"):
                raise
            raise MissingDependencyError(
                f"running a PyTorch model needs {error.name}: pip install 'owlkit[torch]'"
            ) from error
        backend: Backend = backend_class.from_pretrained(
            folder_or_id, device=device, precision=precision, convention=convention
        )
        return cls(backend, batch_size=batch_size)

    @overload
    def encode(self, images: ImageSource) -> Scene: ...

    @overload
    def encode(self, images: list[ImageSource] | tuple[ImageSource, ...]) -> list[Scene]: ...

    def encode(
        self, images: ImageSource | list[ImageSource] | tuple[ImageSource, ...]
    ) -> Scene | list[Scene]:
        """Runs the image tower, once per image.

        Args:
            images: A path, URL, PIL image or uint8 array [h, w, 3], or a list of them.

        Returns:
            A scene, or a list of scenes for a list.

        Raises:
            ImageError: If an image cannot be read.
        """
        if not isinstance(images, list | tuple):
            return self._encode_batch([images])[0]
        batches = (
            images[start : start + self.batch_size]
            for start in range(0, len(images), self.batch_size)
        )
        return [scene for batch in batches for scene in self._encode_batch(batch)]

    def _encode_batch(self, images: Sequence[ImageSource]) -> list[Scene]:
        prepared = [self.backend.preprocessing(load_image(image)) for image in images]
        features = self.backend.encode_images(np.stack([pixels for pixels, _ in prepared]))
        return [
            Scene(
                boxes=transform.invert(self.backend.boxes(one), clip=False),
                transform=transform,
                features=one,
                source=image,
            )
            for image, one, (_, transform) in zip(images, features, prepared, strict=True)
        ]

    @overload
    def detect(
        self,
        images: ImageSource | Scene,
        queries: Queries,
        *,
        threshold: Threshold = ...,
        nms_iou: float | None = ...,
        templates: str | Sequence[str] | None = ...,
        ensemble: Ensemble | None = ...,
        **options: Unpack[SelectionOptions],
    ) -> Detections: ...

    @overload
    def detect(
        self,
        images: list[ImageSource | Scene] | tuple[ImageSource | Scene, ...],
        queries: Queries,
        *,
        threshold: Threshold = ...,
        nms_iou: float | None = ...,
        templates: str | Sequence[str] | None = ...,
        ensemble: Ensemble | None = ...,
        **options: Unpack[SelectionOptions],
    ) -> list[Detections]: ...

    def detect(
        self,
        images: ImageSource | Scene | list[ImageSource | Scene] | tuple[ImageSource | Scene, ...],
        queries: Queries,
        *,
        threshold: Threshold = 0.1,
        nms_iou: float | None = None,
        templates: str | Sequence[str] | None = None,
        ensemble: Ensemble | None = None,
        **options: Unpack[SelectionOptions],
    ) -> Detections | list[Detections]:
        """Finds the queries in images.

        Args:
            images: An image (path, URL, PIL, uint8 array [h, w, 3]) or an encoded scene, or a list
                of them. Scenes cost no image pass, and texts seen before no text pass.
            queries: Strings, one per class, or a :class:`QuerySet`.
            threshold: Scores must be above this, in [0, 1]; one number or one per query. A score
                is the probability of one query on one box, never renormalised.
            nms_iou: Of two boxes of one query that overlap by more than this IoU only the better
                stays; None keeps all, as transformers does.
            templates: Prompt templates for strings; see :meth:`QuerySet.from_text`.
            ensemble: How the templates' answers are combined: mean of ``logits`` (None) or of
                ``embeddings``.
            **options: ``top_k``, ``class_agnostic``, ``soft_nms`` (``"linear"``, ``"gaussian"``),
                ``one_label_per_box``; see :class:`owlkit.postprocess.Selection`.

        Returns:
            Detections by descending score, or a list of them for a list.

        Raises:
            ImageError: If an image cannot be read.
            QueryError: If a query or an option cannot be used.
        """
        query_set = _as_query_set(queries, templates, ensemble)
        selection = Selection(threshold=threshold, nms_iou=nms_iou, **options)
        vectors = self._queries.vectors(query_set)
        if not isinstance(images, list | tuple):
            scene = images if isinstance(images, Scene) else self.encode(images)
            return self._answer(scene, query_set, vectors, selection)
        results: list[Detections] = []
        for start in range(0, len(images), self.batch_size):
            # Batch by batch, so that the features of a long list never exist all at once.
            scenes = self._to_scenes(images[start : start + self.batch_size])
            results += [self._answer(scene, query_set, vectors, selection) for scene in scenes]
        return results

    def _to_scenes(self, items: Sequence[ImageSource | Scene]) -> list[Scene]:
        new = iter(self.encode([item for item in items if not isinstance(item, Scene)]))
        return [item if isinstance(item, Scene) else next(new) for item in items]

    def _answer(
        self,
        scene: Scene,
        queries: QuerySet,
        vectors: NDArray[np.float32],
        selection: Selection,
    ) -> Detections:
        return postprocess(
            self.backend.score(scene.features, vectors),
            scene.boxes,
            names=queries.names,
            image_size=scene.transform.image_size,
            selection=selection,
            source=scene.source,
        )


def _as_query_set(
    queries: Queries, templates: str | Sequence[str] | None, ensemble: Ensemble | None
) -> QuerySet:
    if not isinstance(queries, QuerySet):
        return QuerySet.from_text(queries, templates=templates, ensemble=ensemble or "logits")
    if templates is not None or ensemble is not None:
        raise QueryError(
            "templates and ensemble belong to strings; a QuerySet already has its prompts"
        )
    return queries
