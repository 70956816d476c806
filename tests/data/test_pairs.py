"""Pairs show what their captions say, come in the promised order, and depend on the index alone."""

import logging
import pickle
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from owlkit.data.augmentation import Augmentation
from owlkit.data.captions import CaptionedImage
from owlkit.data.class_images import ClassImages, ImageArray
from owlkit.data.pair_sources import CaptionSource, ClassSource, caption_identity
from owlkit.data.pairs import PairExamples, collate_pairs
from owlkit.data.view_recipes import simclr_recipe
from owlkit.data.views import ViewAugmentation
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


def make_examples(images: list[CaptionedImage], **options: object) -> PairExamples:
    return PairExamples(CaptionSource(images), AS_IT_IS, size=8, **options)  # type: ignore[arg-type]


def number_of(pair: object) -> int:
    return int(Path(pair.source).stem)  # type: ignore[attr-defined]


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
        assert pair.identity == caption_identity(pair.text)
        assert pair.views is pair.pooled is None
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
    examples = PairExamples(CaptionSource([image]), mirror, size=16)
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
    assert batch.identities.tolist() == [pair.identity for pair in pairs]
    assert batch.views is batch.pooled is None
    assert set(batch.corrupt) == {str(images[2].path)}
    assert batch.images_read == 4 + len(batch.corrupt)
    part = batch[1:3]
    assert (part.texts, part.sources) == (batch.texts[1:3], batch.sources[1:3])
    assert torch.equal(part.images, batch.images[1:3])


def test_classes_give_pairs_whose_class_is_their_identity() -> None:
    pixels = np.repeat(np.arange(6, dtype=np.uint8), 8 * 8 * 3).reshape(6, 8, 8, 3)
    labels = np.array([0, 1, 2, 0, 1, 2])
    images = ClassImages(("owl", "cat", "dog"), labels, ImageArray(Path("x.npz"), pixels))
    examples = PairExamples(ClassSource(images, ("a {}", "the {}")), AS_IT_IS, size=8)
    said = Counter()
    for index in range(60):
        pair = examples[index]
        number = int(pair.image[0, 0, 0])
        assert pair.identity == labels[number]
        assert pair.source == f"x.npz[{number}]"
        assert pair.text.split()[1] == images.names[labels[number]]
        said[pair.text] += 1
    assert len(said) == 6
    with pytest.raises(ConfigError, match=r"needs a group for every image; x\.npz\[0\] has none"):
        PairExamples(ClassSource(images, ("a {}",)), AS_IT_IS, size=8, group_size=2)


def test_two_views_are_of_the_same_picture_and_leave_the_pair_as_it_was(tmp_path: Path) -> None:
    images = make_images(tmp_path, "abc")
    bare = make_examples(images)
    viewed = pickle.loads(
        pickle.dumps(make_examples(images, views=ViewAugmentation(simclr_recipe(12))))
    )
    for index in range(6):
        pair = viewed[index]
        assert pair.views.shape == (2, 12, 12, 3)
        np.testing.assert_array_equal(pair.views, viewed[index].views)
        np.testing.assert_array_equal(pair.image, bare[index].image)
        assert pair.text == bare[index].text
    batch = collate_pairs([viewed[index] for index in range(3)])
    assert batch.views.shape == (3, 2, 3, 12, 12)
    np.testing.assert_array_equal(batch.views[1, 1, 0], viewed[1].views[1, :, :, 0])


def test_pooled_images_are_not_read_and_come_in_the_same_order(tmp_path: Path) -> None:
    images = make_images(tmp_path, "aabbcc")
    pooled = np.arange(6 * 3, dtype=np.float32).reshape(6, 3)
    options = {"group_size": 2, "seed": 5}
    wanted = [make_examples(images, **options)[index] for index in range(12)]
    for image in images:
        image.path.unlink()
    examples = make_examples(images, pooled=pooled, **options)
    pairs = [examples[index] for index in range(12)]
    for pair, other in zip(pairs, wanted, strict=True):
        assert pair.image is None
        assert (pair.source, pair.text) == (other.source, other.text)
        np.testing.assert_array_equal(pair.pooled, pooled[number_of(pair)])
    batch = collate_pairs(pairs)
    assert batch.images is None
    assert (batch.pooled.dtype, batch.pooled.shape) == (torch.float32, (12, 3))
    with pytest.raises(
        ConfigError, match="one row for each of 6 images and no views; found 5 rows"
    ):
        make_examples(images, pooled=pooled[:5])
    with pytest.raises(ConfigError, match="found 6 rows and views"):
        make_examples(images, pooled=pooled, views=ViewAugmentation(simclr_recipe(8)))
