"""Exported pairs of image and text towers: zero-shot classes and search without torch.

Shapes: B images, Q texts, C classes, T templates, E embedding width.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from owlkit.calibration import Calibration
from owlkit.errors import CheckpointError, ImageError, QueryError
from owlkit.geometry import Preprocessing
from owlkit.images import ImageSource, load_image
from owlkit.prompts import fill, resolve_templates
from owlkit.queries.texts import as_texts
from owlkit.runtime.manifest import DUAL_ENCODER, MANIFEST, ExportedModel, read_export
from owlkit.runtime.session import GraphSession, Provider, SessionOptions
from owlkit.runtime.texts import ExportedTexts

IMAGE_OUTPUT = "image_embeds"
TEXT_OUTPUT = "text_embeds"

Floats = NDArray[np.float32]

# Per pass: enough to keep the hardware busy, few enough for any memory.
_IMAGES = 16


class OnnxDualEncoder:
    """Puts images and texts into one space; may be used from several threads.

    Vectors have unit length, so their products are cosine similarities: to search, keep
    ``vectors = model.encode_images(images)``; ``vectors @ model.encode_texts(["a red mug"])[0]``
    says how well each image fits the words.

    Args:
        model: The exported folder's description.
        options: Where the graphs run.
        size: (H, W) or side of the model input in pixels, one of those exported; None for the
            default.

    Attributes:
        preprocessing: How images become the model's input.
        logit_scale: The factor on cosine similarities, not its logarithm.
        logit_bias: What is added after it; None for models of CLIP's kind.

    Raises:
        CheckpointError: If the image graph is missing or altered, or there is none of that size.
    """

    def __init__(
        self,
        model: ExportedModel,
        *,
        options: SessionOptions | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> None:
        options = options or SessionOptions()
        graph = model.image_encoder((size, size) if isinstance(size, int) else size)
        self._model = model
        self.logit_scale = _positive(model, "logit_scale")
        self.logit_bias = _number(model, "logit_bias") if "logit_bias" in model.manifest else None
        self.preprocessing: Preprocessing = replace(
            model.preprocessing, size=graph.size or model.preprocessing.size
        )
        self._images = GraphSession(
            graph, inputs=["pixels"], outputs=[IMAGE_OUTPUT], options=options
        )
        self._texts = ExportedTexts(model, output=TEXT_OUTPUT, options=options)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> Self:
        """Opens a folder that ``owlkit export`` made of a pair of towers.

        Args:
            folder: The exported folder.
            providers: Execution providers, see :class:`owlkit.runtime.session.SessionOptions`.
            threads: Of the CPU, for one operator; None for one per core.
            size: (H, W) or side of the model input in pixels, one of those exported; None for the
                default.

        Raises:
            CheckpointError: If the folder is missing, damaged, altered, of a newer format, of
                another kind of model, or lacks that size.
            ConfigError: If a provider is not there, or the number of threads is not positive.
        """
        options = SessionOptions(providers, threads)
        return cls(read_export(folder, kind=DUAL_ENCODER), options=options, size=size)

    def encode_images(self, images: Sequence[ImageSource]) -> Floats:
        """Encodes images of any sizes as unit vectors [B, E].

        Args:
            images: A list of paths, URLs, PIL images or uint8 arrays [h, w, 3].

        Raises:
            ImageError: If it is no list, or an image cannot be read.
            OwlkitError: If memory does not suffice.
        """
        if not isinstance(images, list | tuple):
            raise ImageError(f"expected a list of images, found {type(images).__name__}")
        units = np.zeros((len(images), self._model.embed_width), np.float32)
        for start in range(0, len(images), _IMAGES):
            chunk = images[start : start + _IMAGES]
            pixels = np.stack([self.preprocessing(load_image(image))[0] for image in chunk])
            (units[start : start + _IMAGES],) = self._images.run({"pixels": pixels})
        return units

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Encodes texts as unit vectors [Q, E]; equal ones are encoded once.

        Raises:
            QueryError: If it is no list of texts, or the model was exported without a tokenizer.
            TokenError: If a text has no tokens.
        """
        return self._texts(as_texts(texts, "texts", blank=True))

    def encode_classes(
        self, names: Sequence[str], templates: str | Sequence[str] | None = "photo"
    ) -> Floats:
        """Encodes class names as unit vectors [C, E]: the mean of what their prompts become.

        Args:
            names: C names, one or more.
            templates: A name of :data:`owlkit.prompts.TEMPLATES`, or T templates; None for the bare
                names.

        Raises:
            QueryError: If there is no name, no such templates, or no tokenizer.
        """
        names = as_texts(names, "names")
        if not names:
            raise QueryError("names: expected at least one class, found none")
        filled = resolve_templates(templates)
        prompts = [fill(template, name) for name in names for template in filled]
        embeds = self.encode_texts(prompts).reshape(len(names), len(filled), -1)
        return _unit(embeds.mean(axis=1))

    def classify(
        self,
        images: Sequence[ImageSource],
        names: Sequence[str],
        templates: str | Sequence[str] | None = "photo",
    ) -> Floats:
        """Says how well each name fits each image.

        Args:
            images: A list of paths, URLs, PIL images or uint8 arrays [h, w, 3].
            names: C names, one or more.
            templates: A name of :data:`owlkit.prompts.TEMPLATES`, or T templates; None for the bare
                names.

        Returns:
            Probabilities [B, C]. Of CLIP's kind of model they sum to 1 over the names, one of which
            is taken to be right; of SigLIP's kind, which has a bias, each name stands for itself.

        Raises:
            ImageError: If ``images`` is no list, or an image cannot be read.
            QueryError: If there is no name, no such templates, or no tokenizer.
        """
        # First, because it is quick and may fail.
        classes = self.encode_classes(names, templates)
        cosines = self.encode_images(images) @ classes.T
        if self.logit_bias is not None:
            return Calibration.linear(self.logit_scale, self.logit_bias).probabilities(cosines)
        return _softmax(np.float32(self.logit_scale) * cosines)


def _unit(vectors: Floats) -> Floats:
    """Scales vectors [..., E] to unit length; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: Floats = vectors / np.maximum(norms, np.float32(1e-12))
    return units


def _softmax(logits: Floats) -> Floats:
    """Probabilities that sum to 1 along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def _number(model: ExportedModel, key: str) -> float:
    value: Any = model.manifest.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(
            f"{model.folder / MANIFEST}: {key}: expected a finite number, found {value!r}"
        )
    return float(value)


def _positive(model: ExportedModel, key: str) -> float:
    value = _number(model, key)
    if value <= 0:
        raise CheckpointError(
            f"{model.folder / MANIFEST}: {key}: expected a number above 0, found {value!r}"
        )
    return value
