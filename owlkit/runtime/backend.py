"""The ONNX Runtime backend of a predictor.

Shapes: B images, P patches in h rows of w, n heads, Q queries, E embedding width, H and W pixels of
the model input.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from owlkit.backend import PatchArrays
from owlkit.calibration import Calibration
from owlkit.errors import CheckpointError, ImageError, InputSizeError, QueryError
from owlkit.geometry import Preprocessing
from owlkit.runtime.attention import ExportedAttention
from owlkit.runtime.manifest import read_export
from owlkit.runtime.session import GraphSession, Provider, SessionOptions
from owlkit.runtime.texts import ExportedTexts

Floats = NDArray[np.float32]

# Per pass: enough to keep the hardware busy, few enough for any memory.
_IMAGES = 16

_IMAGE_INPUTS = ("pixels",)
_IMAGE_OUTPUTS = ("class_embeds", "boxes", "logit_shift", "logit_scale")
_TEXT_OUTPUT = "query_embeds"


class OnnxBackend:
    """Runs what ``owlkit export`` wrote, for a predictor; may be used from several threads.

    The text encoder is loaded when the first text has to be encoded; a saved query set never needs
    it. The graph of attention maps is loaded when the first ones are asked for.

    Args:
        folder: The exported folder.
        providers: Execution providers, see :class:`owlkit.runtime.session.SessionOptions`.
        threads: Of the CPU, for one operator; None for one per core.
        size: (H, W) or side of the model input in pixels, one of those exported; None for the
            default.
        io_binding: Run through buffers that stay on the device; None does so on NVIDIA GPUs.

    Raises:
        CheckpointError: If the folder is missing, damaged, altered, of a newer format, of another
            kind of model, or lacks that size.
        ConfigError: If a provider is not there, or the number of threads is not positive.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        size: int | tuple[int, int] | None = None,
        io_binding: bool | None = None,
    ) -> None:
        self._options = SessionOptions(providers, threads, io_binding)
        self._model = read_export(folder)
        self._graph = self._model.image_encoder((size, size) if isinstance(size, int) else size)
        self._preprocessing = replace(
            self._model.preprocessing, size=self._graph.size or self._model.preprocessing.size
        )
        outputs = (*_IMAGE_OUTPUTS, *(["objectness"] if self._model.objectness else []))
        self._images = GraphSession(
            self._graph, inputs=_IMAGE_INPUTS, outputs=outputs, options=self._options
        )
        self._texts = ExportedTexts(self._model, output=_TEXT_OUTPUT, options=self._options)
        self._attention = ExportedAttention(
            self._model, size=self._preprocessing.size, options=self._options
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become this model's input."""
        return self._preprocessing

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use, ONNX Runtime's names."""
        return self._images.providers

    @cached_property
    def identity(self) -> str:
        """That of the model that was exported; of its own for another than the default size."""
        if self._preprocessing == self._model.preprocessing:
            return self._model.identity
        text = f"{self._model.identity} {self._preprocessing.size}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def precision(self) -> str:
        """By which results to the last bit are known again: hashes of the graphs in use."""
        used = (self._graph, self._model.text_encoder)
        return " ".join(graph.sha256 for graph in used if graph is not None)

    @property
    def calibration(self) -> Calibration | None:
        """What turns logits into probabilities; None for the plain sigmoid."""
        return self._model.calibration

    @property
    def threshold(self) -> float | None:
        """Where scores are best cut, in [0, 1]; None if nobody measured it."""
        return self._model.threshold

    def encode_images(self, pixel_values: Floats) -> list[PatchArrays]:
        """Encodes preprocessed images [B, 3, H, W]; returns the features of each.

        Raises:
            ImageError: If they are not finite float32 numbers of that shape.
            InputSizeError: If they are of another size.
            OwlkitError: If memory does not suffice.
        """
        self._check_pixels(pixel_values)
        return [
            features
            for start in range(0, len(pixel_values), _IMAGES)
            for features in self._encode_chunk(pixel_values[start : start + _IMAGES])
        ]

    def _check_pixels(self, pixels: Floats) -> None:
        height, width = self._preprocessing.size
        expected = f"expected pixels float32 [B, 3, {height}, {width}]"
        if not isinstance(pixels, np.ndarray):
            raise ImageError(f"{expected}, found {type(pixels).__name__}")
        shape = list(pixels.shape)
        if pixels.dtype != np.float32 or len(shape) != 4 or shape[1] != 3:
            raise ImageError(f"{expected}, found {pixels.dtype} {shape}")
        if shape[2:] != [height, width]:
            raise InputSizeError(f"{expected}, found {shape}")
        for index, image in enumerate(pixels):
            if not np.isfinite(image).all():
                raise ImageError(f"image {index}: expected finite pixels, found NaN or infinity")

    def _encode_chunk(self, pixels: Floats) -> list[PatchArrays]:
        embeds, centred, shift, scale, *rest = self._images.run({"pixels": pixels})
        boxes = _corners(centred)
        objectness = rest[0] if rest else None
        if embeds.shape[-1] != self._model.embed_width:
            raise CheckpointError(
                f"{self._model.folder}: expected embeddings of width {self._model.embed_width}, "
                f"found {embeds.shape[-1]}; export the model again"
            )
        # Copies, so that a scene that is kept does not keep its whole batch.
        return [
            PatchArrays(
                class_embeds=embeds[row].copy(),
                boxes=boxes[row].copy(),
                logit_shift=shift[row].copy(),
                logit_scale=scale[row].copy(),
                objectness=None if objectness is None else objectness[row].copy(),
            )
            for row in range(len(pixels))
        ]

    def attention(self, pixel_values: Floats) -> Floats:
        """Where the last block looks in preprocessed images [B, 3, H, W]: [B, n, h, w].

        Raises:
            CheckpointError: If the graph's file is missing, damaged or altered.
            ConfigError: If the model was exported without attention maps; they are for its default
                size only.
            ImageError: If the pixels are not finite float32 numbers of that shape, B at least 1.
            InputSizeError: If they are of another size.
            OwlkitError: If memory does not suffice.
        """
        self._check_pixels(pixel_values)
        if not len(pixel_values):
            raise ImageError("attention: expected one image or more, found none")
        starts = range(0, len(pixel_values), _IMAGES)
        chunks = [self._attention(pixel_values[start : start + _IMAGES]) for start in starts]
        return np.concatenate(chunks)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Encodes Q texts as unit vectors [Q, E]; equal ones are encoded once.

        Raises:
            QueryError: If the model was exported without a tokenizer.
            TokenError: If something is not text, or a text has no tokens.
        """
        return self._texts(texts)

    def boxes(self, features: PatchArrays) -> Floats:
        """One image's boxes: xyxy in [0, 1] of the model input [P, 4]."""
        return features.boxes

    def score(self, features: PatchArrays, queries: Floats) -> Floats:
        """One image's logits [P, Q] for unit vectors or means of unit vectors [Q, E].

        Raises:
            QueryError: If the vectors are another model's, of another width, or so many that their
                logits do not fit into memory.
        """
        patches, width = features.class_embeds.shape
        if queries.ndim != 2 or queries.shape[1] != width:
            raise QueryError(
                f"expected queries as wide as the image's embeddings, [Q, {width}]; found "
                f"{list(queries.shape)}: they are of another model"
            )
        try:
            logits: Floats = np.empty((patches, len(queries)), np.float32)
        except MemoryError as error:
            gigabytes = patches * len(queries) * 4 / 1e9
            raise QueryError(
                f"expected fewer queries at a time, found {len(queries)}: their logits on "
                f"{patches} patches take {gigabytes:.0f} GB"
            ) from error
        # The scale is folded into the patch side, so nothing larger than the result is made.
        embeds, scale = features.class_embeds, features.logit_scale[:, None]
        norms = np.linalg.norm(embeds, axis=1, keepdims=True)
        np.matmul(embeds * (scale / (norms + np.float32(1e-6))), queries.T, out=logits)
        logits += features.logit_shift[:, None] * scale
        return logits

    def to_arrays(self, features: PatchArrays) -> PatchArrays:
        """One image's features as arrays, which is what they are."""
        return features

    def from_arrays(self, arrays: PatchArrays) -> PatchArrays:
        """Undoes :meth:`to_arrays`."""
        return arrays


def _corners(boxes: Floats) -> Floats:
    """Turns cxcywh into xyxy [..., 4], with the same operations as torchvision's box_convert."""
    centres, halves = boxes[..., :2], np.float32(0.5) * boxes[..., 2:]
    corners: Floats = np.concatenate([centres - halves, centres + halves], axis=-1)
    return corners
