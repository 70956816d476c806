"""The predictor: encode an image once, query it as often as you like."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from owlkit.attention_map import AttentionMaps
from owlkit.backend import Backend, PatchArrays
from owlkit.detections import Detections
from owlkit.errors import ConfigError, MissingDependencyError, QueryError
from owlkit.image_passes import encode_scenes, read_attention
from owlkit.images import ImageSource, load_image
from owlkit.nested import detect_parts, root_names
from owlkit.queries import Ensemble, Example, QuerySet
from owlkit.queries.choosing import choose_examples
from owlkit.queries.embeddings import EmbeddedExample, ExampleKey
from owlkit.queries.encoder import QueryEncoder
from owlkit.question import Question
from owlkit.runtime import ModelOptions, Provider, is_exported, open_exported
from owlkit.scene import Scene
from owlkit.scene_cache import SceneCache
from owlkit.selection import Selection, Threshold
from owlkit.tiling import Tiling, detect_tiles

Queries = QuerySet | Sequence[str]
Item = TypeVar("Item")


class SelectionOptions(TypedDict, total=False):
    """Further keyword arguments of ``detect``; see :class:`owlkit.postprocess.Selection`."""

    class_agnostic: bool
    soft_nms: Literal["linear", "gaussian"] | None
    box_fusion: bool
    top_k: int | None
    one_label_per_box: bool


class Predictor:
    """Finds what words describe, in images of any size.

    Args:
        backend: What runs the networks.
        batch_size: How many images of a list are encoded at a time, at least 1.
        cache: Where encoded images are kept and looked for; None keeps none.

    A predictor may be used from several threads.

    Raises:
        ConfigError: If the batch size is no positive integer.
    """

    def __init__(
        self, backend: Backend, *, batch_size: int = 8, cache: SceneCache | None = None
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size must be an integer of at least 1, found {batch_size!r}")
        self.backend = backend
        self.batch_size = batch_size
        self.cache = cache
        self._encoder = QueryEncoder(backend, self._embed_examples)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        *,
        device: str | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        convention: Literal["scenic", "hf"] | None = None,
        batch_size: int = 8,
        cache: SceneCache | None = None,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
    ) -> "Predictor":
        """Loads a model and everything it needs to answer.

        Args:
            folder_or_id: An owlkit model folder, a Hugging Face OWL-ViT or OWLv2 folder, a hub id
                such as ``google/owlv2-base-patch16-ensemble``, or a folder that ``owlkit export``
                has written, which needs no PyTorch.
            device: For example ``"cpu"`` or ``"cuda"``; None takes a GPU if there is one.
            precision: Of the image tower; an exported model has its own.
            convention: Compute as the original (``scenic``) or as transformers (``hf``) does; None
                keeps what the checkpoint says, as an exported model always does.
            batch_size: How many images of a list are encoded at a time.
            cache: Where encoded images are kept and looked for, see
                :class:`owlkit.scene_cache.SceneCache`; None keeps none.
            providers: Of an exported model, instead of a device: execution providers such as
                ``["openvino", "cpu"]``, see :class:`owlkit.runtime.session.SessionOptions`.
            threads: Of an exported model on the CPU; None for one per core.

        Raises:
            CheckpointError: If the model is missing or damaged.
            ConfigError: If an option cannot be used, or not with this kind of model.
            MissingDependencyError: If PyTorch is needed and not installed.
        """
        if is_exported(folder_or_id):
            how = ModelOptions(device, precision, convention, providers, threads)
            return cls(open_exported(folder_or_id, how), batch_size=batch_size, cache=cache)
        if providers is not None or threads is not None:
            raise ConfigError(
                "providers and threads: expected with a folder that owlkit export has written, "
                f"found {folder_or_id}; PyTorch models take a device"
            )
        try:
            backend_class = importlib.import_module("owlkit.torch_backend").TorchBackend
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("owlkit"):
                raise
            raise MissingDependencyError(
                f"{folder_or_id}: running a PyTorch model needs {error.name}: pip install "
                "'owlkit[torch]'; without it, give a folder that owlkit export has written"
            ) from error
        backend: Backend = backend_class.from_pretrained(
            folder_or_id, device=device, precision=precision, convention=convention
        )
        return cls(backend, batch_size=batch_size, cache=cache)

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
            return self.encode([images])[0]
        return [
            scene
            for batch in self._batches(images)
            for scene in encode_scenes(self.backend, batch, cache=self.cache)
        ]

    @overload
    def attention(self, images: ImageSource) -> AttentionMaps: ...

    @overload
    def attention(
        self, images: list[ImageSource] | tuple[ImageSource, ...]
    ) -> list[AttentionMaps]: ...

    def attention(
        self, images: ImageSource | list[ImageSource] | tuple[ImageSource, ...]
    ) -> AttentionMaps | list[AttentionMaps]:
        """Notes where the heads of the image tower's last block look, in a pass of its own.

        Args:
            images: See :meth:`encode`.

        Returns:
            Maps of an image, or a list of them for a list; ``on_image()`` fits the image.

        Raises:
            ConfigError: If the model was exported without attention maps.
            ImageError: If an image cannot be read.
            TokenError: If the image tower is no vision transformer.
        """
        if not isinstance(images, list | tuple):
            return self.attention([images])[0]
        return [
            maps for batch in self._batches(images) for maps in read_attention(self.backend, batch)
        ]

    def _batches(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        for start in range(0, len(items), self.batch_size):
            yield items[start : start + self.batch_size]

    def patches(self, scene: Scene) -> PatchArrays:
        """All that is known of the patches of an encoded image, as numpy arrays."""
        return self.backend.to_arrays(scene.features)

    def embed(self, queries: QuerySet) -> QuerySet:
        """Encodes those texts and examples of a query set that this model has not encoded yet.

        ``detect`` does the same when it has to; do it before :meth:`QuerySet.save`, so that the
        file answers without any text or image pass.

        Args:
            queries: Keeps the embeddings.

        Returns:
            The same query set.

        Raises:
            QueryError: If an image of an example is not there.
        """
        self._encoder.of_queries(queries)
        return queries

    def chosen(self, queries: QuerySet, name: str) -> list[EmbeddedExample]:
        """What the model takes for the object of each example of a class.

        Args:
            queries: The query set; encoded if need be.
            name: Of the class.

        Returns:
            For its examples, then for its negative ones: the patch, its box in pixels of the
            example's image, how well that agrees with the box that was asked for, and its vector.

        Raises:
            QueryError: If there is no such class, or an image is not there.
        """
        table = self.embed(queries).table(self.backend.identity)
        keys = (ExampleKey.of(one, queries.choice) for one in queries[name].all_examples)
        return [table.examples[key] for key in keys]

    def _embed_examples(
        self, example: Example, keys: Sequence[ExampleKey]
    ) -> list[EmbeddedExample]:
        """What stands for boxes on the image of an example."""
        scene = self.encode(example.pixels())
        return choose_examples(self.patches(scene), scene.transform, keys)

    @overload
    def detect(
        self,
        images: ImageSource | Scene,
        queries: Queries,
        *,
        threshold: Threshold | None = ...,
        nms_iou: float | None = ...,
        templates: str | Sequence[str] | None = ...,
        ensemble: Ensemble | None = ...,
        tiles: Tiling | None = ...,
        **options: Unpack[SelectionOptions],
    ) -> Detections: ...

    @overload
    def detect(
        self,
        images: list[ImageSource | Scene] | tuple[ImageSource | Scene, ...],
        queries: Queries,
        *,
        threshold: Threshold | None = ...,
        nms_iou: float | None = ...,
        templates: str | Sequence[str] | None = ...,
        ensemble: Ensemble | None = ...,
        tiles: Tiling | None = ...,
        **options: Unpack[SelectionOptions],
    ) -> list[Detections]: ...

    def detect(
        self,
        images: ImageSource | Scene | list[ImageSource | Scene] | tuple[ImageSource | Scene, ...],
        queries: Queries,
        *,
        threshold: Threshold | None = None,
        nms_iou: float | None = None,
        templates: str | Sequence[str] | None = None,
        ensemble: Ensemble | None = None,
        tiles: Tiling | None = None,
        **options: Unpack[SelectionOptions],
    ) -> Detections | list[Detections]:
        """Finds the queries in images.

        Args:
            images: An image (path, URL, PIL, uint8 array [h, w, 3]) or an encoded scene, or a list
                of them. Scenes cost no image pass, and texts seen before no text pass.
            queries: Strings, one per class, or a :class:`QuerySet`.
            threshold: Scores must be above this, in [0, 1]; one number or one per query. None
                takes each class's own, or the model's, or 0.1. A score is the probability of one
                query on one box, never renormalised.
            nms_iou: Of two boxes of one query that overlap by more than this IoU only the better
                stays; None keeps all, as transformers does.
            templates: Prompt templates for strings; see :meth:`QuerySet.from_text`.
            ensemble: How the templates' answers are combined: mean of ``logits`` (None) or of
                ``embeddings``.
            tiles: Look at large images tile by tile, so that small things are seen at full
                resolution; see :class:`owlkit.tiling.Tiling`. None looks at each image as a whole.
            **options: ``top_k``, ``class_agnostic``, ``soft_nms`` (``"linear"``, ``"gaussian"``),
                ``box_fusion``, ``one_label_per_box``; see :class:`owlkit.postprocess.Selection`.

        Returns:
            Detections by descending score, or a list of them for a list. Classes that have a
            parent are looked for inside the boxes of that class, in a closer look at each.

        Raises:
            ImageError: If an image cannot be read.
            QueryError: If a query or an option cannot be used.
        """
        selection = Selection(nms_iou=nms_iou, **options)
        question = self._question(queries, selection, threshold, templates, ensemble)
        if not isinstance(images, list | tuple):
            return self._ask([images], question, tiles)[0]
        results: list[Detections] = []
        for batch in self._batches(images):
            # Batch by batch, so that the features of a long list never exist all at once.
            results += self._ask(batch, question, tiles)
        return results

    def _question(
        self,
        queries: Queries,
        selection: Selection,
        threshold: Threshold | None,
        templates: str | Sequence[str] | None,
        ensemble: Ensemble | None,
    ) -> Question:
        if isinstance(queries, QuerySet):
            if templates is not None or ensemble is not None:
                raise QueryError(
                    "templates and ensemble belong to strings; a QuerySet already has its prompts"
                )
            vectors = self._encoder.of_queries(queries)
        else:
            queries, vectors = self._encoder.of_words(queries, templates, ensemble or "logits")
        return Question.of(
            queries,
            vectors,
            selection,
            threshold=threshold,
            model_threshold=self.backend.threshold,
            model_calibration=self.backend.calibration,
        )

    def _ask(
        self, items: Sequence[ImageSource | Scene], question: Question, tiles: Tiling | None
    ) -> list[Detections]:
        """Detections in each of a few images."""
        roots = root_names(question.queries)
        if len(roots) == len(question.queries):
            return self._look(items, question, tiles)
        found = self._look(items, question.part(roots), tiles)
        return [
            self._with_parts(item, detections, question)
            for item, detections in zip(items, found, strict=True)
        ]

    def _look(
        self, items: Sequence[ImageSource | Scene], question: Question, tiles: Tiling | None
    ) -> list[Detections]:
        """Detections of all classes of a question, wherever in the images."""
        if tiles is not None:
            return [self._look_at_tiles(item, question, tiles) for item in items]
        new = iter(self.encode([item for item in items if not isinstance(item, Scene)]))
        # One by one, because the logits of many classes take more room than the features.
        return [
            self._answer(item if isinstance(item, Scene) else next(new), question) for item in items
        ]

    def _look_at_tiles(
        self, item: ImageSource | Scene, question: Question, tiles: Tiling
    ) -> Detections:
        if isinstance(item, Scene):
            raise QueryError("tiles: expected images to cut, found an encoded scene")
        found = detect_tiles(
            lambda crops, selection: self._look(
                crops, replace(question, selection=selection), None
            ),
            load_image(item),
            tiles,
            self.backend.preprocessing.size,
            batch_size=self.batch_size,
            selection=question.selection,
        )
        return replace(found, source=item)

    def _with_parts(
        self, item: ImageSource | Scene, found: Detections, question: Question
    ) -> Detections:
        def look(crops: list[NDArray[np.uint8]], parts: QuerySet) -> list[Detections]:
            part = question.part(parts.names)
            return [one for batch in self._batches(crops) for one in self._look(batch, part, None)]

        image = load_image(item.source if isinstance(item, Scene) else item)
        whole = detect_parts(look, image, found, question.queries)
        return whole[: question.selection.top_k]

    def _answer(self, scene: Scene, question: Question) -> Detections:
        backend, features = self.backend, scene.features
        return question.answer(
            lambda vectors: backend.score(features, vectors),
            scene.boxes,
            image_size=scene.transform.image_size,
            source=scene.source,
        )
