"""How an image becomes the model's input, and how boxes come back from it.

Shapes: h, w pixels of the original image; H, W pixels of the model input; N boxes.
"""

import difflib
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.errors import BoxError, CheckpointError, ConfigError, ImageError
from owlkit.resample import Axis, Kernel, resample_image

Fit = Literal["squash", "pad", "crop"]
Convention = Literal["hf", "scenic"]
RGB = tuple[float, float, float]

CLIP_MEAN: RGB = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: RGB = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's CLIP, 2021, https://github.com/openai/CLIP; OWL-ViT and OWLv2 use the same."""

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)
"""ImageNet's training images; DINO, DINOv2 and most supervised backbones."""

SIGLIP_MEAN: RGB = (0.5, 0.5, 0.5)
SIGLIP_STD: RGB = (0.5, 0.5, 0.5)
"""SigLIP, 2023, https://arxiv.org/abs/2303.15343: pixels in [-1, 1]."""


@dataclass(frozen=True)
class ImageTransform:
    """Where one image lies in the model input.

    Args:
        image_size: (h, w) of the original image, in pixels.
        input_size: (H, W) of the model input, in pixels.
        scale: (sx, sy), input pixels per image pixel.
        offset: (ox, oy), the image's top-left corner in input pixels; negative where it is cropped.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def apply(self, boxes: ArrayLike) -> NDArray[np.float32]:
        """Moves boxes from the original image to the model input.

        Boxes are not clipped: what a crop cuts off lies outside [0, 1].

        Args:
            boxes: [N, 4] xyxy, pixels of the original image.

        Returns:
            float32 [N, 4] xyxy, as fractions of the model input's width and height.

        Raises:
            BoxError: If the boxes are not numbers of shape [N, 4].
        """
        pixels = _as_boxes(boxes) * _twice(self.scale) + _twice(self.offset)
        return (pixels / _twice(self.input_size[::-1])).astype(np.float32)

    def invert(self, boxes: ArrayLike, clip: bool = True) -> NDArray[np.float32]:
        """Moves boxes from the model input back to the original image; undoes :meth:`apply`.

        Args:
            boxes: [N, 4] xyxy, as fractions of the model input's width and height.
            clip: Limit x to [0, w] and y to [0, h].

        Returns:
            float32 [N, 4] xyxy, pixels of the original image.

        Raises:
            BoxError: If the boxes are not numbers of shape [N, 4].
        """
        pixels = _as_boxes(boxes) * _twice(self.input_size[::-1])
        pixels = (pixels - _twice(self.offset)) / _twice(self.scale)
        if clip:
            pixels = pixels.clip(0, _twice(self.image_size[::-1]))
        return pixels.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Makes the model input from an image; travels with the weights.

    How the image fits:

    - ``"squash"``: height and width are resized independently; the aspect ratio is lost.
    - ``"pad"``: the aspect ratio is kept, the image lies at the top left, the rest is
      ``pad_value``. With ``"gaussian"`` the image is padded before it is resized, as by OWLv2, and
      its size is not rounded to pixels. Otherwise it is resized first, to at least one pixel;
      ``"bilinear"`` rounds that size down, as scenic's evaluator does [0], ``"bicubic"`` to the
      nearest pixel. (Scenic computes in float32, which costs it one pixel of some sizes.)
    - ``"crop"``: the image is resized to cover the input, the longer side rounded down, and its
      centre is kept, as in CLIP's evaluation [1].

    The kernels are described at :func:`owlkit.resample.resample_image`.

    - [0]: Scenic, 2021, https://github.com/google-research/scenic, projects/owl_vit
    - [1]: CLIP, 2021, https://github.com/openai/CLIP/blob/main/clip/clip.py

    Args:
        size: (H, W) of the model input, in pixels.
        fit: How the image fits into that size.
        resample: How its pixels are resized.
        pad_value: Grey of the padding, in [0, 1], before normalisation.
        mean: Subtracted from the RGB values in [0, 1].
        std: Divides what is left.

    Raises:
        ConfigError: If a value is not one of those; lists every fault.
    """

    size: tuple[int, int]
    fit: Fit
    resample: Kernel
    pad_value: float = 0.0
    mean: RGB = CLIP_MEAN
    std: RGB = CLIP_STD

    def __post_init__(self) -> None:
        faults = _value_faults(vars(self))
        if faults:
            raise ConfigError("\n  ".join(["preprocessing:", *faults]))

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ImageTransform]:
        """Resizes and normalises one image.

        Args:
            image: uint8 [h, w, 3], RGB.

        Returns:
            The model input, float32 [3, H, W], normalised, and where the image lies in it.

        Raises:
            ImageError: If the image is not uint8 [h, w, 3] with at least one pixel, or is longer
                than :data:`owlkit.resample.MAX_SIDE`.
        """
        shape, dtype = list(image.shape), image.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ImageError(f"expected an image uint8 [h, w, 3]; found {dtype} {shape}")
        rows, columns = self._axes((shape[0], shape[1]))
        pixels = resample_image(
            image,
            rows,
            columns,
            kernel=self.resample,
            fill=self.pad_value,
            mean=self.mean,
            std=self.std,
        )
        return pixels, self.transform((shape[0], shape[1]))

    def transform(self, image_size: tuple[int, int]) -> ImageTransform:
        """Returns where an image of (h, w) pixels lies in the model input.

        Raises:
            ImageError: If the image has no pixels.
        """
        if min(image_size) < 1:
            raise ImageError(f"expected an image size of at least 1x1; found {image_size}")
        rows, columns = self._axes(image_size)
        return ImageTransform(
            image_size=image_size,
            input_size=self.size,
            scale=(columns.scale, rows.scale),
            offset=(-float(columns.start), -float(rows.start)),
        )

    def _axes(self, image_size: tuple[int, int]) -> tuple[Axis, Axis]:
        """Returns how the rows and the columns of an image are resized, padded or cropped."""
        if self.fit == "squash":
            rows, columns = map(Axis.stretch, image_size, self.size)
        elif self.fit == "crop":
            rows, columns = _crop_axes(image_size, self.size)
        elif self.resample == "gaussian":
            rows, columns = _pad_first_axes(image_size, self.size)
        else:
            rows, columns = _pad_last_axes(
                image_size, self.size, nearest=self.resample == "bicubic"
            )
        return rows, columns

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON-ready values; :meth:`from_dict` reads them back."""
        return {
            "size": list(self.size),
            "fit": self.fit,
            "resample": self.resample,
            "pad_value": self.pad_value,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Preprocessing":
        """Reads settings written by :meth:`to_dict`; every key must be there.

        Raises:
            CheckpointError: If keys are missing or unknown, or values are wrong; lists every fault.
        """
        if not isinstance(data, Mapping):
            raise CheckpointError(f"preprocessing: expected an object; found {reprlib.repr(data)}")
        faults = [*_key_faults(data), *_value_faults(data)]
        if faults:
            raise CheckpointError("\n  ".join(["preprocessing:", *faults]))
        height, width = data["size"]
        return cls(
            size=(height, width),
            fit=data["fit"],
            resample=data["resample"],
            pad_value=float(data["pad_value"]),
            mean=_rgb(data["mean"]),
            std=_rgb(data["std"]),
        )


def owlvit_preprocessing(
    size: int | tuple[int, int], convention: Convention = "hf"
) -> Preprocessing:
    """Returns the preprocessing of OWL-ViT (768 for B/32 and B/16, 840 for L/14).

    Args:
        size: Side of the square input, or (H, W), in pixels.
        convention: ``"hf"`` squashes with Pillow's bicubic as Hugging Face's port does;
            ``"scenic"`` pads with grey 0.5 as the authors' notebooks do.

    Raises:
        ConfigError: If the size is not positive or the convention is unknown.
    """
    if convention == "hf":
        return Preprocessing(size=_pair(size), fit="squash", resample="bicubic")
    return _scenic_preprocessing(size, convention)


def owlv2_preprocessing(
    size: int | tuple[int, int], convention: Convention = "hf"
) -> Preprocessing:
    """Returns the preprocessing of OWLv2 (960 for B/16, 1008 for L/14).

    Args:
        size: Side of the square input, or (H, W), in pixels.
        convention: ``"hf"`` pads with black, as transformers does since 5.0 (until 4.57 it padded
            with grey 0.5); ``"scenic"`` pads with grey 0.5 as the authors' notebooks do.

    Raises:
        ConfigError: If the size is not positive or the convention is unknown.
    """
    if convention == "hf":
        return Preprocessing(size=_pair(size), fit="pad", resample="gaussian", pad_value=0.0)
    return _scenic_preprocessing(size, convention)


def _scenic_preprocessing(size: int | tuple[int, int], convention: str) -> Preprocessing:
    if convention != "scenic":
        raise ConfigError(f"convention: expected 'hf' or 'scenic'; found {convention!r}")
    return Preprocessing(size=_pair(size), fit="pad", resample="gaussian", pad_value=0.5)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _crop_axes(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[Axis, Axis]:
    """Covers the input; the centre is rounded to the even pixel, as torchvision does."""
    (h, w), (H, W) = image_size, size
    new, old = (H, h) if h * W <= w * H else (W, w)
    rows, columns = (max(out, side * new // old) for side, out in ((h, H), (w, W)))
    return (
        Axis(h, h, rows, round((rows - H) / 2), H),
        Axis(w, w, columns, round((columns - W) / 2), W),
    )


def _pad_first_axes(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[Axis, Axis]:
    """Pads the image to the input's aspect ratio; the padded canvas is resized."""
    (h, w), (H, W) = image_size, size
    new, old = (H, h) if h * W >= w * H else (W, w)
    return (
        Axis.stretch(h, H, canvas=max(h, round(H * old / new))),
        Axis.stretch(w, W, canvas=max(w, round(W * old / new))),
    )


def _pad_last_axes(
    image_size: tuple[int, int], size: tuple[int, int], *, nearest: bool
) -> tuple[Axis, Axis]:
    """Resizes the image to fit inside the input; what is left over is padding."""
    (h, w), (H, W) = image_size, size
    # Whole numbers: h * (H / h) can fall short of H and lose a pixel.
    new, old = (H, h) if h * W >= w * H else (W, w)
    half = old // 2 if nearest else 0
    rows, columns = (min(out, max(1, (side * new + half) // old)) for side, out in ((h, H), (w, W)))
    return Axis(h, h, rows, 0, H), Axis(w, w, columns, 0, W)


def _as_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """Returns boxes as float64 [N, 4], or raises BoxError."""
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BoxError(f"expected boxes [N, 4] of numbers; found {reprlib.repr(boxes)}") from error
    if array.ndim != 2 or array.shape[1] != 4:
        raise BoxError(f"expected boxes [N, 4]; found shape {list(array.shape)}")
    return array


def _twice(pair: tuple[float, float]) -> NDArray[np.float64]:
    """Returns (x, y, x, y)."""
    return np.array(pair * 2, np.float64)


def _rgb(values: Any) -> RGB:
    red, green, blue = map(float, values)
    return red, green, blue


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list_of(length: int, check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def is_list(value: object) -> bool:
        return isinstance(value, list | tuple) and len(value) == length and all(map(check, value))

    return is_list


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "size": (
        _is_list_of(2, lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0),
        "two whole numbers above 0, height and width",
    ),
    "fit": (lambda v: v in get_args(Fit), f"one of {get_args(Fit)}"),
    "resample": (lambda v: v in get_args(Kernel), f"one of {get_args(Kernel)}"),
    "pad_value": (lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]"),
    "mean": (_is_list_of(3, _is_number), "three numbers"),
    "std": (_is_list_of(3, lambda v: _is_number(v) and v > 0), "three numbers above 0"),
}


def _value_faults(values: Mapping[str, Any]) -> list[str]:
    """Describes every wrong value among the known keys."""
    return [
        f"{key}: expected {expected}; found {reprlib.repr(values[key])}"
        for key, (is_good, expected) in _EXPECTED.items()
        if key in values and not is_good(values[key])
    ]


def _key_faults(data: Mapping[Any, Any]) -> list[str]:
    """Describes every missing and every unknown key."""
    faults = [f"{key}: missing" for key in _EXPECTED if key not in data]
    for key in data:
        if key not in _EXPECTED:
            near = difflib.get_close_matches(str(key), _EXPECTED, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            faults.append(f"{key}: unknown key{hint}")
    return faults
