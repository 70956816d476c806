import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owlkit.data.augmentation import Augmentation, may_flip
from owlkit.data.random_crop import sample_crop
from owlkit.errors import BoxError
from owlkit.geometry import Preprocessing

PLAIN = {"flip": 0.0, "crop": False}
NO_BOXES = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def random_boxes(height, width, count, seed=0):
    """Boxes of all sizes, some smaller than a pixel, some partly or wholly outside."""
    generator = np.random.default_rng(seed)
    sides = generator.uniform(0, 1, (count, 2)) ** 4 * [width, height]
    corner = generator.uniform(-0.1, 1, (count, 2)) * [width, height]
    boxes = np.hstack([corner, corner + sides]).astype(np.float32)
    return boxes, generator.integers(0, 80, count)


def slow_boxes(boxes, labels, height, width, *, flip, window, minimum, size, fit):
    """One box after another, in pixels."""
    x0, y0, x1, y1 = window
    scales = size[1] / (x1 - x0), size[0] / (y1 - y0)
    scale = max(scales) if fit == "crop" else min(scales)
    new_width, new_height = (max(1, round(side * scale)) for side in (x1 - x0, y1 - y0))
    if fit == "squash":
        new_height, new_width = size
    left, top = round((new_width - size[1]) / 2), round((new_height - size[0]) / 2)
    kept = []
    for (a, b, c, d), label in zip(boxes.astype(float).tolist(), labels.tolist(), strict=True):
        a, b, c, d = max(a, 0), max(b, 0), min(c, width), min(d, height)
        if c <= a or d <= b:
            continue
        if flip:
            a, c = width - c, width - a
        e, f, g, h = max(a, x0), max(b, y0), min(c, x1), min(d, y1)
        if g <= e or h <= f or (g - e) * (h - f) < minimum * (c - a) * (d - b):
            continue
        e, g = ((x - x0) * new_width / (x1 - x0) for x in (e, g))
        f, h = ((y - y0) * new_height / (y1 - y0) for y in (f, h))
        if fit == "crop":
            area = (g - e) * (h - f)
            e, g = (min(max(x - left, 0), size[1]) for x in (e, g))
            f, h = (min(max(y - top, 0), size[0]) for y in (f, h))
            if g <= e or h <= f or (g - e) * (h - f) < (minimum - 1e-9) * area:
                continue
        kept.append(([e, f, g, h], label))
    return np.reshape([box for box, _ in kept], (-1, 4)), [label for _, label in kept]


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.booleans(),
    st.sampled_from([0.0, 0.37, 0.6, 1.0]),
    st.sampled_from(["pad", "squash", "crop"]),
    st.integers(0, 2**40),
)
def test_boxes_match_the_slow_version(height, width, size, flip, minimum, fit, seed):
    boxes, labels = random_boxes(height, width, 12, seed)
    augment = Augmentation(flip=float(flip), min_remaining_area=minimum, fit=fit)
    tile = augment(noise(height, width), boxes, labels, size=size, may_flip=True, seed=seed)
    window = sample_crop(
        height, width, area=(0.3, 1), aspect=(0.75, 1.33), generator=np.random.default_rng(seed)
    )
    expected, expected_labels = slow_boxes(
        boxes, labels, height, width, flip=flip, window=window, minimum=minimum, size=size, fit=fit
    )
    assert tile.image.shape == (*size, 3)
    assert tile.labels.tolist() == expected_labels
    np.testing.assert_allclose(tile.boxes, expected, atol=1e-4)
    assert (tile.image.dtype, tile.boxes.dtype, tile.labels.dtype) == (
        *(np.uint8, np.float32, np.int64),
    )


@pytest.mark.parametrize("fit", ["pad", "squash", "crop"])
def test_pixels_and_boxes_move_together(fit):
    # One white rectangle on black: what is white in the tile is what the box says.
    augment = Augmentation(min_remaining_area=0.0, fit=fit)
    seen = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        x0, y0 = generator.integers(0, 60, 2)
        x1, y1 = x0 + generator.integers(20, 60), y0 + generator.integers(20, 60)
        image = np.zeros((110, 120, 3), np.uint8)
        image[y0:y1, x0:x1] = 255
        box = np.array([[x0, y0, min(x1, 120), min(y1, 110)]], np.float32)
        tile = augment(image, box, np.array([7]), size=240, may_flip=True, seed=seed)
        if not len(tile.boxes):
            continue
        seen += 1
        rows, columns = np.nonzero((tile.image > 128).all(axis=2))
        white = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(tile.boxes[0], white, atol=2)
    assert seen > 50


def test_tiny_boxes_survive_shrinking():
    boxes = np.array([[5, 5, 5.5, 6], [990, 790, 991, 791]], np.float32)
    tile = Augmentation(**PLAIN, min_remaining_area=1.0)(
        np.zeros((800, 1000, 3), np.uint8), boxes, np.arange(2), size=32, may_flip=True, seed=0
    )
    np.testing.assert_allclose(tile.boxes, boxes * 0.032, rtol=0.02)
    assert tile.labels.tolist() == [0, 1]


@pytest.mark.parametrize(("height", "width"), [(3, 5), (5, 3), (4, 4)])
def test_padding_is_grey_below_and_to_the_right(height, width):
    tile = Augmentation(**PLAIN)(
        np.full((height, width, 3), 9, np.uint8), *NO_BOXES, size=60, may_flip=True, seed=0
    )
    rows, columns = 60 * height // max(height, width), 60 * width // max(height, width)
    assert (tile.image[:rows, :columns] == 9).all()
    assert (tile.image[rows:] == 128).all()
    assert (tile.image[:, columns:] == 128).all()


def test_the_grey_of_the_padding_is_a_choice():
    for value, grey in ((0.0, 0), (0.5, 128), (1.0, 255)):
        tile = Augmentation(**PLAIN, pad_value=value)(
            noise(10, 20), *NO_BOXES, size=20, may_flip=True, seed=0
        )
        assert (tile.image[10:] == grey).all()


def test_squashing_fills_the_tile():
    image = noise(60, 40)
    tile = Augmentation(**PLAIN, fit="squash")(image, *NO_BOXES, size=20, may_flip=True, seed=0)
    expected = image.reshape(20, 3, 20, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(tile.image, expected, atol=0.51)


@pytest.mark.parametrize("size", [(20, 20), (20, 30), (40, 20)])
def test_cropping_keeps_the_centre(size):
    image = noise(60, 90)
    tile = Augmentation(**PLAIN, fit="crop")(image, *NO_BOXES, size=size, may_flip=True, seed=0)
    preprocessing = Preprocessing(size=size, fit="crop", resample="bicubic")
    whole = Augmentation(**PLAIN)
    transform = preprocessing.transform((60, 90))
    covered = round(60 * transform.scale[1]), round(90 * transform.scale[0])
    resized = whole(image, *NO_BOXES, size=covered, may_flip=True, seed=0).image
    x, y = (-int(offset) for offset in transform.offset)
    assert np.array_equal(tile.image, resized[y : y + size[0], x : x + size[1]])


def test_enlarging_is_bilinear_about_pixel_centres():
    image = noise(12, 10)
    tile = Augmentation(**PLAIN)(image, *NO_BOXES, size=(36, 30), may_flip=True, seed=0)
    y = ((np.arange(36) + 0.5) / 3 - 0.5).clip(0, 11)[:, None, None]
    x = ((np.arange(30) + 0.5) / 3 - 0.5).clip(0, 9)[None, :, None]
    top, left = (np.floor(at).astype(int).clip(0, last) for at, last in ((y, 10), (x, 8)))
    down, right = y - top, x - left
    top, left = top[:, 0, 0], left[0, :, 0]

    def corner(dy, dx):
        return image[np.ix_(top + dy, left + dx)].astype(float)

    upper = corner(0, 0) * (1 - right) + corner(0, 1) * right
    lower = corner(1, 0) * (1 - right) + corner(1, 1) * right
    expected = upper * (1 - down) + lower * down
    # OpenCV weighs in steps of 1/2048.
    np.testing.assert_allclose(tile.image, expected, atol=1)


def test_shrinking_is_the_mean_of_what_a_pixel_covers():
    image = noise(60, 80)
    tile = Augmentation(**PLAIN)(image, *NO_BOXES, size=(12, 16), may_flip=True, seed=0)
    expected = image.reshape(12, 5, 16, 5, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(tile.image, expected, atol=0.51)


def test_flips_by_probability_and_leave():
    image = noise(8, 8)
    augment = Augmentation(flip=0.3, crop=False)
    flipped = 0
    for seed in range(600):
        tile = augment(image, *NO_BOXES, size=8, may_flip=True, seed=seed)
        is_mirror = np.array_equal(tile.image, image[:, ::-1])
        assert is_mirror or np.array_equal(tile.image, image)
        flipped += is_mirror
        still = augment(image, *NO_BOXES, size=8, may_flip=False, seed=seed)
        assert np.array_equal(still.image, image)
    assert flipped == pytest.approx(180, abs=4 * (600 * 0.21) ** 0.5)


def tile_bytes(augment, seed, size=40, may_flip=True):
    tile = augment(noise(50, 60), *random_boxes(50, 60, 9), size=size, may_flip=may_flip, seed=seed)
    return tile.image.tobytes() + tile.boxes.tobytes() + tile.labels.tobytes()


def test_the_seed_alone_decides():
    settings = {"flip": 0.5, "colour_jitter": 0.7}
    first = Augmentation(**settings)
    tiles = [tile_bytes(first, seed) for seed in range(20)]
    assert len(set(tiles)) == 20
    other = Augmentation(**settings)
    random.seed(1)
    order = list(range(20))[::-1]
    again = {}
    for seed in order:
        tile_bytes(other, seed + 1, size=(31, 17), may_flip=False)
        again[seed] = tile_bytes(other, seed)
    copied = pickle.loads(pickle.dumps(other))
    assert [again[seed] for seed in range(20)] == tiles
    assert [tile_bytes(copied, seed) for seed in range(20)] == tiles


def test_global_random_state_is_left_alone():
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist()
    tile_bytes(Augmentation(colour_jitter=1.0), 5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_colour_jitter_changes_colours_and_not_boxes():
    image = np.full((30, 30, 3), (200, 80, 40), np.uint8)
    boxes, labels = random_boxes(30, 30, 5)
    plain, bright = (
        Augmentation(flip=0.0, colour_jitter=strength)(
            image, boxes, labels, size=20, may_flip=True, seed=2
        )
        for strength in (0.0, 1.0)
    )
    assert (plain.image[0, 0] == image[0, 0]).all()
    assert np.abs(bright.image[0, 0] - image[0, 0].astype(int)).max() > 5
    assert (bright.image[0, 0] == bright.image[-1, 0]).all()


def test_the_input_is_not_written_to():
    image, (boxes, labels) = noise(40, 50), random_boxes(40, 50, 6)
    copies = image.copy(), boxes.copy(), labels.copy()
    for array in (image, boxes, labels):
        array.flags.writeable = False
    augment = Augmentation(flip=1.0, colour_jitter=1.0)
    augment(image, boxes, labels, size=30, may_flip=True, seed=0)
    for array, copy in zip((image, boxes, labels), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(("boxes", "labels"), [((2, 4), 3), ((0, 4), 1), ((2, 5), 2), ((4,), 4)])
def test_boxes_and_labels_must_agree(boxes, labels):
    with pytest.raises(BoxError, match="expected boxes"):
        Augmentation()(
            noise(9, 9),
            np.zeros(boxes, np.float32),
            np.zeros(labels, np.int64),
            size=9,
            may_flip=True,
            seed=0,
        )


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        (256, {"crop": False}, 256),
        ((90, 100), {"crop": False}, 100),
        (100, {}, 211),
        (90, {"crop": False, "fit": "crop"}, 120),
        (100, {"fit": "squash"}, 244),
    ],
)
def test_pixels_needed(size, settings, expected):
    assert Augmentation(**settings).pixels_needed(size) == expected


def test_the_smallest_crop_of_the_pixels_needed_fills_the_tile():
    augment = Augmentation()
    longer = augment.pixels_needed(192)
    generator = np.random.default_rng(0)
    for _ in range(300):
        x0, y0, x1, y1 = sample_crop(
            longer * 3 // 4, longer, area=(0.3, 0.301), aspect=(0.75, 1.33), generator=generator
        )
        assert max(x1 - x0, y1 - y0) >= 191


@pytest.mark.parametrize(
    "name",
    [
        *["left", "Right", "left shoe", "arm (RIGHT)", "left-handed glove", "left_arm", "a left."],
        *["leftmost cup", "right2", "turn right!", "TurnLeft", "LeftArm", "leftArm", "LEFTArm"],
        *["leftward", "rightwards", "lefthand", "right-handed", "lefthanded", "topleft"],
        *["ARMRight", "bottom_Right2", "rightside"],
    ],
)
def test_sides_forbid_flipping(name):
    assert not may_flip(["dog", name, "cat"])


@pytest.mark.parametrize(
    "names",
    [
        *([], ["bright light"], ["copyright", "leftovers"], ["cleft lip"], ["aleft"], ["righté"]),
        *(["BrightLight", "Leftover"], ["upright piano", "playwright"], ["COPYRIGHT"]),
    ],
)
def test_other_words_allow_it(names):
    assert may_flip(iter(names))


def test_importing_is_silent_and_stays_off_the_network():
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise SystemExit('network')\n"
        "socket.getaddrinfo = refuse\n"
        "import owlkit.data.augmentation"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
