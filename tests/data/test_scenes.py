import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from owlkit.data.scenes import BASE, CLASS_NAMES, COLOURS, NOVEL, SHAPES, TIERS, draw_scene
from owlkit.data.scenes.captions import write_captions
from owlkit.data.scenes.layout import GROUP, arrange, choose_group, choose_validation
from owlkit.data.scenes.painting import paint
from owlkit.errors import DatasetError

PAIR = re.compile(f"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
RANGES = [(1, 1), (1, 3), (1, 8)]


def colours(labels: np.ndarray) -> np.ndarray:
    return labels // len(SHAPES)


def test_novel_pairs_are_a_balanced_quarter():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 64
    assert sorted([*BASE, *NOVEL]) == list(range(64))
    words = [CLASS_NAMES[label].split() for label in NOVEL]
    for part, expected in ((0, tuple(COLOURS)), (1, SHAPES)):
        assert Counter(pair[part] for pair in words) == dict.fromkeys(expected, 2)


@pytest.mark.parametrize("objects", RANGES)
def test_groups_share_colours_and_run_through_all_shapes(objects):
    counts = set()
    for seed in range(60):
        labels = choose_group(np.random.default_rng(seed), objects)
        counts.add(labels.shape[1])
        for column in labels.T:
            assert len(set(colours(column))) == 1
            assert sorted(column % len(SHAPES)) == list(range(len(SHAPES)))
        assert max(Counter(colours(labels[0])).values()) <= 2
        assert all(len(set(scene)) == len(scene) for scene in labels), "a pair twice in a scene"
        assert np.isin(labels, NOVEL).any(axis=1).sum() <= GROUP / 2
    assert counts == set(range(objects[0], objects[1] + 1))


@pytest.mark.parametrize("objects", [(1, 3), (1, 8)])
def test_about_60_percent_of_training_scenes_have_no_novel_pair(objects):
    groups = [choose_group(np.random.default_rng(seed), objects) for seed in range(400)]
    novel = [np.isin(scene, NOVEL).any() for labels in groups for scene in labels]
    assert 0.55 < 1 - np.mean(novel) < 0.67


@pytest.mark.parametrize("objects", RANGES)
def test_validation_objects_are_base_or_novel_equally_often(objects):
    rng = np.random.default_rng(0)
    scenes = [choose_validation(rng, objects) for _ in range(1500)]
    assert all(len(set(labels)) == len(labels) for labels in scenes)
    labels = np.concatenate(scenes)
    assert np.isin(labels, NOVEL).mean() == pytest.approx(0.5, abs=0.04)
    # The place of an object must not tell: the first one is hidden most.
    first = np.array([labels[0] for labels in scenes])
    assert np.isin(first, NOVEL).mean() == pytest.approx(0.5, abs=0.06)
    assert len(set(labels)) == 64


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_scenes_depend_on_their_arguments_only(tier, split):
    first = draw_scene(TIERS[tier], split, 11, seed=5)
    draw_scene(TIERS[tier], split, 12, seed=5)
    again = draw_scene(TIERS[tier], split, 11, seed=5)
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(again, name))
    others = [(split, 12, 5), (split, 11, 6), ("val" if split == "train" else "train", 11, 5)]
    for other, index, seed in others:
        assert (draw_scene(TIERS[tier], other, index, seed=seed).image != first.image).any()


def test_neighbours_in_training_share_a_group():
    scenes = [draw_scene(TIERS["easy"], "train", index) for index in range(16)]
    assert [scene.group for scene in scenes] == [0] * 8 + [1] * 8
    for start in (0, 8):
        found = [sorted(colours(scene.labels)) for scene in scenes[start : start + 8]]
        assert found == [found[0]] * 8
    assert draw_scene(TIERS["easy"], "val", 0).group is None


@pytest.mark.parametrize("tier", TIERS)
def test_boxes_and_labels_fit_together(tier):
    size = TIERS[tier].size
    for index in range(24):
        scene = draw_scene(TIERS[tier], "val", index)
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.boxes.dtype == np.float32
        assert len(scene.boxes) == len(scene.labels) == len(scene.areas) > 0
        x0, y0, x1, y1 = scene.boxes.T
        assert min(x0.min(), y0.min()) >= 0
        assert max(x1.max(), y1.max()) <= size
        assert (scene.areas > 0).all()
        assert (scene.areas <= (x1 - x0) * (y1 - y0) + 0.01).all()


def nearest_colour(colour: np.ndarray) -> int:
    palette = np.array(list(COLOURS.values()))
    return int(np.linalg.norm(palette - colour, axis=1).argmin())


@pytest.mark.parametrize(("tier", "right"), [("easy", 1.0), ("hard", 0.95)])
def test_objects_are_painted_in_their_colour_where_they_are_said_to_be(tier, right):
    found = []
    for index in range(60):
        rng = np.random.default_rng(index)
        labels = choose_validation(rng, TIERS[tier].objects)
        objects = arrange(rng, labels.tolist(), TIERS[tier])
        image = paint(rng, objects, TIERS[tier])
        assert [one.label for one in objects] == labels.tolist()
        for place, one in enumerate(objects):
            visible = one.coverage == 1
            for other in objects[place + 1 :]:
                visible &= other.coverage == 0
            if visible.sum() > 5:
                found.append(nearest_colour(image[visible].mean(axis=0)) == colours(one.label))
    assert len(found) > 90
    assert np.mean(found) >= right


@pytest.mark.parametrize("tier", TIERS)
def test_no_object_is_hidden_or_outside_by_more_than_the_tier_allows(tier):
    least = 1.0
    for index in range(40):
        rng = np.random.default_rng([1, index])
        labels = choose_validation(rng, TIERS[tier].objects)
        objects = arrange(rng, labels.tolist(), TIERS[tier])
        owner = np.full((TIERS[tier].size,) * 2, -1)
        for place, one in enumerate(objects):
            owner[one.coverage >= 0.5] = place
        for place, one in enumerate(objects):
            share = (owner == place).sum() / one.outline_area
            least = min(least, share)
            # Counting whole pixels is off by some of the outline's.
            assert share > 1 - TIERS[tier].hidden - 3 / np.sqrt(one.outline_area)
    assert (least < 0.8) == (tier == "hard"), "objects overlap in the hard tier, and only there"


def test_a_tier_without_room_is_an_error():
    tight = replace(TIERS["easy"], objects=(3, 3), radius=(30, 31))
    with pytest.raises(DatasetError, match=r"room for 3 objects of radius \(30, 31\) in 64 x 64"):
        draw_scene(tight, "val", 0)


def test_image_size_is_a_parameter():
    scene = draw_scene(replace(TIERS["hard"], size=96), "val", 0)
    assert scene.image.shape == (96, 96, 3)


@pytest.mark.parametrize("tier", TIERS)
def test_captions_name_exactly_the_objects(tier):
    orders = set()
    for index in range(48):
        scene = draw_scene(TIERS[tier], "train", index)
        names = sorted(CLASS_NAMES[label] for label in scene.labels)
        assert len(set(scene.captions)) == 2
        for caption in scene.captions:
            found = [" ".join(pair) for pair in PAIR.findall(caption)]
            assert sorted(found) == names
            orders.add(tuple(found))
    assert len(orders) > 48, "the order changes within a scene"


def test_captions_are_sentences():
    captions = write_captions(np.random.default_rng(0), ["red star"], 7)
    assert sorted(captions) == sorted(
        [
            "red star",
            "a red star",
            "a picture of a red star",
            "a photo of a red star",
            "there is a red star",
            "a red star in a picture",
            "an image that shows a red star",
        ]
    )
    three = write_captions(np.random.default_rng(0), ["red star", "blue bar", "pink ring"], 7)
    assert any(re.fullmatch(r"a \w+ \w+, a \w+ \w+ and a \w+ \w+", caption) for caption in three)
