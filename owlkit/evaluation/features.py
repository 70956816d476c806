"""Vectors of images and texts, made with a model's own preprocessing and kept on disk.

Shapes: N images of which M can be read, B images of a batch, Q texts, C classes, T templates, D
width of the vectors, E embedding width that images and texts share, Dp width of the pooled vector.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from owlkit.data.image_check import MAX_LOST
from owlkit.encoders.hub import MANIFEST, resolve_folder
from owlkit.encoders.pretrained import read_colours
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError, DatasetError, ImageError, QueryError
from owlkit.evaluation.feature_cache import FeatureCache, Images, hash_images
from owlkit.evaluation.feature_kinds import Kind, image_tower, image_vectors, vector_width
from owlkit.evaluation.zero_shot import average_prompts
from owlkit.geometry import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from owlkit.images import load_image
from owlkit.json_file import read_json
from owlkit.models.dual_encoder import DualEncoder
from owlkit.models.weight_hash import hash_weights
from owlkit.prompts import fill, resolve_templates

# Raised when the same inputs come to give other numbers, so that old files are not found.
_VERSION = 1
# Reading and resizing run beside the model; images wait for it, not the other way round.
_THREADS = 4

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFiles:
    """Image files, read as the predictor reads them.

    Attributes:
        paths: The files.
    """

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    def read(self, index: int) -> NDArray[np.uint8]:
        """One picture, uint8 [h, w, 3]; raises ImageError if it cannot be read."""
        return load_image(self.paths[index])

    def where(self, index: int) -> str:
        """The path of a picture."""
        return str(self.paths[index])


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Vectors of those images that could be read.

    Attributes:
        features: float32 [M, D], on the CPU.
        rows: Which image each is of, ascending, int64 [M].
        unreadable: Where the others come from.
    """

    features: Tensor
    rows: Tensor
    unreadable: tuple[str, ...]

    def check_enough(self) -> None:
        """Refuses to measure where much is missing.

        Raises:
            DatasetError: If none, or more than one image and more than 1 %, cannot be read.
        """
        lost, count = len(self.unreadable), len(self.unreadable) + len(self.rows)
        if not len(self.rows) or (lost > 1 and lost > MAX_LOST * count):
            listed = f", among them {', '.join(self.unreadable[:3])}" if lost else ""
            raise DatasetError(
                f"expected images to measure on, of which at most {MAX_LOST:.0%} cannot be read; "
                f"found that {lost} of {count} cannot{listed}"
            )


class Encoder:
    """Makes vectors with a pair of towers, or with an image tower alone.

    The model is used where it is, in evaluation mode, and left in the mode it was in.

    Args:
        model: The towers.
        preprocessing: How images become the model's input; None takes the one that travels with a
            :class:`~owlkit.DualEncoder`.
        cache: Where vectors are kept; None computes them every time.
        batch_size: Images per pass, at least 1.
        on_images: Called with the number of images of each batch that is done, for progress.

    Raises:
        ConfigError: If the batch size is less than 1, or there is no preprocessing.
    """

    def __init__(
        self,
        model: DualEncoder | VisionTower,
        *,
        preprocessing: Preprocessing | None = None,
        cache: FeatureCache | None = None,
        batch_size: int = 64,
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"expected a batch size of at least 1, found {batch_size}")
        if preprocessing is None and isinstance(model, DualEncoder):
            preprocessing = model.preprocessing
        if preprocessing is None:
            raise ConfigError("an image tower alone needs a preprocessing, found none")
        self.model = model
        self.preprocessing = preprocessing
        self.cache = cache
        self.batch_size = batch_size
        self.on_images = on_images

    @property
    def vision(self) -> VisionTower:
        """The image tower."""
        return image_tower(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def has_text(self) -> bool:
        """Whether texts can be encoded and compared with images."""
        return isinstance(self.model, DualEncoder) and self.model.tokenizer is not None

    def image_identity(self, kind: Kind = "embeddings") -> dict[str, Any]:
        """What image vectors depend on besides the images, ready for JSON."""
        parts: list[nn.Module | None] = [self.vision]
        if isinstance(self.model, DualEncoder) and kind == "embeddings":
            parts.append(self.model.image_projection)
        return {
            "version": _VERSION,
            "kind": kind,
            "weights": hash_weights(*parts),
            "architecture": self.vision.spec,
            "preprocessing": self.preprocessing.to_dict(),
        }

    def images(self, images: Images, kind: Kind = "embeddings") -> EncodedImages:
        """Encodes images; one that cannot be read is logged and left out.

        Kept vectors are made anew as soon as one of the images that they lack can be read.

        Args:
            images: N images of any sizes.
            kind: What they become; see :data:`~owlkit.evaluation.feature_kinds.Kind`.

        Raises:
            TokenError: If layers are asked of a tower that is no vision transformer.
        """

        def lost(found: dict[str, Tensor]) -> list[int]:
            readable = set(found["rows"].tolist())
            return [index for index in range(len(images)) if index not in readable]

        found = self._cached(
            lambda: {**self.image_identity(kind), "data": hash_images(images)},
            lambda: self._encode(images, kind),
            is_current=lambda kept: not any(_can_be_read(images, index) for index in lost(kept)),
        )
        unreadable = tuple(images.where(index) for index in lost(found))
        return EncodedImages(found["features"], found["rows"], unreadable)

    def image(self, image: NDArray[np.uint8]) -> Tensor:
        """Encodes one image, uint8 [h, w, 3], as a unit vector, float32 [E], on the CPU."""
        pixels = torch.from_numpy(self.preprocessing(image)[0][None]).to(self.device)
        with torch.inference_mode(), evaluating(self.model):
            return image_vectors(self.model, pixels, "embeddings")[0].float().cpu()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Encodes texts as unit vectors, float32 [Q, E], on the CPU.

        Raises:
            QueryError: If the model has no text tower or no tokenizer.
        """
        model, tokenizer = self._pair()
        distinct = list(dict.fromkeys(texts))

        def made_of() -> dict[str, Any]:
            # What the tower sees are ids: another tokenizer shows in them.
            ids, mask = tokenizer(distinct)
            return {
                "version": _VERSION,
                "kind": "texts",
                "weights": hash_weights(model.text),
                "architecture": [model.text.spec, _settings(model.text.model.config.to_dict())],
                "data": [ids.tolist(), mask.sum(dim=1).tolist()],
            }

        def compute() -> dict[str, Tensor]:
            with torch.inference_mode(), evaluating(model):
                return {"features": model.encode_strings(distinct).float().cpu()}

        features = self._cached(made_of, compute)["features"]
        row = {text: index for index, text in enumerate(distinct)}
        return features[[row[text] for text in texts]]

    def class_prompts(self, names: Sequence[str], templates: str | Sequence[str]) -> Tensor:
        """One unit vector a class, the mean of those of its prompts, float32 [C, E].

        Args:
            names: C class names.
            templates: A name of :data:`owlkit.prompts.TEMPLATES`, or T templates.

        Raises:
            QueryError: If there are no such templates, or the model has no text tower.
        """
        filled = resolve_templates(templates)
        prompts = [fill(template, name) for name in names for template in filled]
        embeds = self.texts(prompts)
        return average_prompts(embeds.reshape(len(names), len(filled), -1))

    def check_text(self) -> None:
        """Refuses a model that no texts can be compared with, before hours are spent.

        Raises:
            QueryError: If the model has no text tower or no tokenizer.
        """
        self._pair()

    def _pair(self) -> tuple[DualEncoder, Tokenizer]:
        if not isinstance(self.model, DualEncoder):
            raise QueryError("expected a model with a text tower, found an image tower alone")
        if self.model.tokenizer is None:
            raise QueryError("expected a model with a tokenizer, found one saved without")
        return self.model, self.model.tokenizer

    def _cached(
        self,
        made_of: Callable[[], dict[str, Any]],
        compute: Callable[[], dict[str, Tensor]],
        is_current: Callable[[dict[str, Tensor]], bool] = lambda tensors: True,
    ) -> dict[str, Tensor]:
        if self.cache is None:
            return compute()
        return self.cache.get(made_of(), compute, is_current=is_current)

    def _encode(self, images: Images, kind: Kind) -> dict[str, Tensor]:
        features, rows = [torch.zeros(0, vector_width(self.model, kind))], []
        with torch.inference_mode(), evaluating(self.model):
            for indices, pixels in self._batches(images):
                if pixels is not None:
                    on_device = torch.from_numpy(pixels).to(self.device)
                    found = image_vectors(self.model, on_device, kind)
                    features.append(found.float().cpu())
                rows += indices
        return {"features": torch.cat(features), "rows": torch.tensor(rows, dtype=torch.int64)}

    def _batches(self, images: Images) -> Iterator[tuple[list[int], NDArray[np.float32] | None]]:
        """Positions and pixels [B, 3, H, W] of what can be read; the next ones are made meanwhile.

        Pixels are None where nothing of a batch can be read.
        """

        def prepare(index: int) -> NDArray[np.float32] | None:
            try:
                return self.preprocessing(images.read(index))[0]
            except ImageError as error:
                _logger.warning("going on without an image that cannot be read: %s", error)
                return None

        starts = range(0, len(images), self.batch_size)
        parts = [range(start, min(start + self.batch_size, len(images))) for start in starts]
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: list[list[Future[NDArray[np.float32] | None]]] = []
            for number in range(len(parts) + 1):
                if number < len(parts):
                    waiting.append([pool.submit(prepare, index) for index in parts[number]])
                if number > 0:
                    done = [future.result() for future in waiting.pop(0)]
                    made = {
                        index: pixels
                        for index, pixels in zip(parts[number - 1], done, strict=True)
                        if pixels is not None
                    }
                    yield list(made), np.stack(list(made.values())) if made else None
                    self.on_images(len(done))


def pooled_features(
    model: DualEncoder | VisionTower,
    source: Images,
    *,
    cache: FeatureCache | None = None,
    batch_size: int = 64,
    on_images: Callable[[int], None] = lambda count: None,
) -> NDArray[np.float32]:
    """What a locked image tower makes of the images of a training, once and for all.

    Args:
        model: A pair of towers, whose preprocessing is used.
        source: N images.
        cache: Where the vectors are kept.
        batch_size: Images per pass.
        on_images: Called with the number of images of each batch that is done.

    Returns:
        float32 [N, Dp]; NaN in the rows of images that cannot be read, which are logged.

    Raises:
        DatasetError: If more than one image and more than 1 % cannot be read.
    """
    encoder = Encoder(model, cache=cache, batch_size=batch_size, on_images=on_images)
    encoded = encoder.images(source, "pooled")
    encoded.check_enough()
    pooled = np.full((len(source), encoder.vision.pooled_width), np.nan, dtype=np.float32)
    pooled[encoded.rows.numpy()] = encoded.features.numpy()
    return pooled


def load_encoder(folder_or_id: str | Path) -> tuple[DualEncoder | VisionTower, Preprocessing]:
    """Loads the pair of towers of a folder, or its image tower if it has no such pair.

    Of an image tower alone the preprocessing is what its folder says; where that says little, the
    image is resized to cover the native input and its centre kept, in ImageNet's colours.

    Args:
        folder_or_id: Folder or hub id of owlkit, timm or Hugging Face.

    Returns:
        The model, in evaluation mode on the CPU, and how its images are made.

    Raises:
        CheckpointError: If it is missing or damaged, or holds no image tower.
    """
    folder = resolve_folder(folder_or_id)
    own = (folder / MANIFEST).is_file()
    described = read_json(folder / (MANIFEST if own else "config.json"))
    if described.get("kind") == "dual_encoder" or (not own and "text_config" in described):
        pair = DualEncoder.from_pretrained(folder)
        return pair, pair.preprocessing
    tower = VisionTower.from_pretrained(folder)
    if own:
        return tower, Preprocessing.from_dict(described["preprocessing"])
    mean, std = read_colours(folder) or (IMAGENET_MEAN, IMAGENET_STD)
    return tower, Preprocessing(
        size=tower.image_size, fit="crop", resample="bicubic", mean=mean, std=std
    )


def _can_be_read(images: Images, index: int) -> bool:
    try:
        images.read(index)
    except ImageError:
        return False
    return True


def _settings(config: dict[str, Any]) -> str:
    """A transformers configuration without what says where and with what it was saved."""
    passing = ("_name_or_path", "transformers_version")
    return str({key: value for key, value in sorted(config.items()) if key not in passing})


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and afterwards every part of it back into its own."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
