"""Pairs show what their captions say, come in the promised order, and depend on the index alone."""

import json
import logging
import pickle
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from owlkit.data.augmentation import Augmentation
from owlkit.data.pairs import CaptionedImage, CaptionExamples, collate_pairs, read_captioned_images
from owlkit.errors import ConfigError, DatasetError
from tests.data.pictures import AS_IT_IS


def save_picture(path: Path, *, red: int, left: int = 0) -> None:
    """A picture that can be told by its red; the left half has some green, if asked for."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :, 2] = red
    image[:, :8, 1] = left
    cv2.imwrite(str(path), image)


def make_images(folder: Path, groups: str) -> list[CaptionedImage]:
    """One picture for each letter, its group; picture i is 2 i red and has two captions."""
    images = []
    for number, group in enumerate(groups):
        path = folder / f"{number}.png"
        save_picture(path, red=2 * number)
        captions = (f"number {number}", f"the {number}")
        images.append(CaptionedImage(path, captions, group))
    return images


def make_examples(images: list[CaptionedImage], **options: object) -> CaptionExamples:
    return CaptionExamples(images, AS_IT_IS, size=8, **options)  # type: ignore[arg-type]


def number_of(pair: object) -> int:
    return int(Path(pair.source).stem)  # type: ignore[attr-defined]


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def test_lines_become_images(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", red=1)
    captions = write_lines(
        tmp_path / "captions.jsonl",
        {"file": "a.png", "captions": ["one", "two"], "group": 7},
        {"file": "a.png", "captions": ["three"]},
    )
    assert read_captioned_images(captions, tmp_path) == (
        CaptionedImage(tmp_path / "a.png", ("one", "two"), "7"),
        CaptionedImage(tmp_path / "a.png", ("three",), None),
    )


@pytest.mark.parametrize(
    "line",
    [
        [1],
        "text",
        3,
        {"file": "a.png"},
        {"captions": ["a"]},
        {"file": "a.png", "captions": []},
        {"file": "a.png", "captions": "a cat"},
        {"file": "a.png", "captions": ["a cat", 3]},
        {"file": None, "captions": ["a cat"]},
    ],
    ids=str,
)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, line: object) -> None:
    save_picture(tmp_path / "a.png", red=1)
    good = {"file": "a.png", "captions": ["a"]}
    captions = write_lines(tmp_path / "captions.jsonl", good, line)
    with pytest.raises(DatasetError, match=re.escape(f"{captions}:2: expected `file`")):
        read_captioned_images(captions, tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    with pytest.raises(DatasetError, match=r"captions\.jsonl: no such file; data\.captions"):
        read_captioned_images(captions, tmp_path)
    captions.write_text("\n \n")
    with pytest.raises(DatasetError, match="one JSON object a line, found none"):
        read_captioned_images(captions, tmp_path)
    captions.write_text("no json\n")
    with pytest.raises(DatasetError, match="found 'no json'"):
        read_captioned_images(captions, tmp_path)
    write_lines(captions, *({"file": f"{n}.png", "captions": ["a"]} for n in range(3)))
    save_picture(tmp_path / "0.png", red=0)
    missing = re.escape(str(tmp_path / "1.png"))
    with pytest.raises(DatasetError, match=f"2 of 3 images are missing, first {missing}"):
        read_captioned_images(captions, tmp_path)


def test_a_pair_is_an_image_with_one_of_its_captions(tmp_path: Path) -> None:
    images = make_images(tmp_path, "aaabbb")
    examples = make_examples(images)
    said = Counter()
    for index in range(60):
        pair = examples[index]
        number = number_of(pair)
        assert pair.image.shape == (8, 8, 3)
        assert pair.image.dtype == np.uint8
        assert (pair.image == [2 * number, 0, 0]).all()
        assert pair.text in images[number].captions
        assert pair.corrupt == ()
        said[pair.text] += 1
    assert len(said) == 12, "each caption has its turn"


@pytest.mark.parametrize("group_size", [1, 2])
def test_a_pair_depends_on_seed_and_index_alone(tmp_path: Path, group_size: int) -> None:
    images = make_images(tmp_path, "aaabbbccc")
    options = {"group_size": group_size, "seed": 3}
    first = make_examples(images, **options)
    forward = [first[index] for index in range(20)]
    again = pickle.loads(pickle.dumps(make_examples(images, **options)))
    for index in reversed(range(20)):
        pair = again[index]
        assert (pair.text, pair.source) == (forward[index].text, forward[index].source)
        np.testing.assert_array_equal(pair.image, forward[index].image)
    other = make_examples(images, group_size=group_size, seed=4)
    assert [other[index].source for index in range(20)] != [pair.source for pair in forward]


def test_each_image_comes_once_an_epoch_in_a_new_order(tmp_path: Path) -> None:
    examples = make_examples(make_images(tmp_path, "abcdefg"))
    numbers = [number_of(examples[index]) for index in range(28)]
    epochs = [tuple(numbers[start : start + 7]) for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_look_alikes_stand_together_and_each_group_comes_once_an_epoch(tmp_path: Path) -> None:
    groups = "abcdabcdabcdaab"
    examples = make_examples(make_images(tmp_path, groups), group_size=3)
    orders, seen = set(), Counter()
    for epoch in range(20):
        order = []
        for position in range(4):
            start = 3 * (4 * epoch + position)
            numbers = [number_of(examples[start + slot]) for slot in range(3)]
            assert len(set(numbers)) == 3, "different images"
            (group,) = {groups[number] for number in numbers}
            order.append(group)
            seen.update(numbers)
        assert sorted(order) == list("abcd")
        orders.add(tuple(order))
    assert len(orders) > 10
    assert len(seen) == len(groups), "large groups take turns"


def test_groups_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    images = make_images(tmp_path, "aaab")
    with pytest.raises(ConfigError, match="group_size is 2, but group 'b' has 1 images"):
        make_examples(images, group_size=2)
    images.append(CaptionedImage(tmp_path / "0.png", ("a",), None))
    with pytest.raises(ConfigError, match=r"needs a group for every image; .*0\.png has none"):
        make_examples(images, group_size=2)
    assert number_of(make_examples(images)[0]) in range(4)


def test_an_unreadable_image_is_replaced_named_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = make_images(tmp_path, "aaa")
    images[1].path.write_bytes(b"no picture")
    examples = make_examples(images)
    with caplog.at_level(logging.WARNING):
        pairs = [examples[index] for index in range(12)]
    faulty = [pair for pair in pairs if pair.corrupt]
    assert len(faulty) == 4, "once an epoch"
    for pair in pairs:
        number = number_of(pair)
        assert number != 1
        assert set(pair.corrupt) <= {str(images[1].path)}
        assert (pair.image == [2 * number, 0, 0]).all()
        assert pair.text in images[number].captions
    assert len(caplog.records) == 1
    assert str(images[1].path) in caplog.text


def test_nothing_but_unreadable_images_is_an_error(tmp_path: Path) -> None:
    images = make_images(tmp_path, "aa")
    for image in images:
        image.path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"found 100 one after another.*[01]\.png"):
        make_examples(images)[0]


def test_pictures_whose_caption_says_left_or_right_are_not_mirrored(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", red=0, left=200)
    captions = ("a green half", "green on the left")
    image = CaptionedImage(tmp_path / "a.png", captions, None)
    mirror = Augmentation(flip=1.0, crop=False)
    examples = CaptionExamples([image], mirror, size=16)
    sides = {pair.text: bool(pair.image[0, 0, 1]) for pair in map(examples.__getitem__, range(20))}
    assert sides == {captions[0]: False, captions[1]: True}


def test_pairs_become_a_batch(tmp_path: Path) -> None:
    images = make_images(tmp_path, "abcd")
    images[2].path.write_bytes(b"no picture")
    examples = make_examples(images)
    pairs = [examples[index] for index in range(4)]
    batch = collate_pairs(pairs)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert len(batch) == 4
    for row, pair in enumerate(pairs):
        np.testing.assert_array_equal(batch.images[row].numpy(), pair.image.transpose(2, 0, 1))
    assert batch.texts == tuple(pair.text for pair in pairs)
    assert batch.sources == tuple(pair.source for pair in pairs)
    assert set(batch.corrupt) == {str(images[2].path)}
    assert batch.images_read == 4 + len(batch.corrupt)
    part = batch[1:3]
    assert (part.texts, part.sources) == (batch.texts[1:3], batch.sources[1:3])
    assert torch.equal(part.images, batch.images[1:3])
