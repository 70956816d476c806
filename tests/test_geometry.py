"""Preprocessing against the golden fixtures and slow oracles; boxes against pixels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage.transform import resize

from owlkit.errors import BoxError, CheckpointError, ConfigError, ImageError
from owlkit.geometry import (
    CLIP_MEAN,
    CLIP_STD,
    Fit,
    ImageTransform,
    Preprocessing,
    owlv2_preprocessing,
    owlvit_preprocessing,
)
from owlkit.images import load_image
from owlkit.resample import Kernel

COMBINATIONS = [(fit, kernel) for fit in get_args(Fit) for kernel in get_args(Kernel)]
GOLDEN = "02b_owl_processing"


def plain(size: tuple[int, int], fit: Fit, kernel: Kernel, pad_value: float = 0.0) -> Preprocessing:
    """Preprocessing that leaves colours in [0, 1]."""
    return Preprocessing(
        size=size, fit=fit, resample=kernel, pad_value=pad_value, mean=(0, 0, 0), std=(1, 1, 1)
    )


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def skimage_resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Returns scikit-image's result, [H, W, 3] in [0, 1]."""
    found = resize(image, size, order=1, anti_aliasing=True)  # type: ignore[no-untyped-call]
    return np.asarray(found)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(
    ("key", "preprocessing", "tolerance"),
    [
        pytest.param("owlvit_pil", owlvit_preprocessing(64, "hf"), 1e-5, id="OWL-ViT, HF"),
        pytest.param("owlv2_slow4", owlvit_preprocessing(64, "scenic"), 1e-4, id="OWL-ViT, scenic"),
        pytest.param("owlv2_scenic", owlv2_preprocessing(64, "scenic"), 1e-4, id="OWLv2, scenic"),
        pytest.param("owlv2_pil5", owlv2_preprocessing(64, "hf"), 1e-4, id="OWLv2, HF"),
    ],
)
def test_pixels_equal_the_original_projects(
    golden: Callable[[str], Path],
    key: str,
    preprocessing: Preprocessing,
    tolerance: float,
    index: int,
) -> None:
    folder = golden(GOLDEN)
    image = np.load(folder / "inputs.npz")[f"image{index}"]
    expected = np.load(folder / "pixel_values.npz")[f"{key}_{index}"]
    pixels, transform = preprocessing(image)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels, expected, atol=tolerance)
    assert transform == preprocessing.transform(image.shape[:2])


def test_owlv2_on_a_photograph_equals_scikit_image(data_dir: Path) -> None:
    image = load_image(data_dir / "samples" / "groceries.jpg")
    height, width = image.shape[:2]
    side = max(height, width)
    padded = np.full((side, side, 3), 0.5, np.float32)
    padded[:height, :width] = image / np.float32(255)
    expected = skimage_resize(padded, (96, 96))
    expected = ((expected - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)
    pixels, _ = owlv2_preprocessing(96, "scenic")(image)
    np.testing.assert_allclose(pixels, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(30, 47), (49, 30), (64, 64), (29, 200), (225, 224)])
def test_crop_equals_clip_evaluation(size: tuple[int, int]) -> None:
    """Shortest side to 24, longest floored; then torchvision's centre, rounded to even."""
    image = noise(*size)
    short = min(size)
    height, width = (int(24 * side / short) for side in size)
    resized = Image.fromarray(image)
    if resized.height - height > 2 * max(0, resized.width - width):  # the order of Pillow 13
        resized = resized.resize((resized.width, height), Image.Resampling.BICUBIC)
    resized = resized.resize((width, resized.height), Image.Resampling.BICUBIC)
    resized = resized.resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - 24) / 2.0), round((width - 24) / 2.0)
    expected = np.asarray(resized)[top : top + 24, left : left + 24].transpose(2, 0, 1) / 255
    pixels, transform = plain((24, 24), "crop", "bicubic")(image)
    np.testing.assert_allclose(pixels, expected, atol=2.001 / 255)
    assert np.mean(np.abs(pixels - expected) > 1e-6) < 0.01
    assert transform.offset == (-left, -top)


@pytest.mark.parametrize(
    ("size", "kernel", "expected"),
    [
        pytest.param((480, 640), "bilinear", (48, 64), id="exact"),
        pytest.param((427, 640), "bilinear", (42, 64), id="scenic's evaluator rounds 42.7 down"),
        pytest.param((427, 640), "bicubic", (43, 64), id="bicubic rounds 42.7 to the nearest"),
        pytest.param((8000, 50), "bilinear", (64, 1), id="never less than a pixel"),
        pytest.param((50, 8000), "bicubic", (1, 64), id="never less than a pixel, wide"),
        pytest.param((49, 3), "bilinear", (64, 3), id="49 * (64 / 49) is below 64 in floats"),
    ],
)
def test_pad_last_sizes(size: tuple[int, int], kernel: Kernel, expected: tuple[int, int]) -> None:
    white = np.full((*size, 3), 255, np.uint8)
    pixels, _ = plain((64, 64), "pad", kernel, pad_value=0.25)(white)
    inside = np.zeros((64, 64), bool)
    inside[: expected[0], : expected[1]] = True
    np.testing.assert_allclose(pixels, np.where(inside, 1, 0.25)[None].repeat(3, 0), atol=1e-6)


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (120, 90), (10, 100)])
def test_pad_gaussian_to_an_input_that_is_not_square(size: tuple[int, int]) -> None:
    """The canvas takes the input's aspect ratio: 48x36 is 4:3."""
    image = noise(*size)
    canvas = max(size[0], round(size[1] * 4 / 3)), max(size[1], round(size[0] * 3 / 4))
    padded = np.full((*canvas, 3), 0.5)
    padded[: size[0], : size[1]] = image / 255
    expected = skimage_resize(padded, (48, 36)).transpose(2, 0, 1)
    pixels, _ = plain((48, 36), "pad", "gaussian", pad_value=0.5)(image)
    np.testing.assert_allclose(pixels, expected, atol=2e-6)


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (40, 31)])
@pytest.mark.parametrize(("fit", "kernel"), COMBINATIONS)
def test_boxes_land_where_the_pixels_land(fit: Fit, kernel: Kernel, size: tuple[int, int]) -> None:
    """A white rectangle's edges, found in the output at half brightness, are its box."""
    height, width = size
    x0, y0, x1, y1 = (
        int(f * n) for f, n in ((0.4, width), (0.3, height), (0.6, width), (0.7, height))
    )
    image = np.zeros((*size, 3), np.uint8)
    image[y0:y1, x0:x1] = 255
    pixels, transform = plain((96, 80), fit, kernel)(image)
    box = transform.apply([[x0, y0, x1, y1]])[0] * (80, 96, 80, 96)
    for profile, low, high in (
        (pixels[0].max(axis=0), box[0], box[2]),
        (pixels[0].max(axis=1), box[1], box[3]),
    ):
        bright = np.flatnonzero(profile >= 0.5)
        assert bright[0] == pytest.approx(low, abs=1.01)
        assert bright[-1] + 1 == pytest.approx(high, abs=1.01)


image_sides = st.one_of(
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    st.tuples(st.integers(1, 50), st.integers(1, 8000)),
    st.sampled_from([(1, 1), (8000, 50), (50, 8000)]),
)


@pytest.mark.parametrize(("fit", "kernel"), COMBINATIONS)
@settings(max_examples=60, deadline=None)
@given(
    size=image_sides,
    swap=st.booleans(),
    input_size=st.tuples(st.integers(1, 1100), st.integers(1, 1100)),
    fractions=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=4),
)
def test_invert_undoes_apply(
    fit: Fit,
    kernel: Kernel,
    size: tuple[int, int],
    swap: bool,
    input_size: tuple[int, int],
    fractions: list[tuple[float, float, float, float]],
) -> None:
    height, width = size[::-1] if swap else size
    boxes = np.array(fractions) * (width, height, width, height)
    transform = plain(input_size, fit, kernel).transform((height, width))
    found = transform.invert(transform.apply(boxes))
    assert np.abs(found - boxes).max() < 0.5
    assert (found >= 0).all()
    assert (found <= (width, height, width, height)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (8000, 50), (50, 8000)])
@pytest.mark.parametrize(("fit", "kernel"), COMBINATIONS)
def test_extreme_shapes_give_the_colour_of_the_image(
    fit: Fit, kernel: Kernel, size: tuple[int, int]
) -> None:
    image = np.empty((*size, 3), np.uint8)
    image[:] = (255, 0, 51)
    pixels, _ = plain((24, 40), fit, kernel, pad_value=1.0)(image)
    assert pixels.shape == (3, 24, 40)
    # Red equals the padding; the others lie between the image's colour and the padding.
    np.testing.assert_allclose(pixels[0], 1, atol=1e-6)
    assert pixels[1:].min() >= -1e-6
    assert pixels[1:].max() <= 1 + 1e-6
    if fit != "pad":
        np.testing.assert_allclose(pixels[2], 0.2, atol=1e-6)


def test_invert_clips_to_the_image_only_if_asked() -> None:
    transform = plain((64, 64), "pad", "gaussian").transform((30, 60))
    whole_input = [[-0.5, 0, 1, 1]]
    np.testing.assert_allclose(transform.invert(whole_input), [[0, 0, 60, 30]])
    np.testing.assert_allclose(transform.invert(whole_input, clip=False), [[-30, 0, 60, 60]])


def test_apply_by_hand() -> None:
    """Order is x, y; sizes are height, width; offsets are in input pixels."""
    transform = ImageTransform(
        image_size=(10, 20), input_size=(40, 50), scale=(2, 3), offset=(5, -4)
    )
    found = transform.apply([[1, 2, 3, 4]])
    np.testing.assert_allclose(found, [[7 / 50, 2 / 40, 11 / 50, 8 / 40]], rtol=1e-6)
    assert found.dtype == np.float32
    assert transform.apply(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(
    "boxes", [[1, 2, 3, 4], [[1, 2, 3]], [], [["a", 2, 3, 4]], [[1], [1, 2]], None]
)
def test_wrong_boxes_are_refused(boxes: Any) -> None:
    transform = plain((4, 4), "squash", "bicubic").transform((4, 4))
    for move in (transform.apply, transform.invert):
        with pytest.raises(BoxError, match=r"expected boxes \[N, 4\]"):
            move(boxes)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 0, 3), np.uint8),
    ],
)
def test_wrong_images_are_refused(image: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"expected an image uint8 \[h, w, 3\]; found"):
        plain((4, 4), "squash", "bicubic")(image)
    with pytest.raises(ImageError, match="at least 1x1"):
        plain((4, 4), "squash", "bicubic").transform((0, 4))


def test_presets_are_the_published_ones() -> None:
    owlvit, owlv2 = owlvit_preprocessing(768), owlv2_preprocessing((960, 512))
    assert (owlvit.size, owlvit.fit, owlvit.resample) == ((768, 768), "squash", "bicubic")
    assert (owlv2.size, owlv2.fit, owlv2.resample) == ((960, 512), "pad", "gaussian")
    assert owlv2.pad_value == 0.0
    assert owlvit_preprocessing(840, "scenic") == owlv2_preprocessing(840, "scenic")
    assert owlv2_preprocessing(960, "scenic").pad_value == 0.5
    assert owlvit.mean == owlv2.mean == CLIP_MEAN
    assert owlvit.std == owlv2.std == CLIP_STD
    for preset in (owlvit_preprocessing, owlv2_preprocessing):
        with pytest.raises(ConfigError, match="expected 'hf' or 'scenic'; found 'jax'"):
            preset(768, "jax")  # type: ignore[arg-type]


def test_settings_survive_json() -> None:
    original = Preprocessing(
        size=(48, 64), fit="crop", resample="bilinear", pad_value=0.5, mean=(0, 1, 2), std=(3, 4, 5)
    )
    text = json.dumps(original.to_dict())
    restored = Preprocessing.from_dict(json.loads(text))
    assert restored == original
    assert hash(restored) == hash(original)


def test_all_faults_of_a_checkpoint_are_listed() -> None:
    bad = {
        "size": [48.0, 64],
        "fit": "stretch",
        "resample": ["bicubic"],
        "pad_valeu": 0.5,
        "mean": [0, float("nan"), 1],
        "std": [1, 1, 0],
    }
    with pytest.raises(CheckpointError) as caught:
        Preprocessing.from_dict(bad)
    for part in (
        "pad_value: missing",
        "pad_valeu: unknown key; did you mean pad_value?",
        "size: expected two whole numbers above 0, height and width; found [48.0, 64]",
        "fit: expected one of ('squash', 'pad', 'crop'); found 'stretch'",
        "resample: expected one of",
        "mean: expected three numbers; found [0, nan, 1]",
        "std: expected three numbers above 0",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "squash"])
def test_settings_that_are_no_object_are_refused(data: Any) -> None:
    with pytest.raises(CheckpointError, match="expected an object"):
        Preprocessing.from_dict(data)


@pytest.mark.parametrize(
    "change",
    [
        {"size": (0, 4)},
        {"size": (True, 4)},
        {"size": 4},
        {"pad_value": 1.5},
        {"pad_value": float("inf")},
        {"pad_value": True},
        {"std": (1.0, 1.0)},
    ],
    ids=str,
)
def test_wrong_settings_are_refused_at_birth(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"size": (4, 4), "fit": "pad", "resample": "gaussian"}
    with pytest.raises(ConfigError, match=next(iter(change))):
        Preprocessing(**(good | change))
