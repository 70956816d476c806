"""The PyTorch backend of a predictor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from owlkit.backend import PatchArrays
from owlkit.calibration import Calibration
from owlkit.encoders.cpu_inference import quicken_inference
from owlkit.errors import ConfigError, QueryError
from owlkit.geometry import Preprocessing
from owlkit.models.convention import ConventionName
from owlkit.models.detector import OwlDetector
from owlkit.models.heads import score_queries, unit_embeddings
from owlkit.models.identity import detector_identity
from owlkit.ops import cxcywh_to_xyxy, xyxy_to_cxcywh
from owlkit.structures import ImageFeatures

Precision = Literal["float32", "bfloat16", "float16"]


class TorchBackend:
    """Runs an :class:`~owlkit.OwlDetector` for a predictor.

    The image tower, where nearly all time goes, runs in the given precision; heads and text tower
    stay in float32, so boxes keep their pixels.

    Args:
        detector: The model; it is moved, switched to evaluation mode and, on a CPU, prepared by
            :func:`~owlkit.encoders.cpu_inference.quicken_inference`.
        device: For example ``"cpu"`` or ``"cuda:1"``; None takes a GPU if there is one.
        precision: Of the image tower's weights and activations.

    Raises:
        ConfigError: If the precision is unknown or the device is not there.
    """

    def __init__(
        self,
        detector: OwlDetector,
        *,
        device: str | None = None,
        precision: Precision = "float32",
    ) -> None:
        if precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise ConfigError(f"precision must be one of {known}; found {precision!r}")
        self.device = find_device(device)
        dtype = getattr(torch, precision)
        # Before the weights are rounded: half precision answers to the same query sets.
        self._identity = None if dtype == torch.float32 else detector_identity(detector)
        self._precision = precision
        self.detector = detector.to(self.device).eval()
        self.detector.vision.to(dtype)
        self.detector.vision.suit_attention(self.device, dtype)
        if self.device.type == "cpu":
            quicken_inference(self.detector)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        *,
        device: str | None = None,
        precision: Precision = "float32",
        convention: ConventionName | None = None,
    ) -> "TorchBackend":
        """Loads a detector; see ``OwlDetector.from_pretrained``."""
        detector = OwlDetector.from_pretrained(folder_or_id, convention)
        return cls(detector, device=device, precision=precision)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become this model's input."""
        return self.detector.preprocessing

    @property
    def identity(self) -> str:
        """A hash of weights, preprocessing and convention, made when first asked for."""
        if self._identity is None:
            self._identity = detector_identity(self.detector)
        return self._identity

    @property
    def precision(self) -> str:
        """Of the image tower."""
        return self._precision

    @property
    def calibration(self) -> Calibration | None:
        """What turns logits into probabilities; None for the plain sigmoid."""
        return self.detector.calibration

    @property
    def threshold(self) -> float | None:
        """Where scores are best cut, in [0, 1]; None if nobody measured it."""
        return self.detector.threshold

    @torch.inference_mode()
    def encode_images(self, pixel_values: NDArray[np.float32]) -> list[ImageFeatures]:
        """Encodes preprocessed images [B, 3, H, W]; returns the features of each."""
        pixels = torch.from_numpy(pixel_values).to(self.device)
        features = self.detector.encode_images(pixels)
        if len(pixels) == 1:
            return [features]
        # Copies, so that a scene that is kept does not keep its whole batch.
        return [features[index : index + 1].clone() for index in range(len(pixels))]

    @torch.inference_mode()
    def attention(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where the last block looks in preprocessed images [B, 3, H, W]: [B, n, h, w].

        Raises:
            TokenError: If the image tower is no vision transformer.
        """
        pixels = torch.from_numpy(pixel_values).to(self.device)
        return _array(self.detector.vision.attention_maps(pixels))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encodes Q texts as unit vectors [Q, E]."""
        units: NDArray[np.float32] = (
            unit_embeddings(self.detector.encode_strings(texts)).float().cpu().numpy()
        )
        return units

    @torch.inference_mode()
    def boxes(self, features: ImageFeatures) -> NDArray[np.float32]:
        """One image's boxes: xyxy in [0, 1] of the model input [P, 4]."""
        boxes: NDArray[np.float32] = cxcywh_to_xyxy(features.boxes[0]).cpu().numpy()
        return boxes

    @torch.inference_mode()
    def score(self, features: ImageFeatures, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """One image's logits [P, Q] for unit vectors or means of unit vectors [Q, E].

        Raises:
            QueryError: If the vectors or the features are another model's, of another width.
        """
        width = features.class_embeds.shape[-1]
        if queries.shape[1] != width:
            raise QueryError(
                f"expected queries as wide as the image's embeddings, {width}; found "
                f"{queries.shape[1]}: they are of another model"
            )
        logits = score_queries(
            features.class_embeds,
            features.logit_shift,
            features.logit_scale,
            torch.from_numpy(queries).to(features.class_embeds),
        )
        result: NDArray[np.float32] = logits[0].float().cpu().numpy()
        return result

    def to_arrays(self, features: ImageFeatures) -> PatchArrays:
        """One image's features as numpy arrays; on the CPU they share memory."""
        objectness = features.objectness
        return PatchArrays(
            class_embeds=_array(features.class_embeds[0]),
            boxes=self.boxes(features),
            logit_shift=_array(features.logit_shift[0, :, 0]),
            logit_scale=_array(features.logit_scale[0, :, 0]),
            objectness=None if objectness is None else _array(objectness[0]),
        )

    def from_arrays(self, arrays: PatchArrays) -> ImageFeatures:
        """Undoes :meth:`to_arrays`."""
        objectness = arrays.objectness
        return ImageFeatures(
            class_embeds=self._tensor(arrays.class_embeds)[None],
            boxes=xyxy_to_cxcywh(self._tensor(arrays.boxes))[None],
            logit_shift=self._tensor(arrays.logit_shift)[None, :, None],
            logit_scale=self._tensor(arrays.logit_scale)[None, :, None],
            objectness=None if objectness is None else self._tensor(objectness)[None],
        )

    def _tensor(self, array: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


def find_device(name: str | None) -> torch.device:
    """The named device, or a GPU if there is one.

    Raises:
        ConfigError: If there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device: expected one of this machine, found {name!r}: {reason}"
        ) from error
    return device
