"""Examples show what their boxes say, come in the promised order, and depend on the index alone."""

import logging
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from owlkit.data.augmentation import Augmentation
from owlkit.data.examples import DetectionExamples
from owlkit.errors import DatasetError
from tests.data.pictures import COLOURS, make_dataset, make_examples, make_source

THREE = [[0, 1], [2], [1, 2, 0], [], [1]]


def names_of(example) -> list[str]:
    """The one label of each box."""
    assert (example.labels.sum(axis=1) == 1).all()
    return [example.texts[column] for column in example.labels.nonzero()[1]]


def files_of(example) -> list[int]:
    """The numbers of the files that an example is made of."""
    return [int(Path(name).stem) for name in example.source.split(", ")]


def assert_same(a, b) -> None:
    for name in ("image", "labels", "boxes"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.texts, a.source, a.corrupt) == (b.texts, b.source, b.corrupt)


def assert_boxes_show_their_colour(example) -> None:
    side = example.image.shape[0]
    for box, name in zip(example.boxes, names_of(example), strict=True):
        x0, y0, x1, y1 = box * side
        middle = example.image[
            int(y0 + (y1 - y0) * 0.3) : int(y0 + (y1 - y0) * 0.7) + 1,
            int(x0 + (x1 - x0) * 0.3) : int(x0 + (x1 - x0) * 0.7) + 1,
        ]
        np.testing.assert_allclose(middle.mean(axis=(0, 1)), COLOURS[name], atol=40)


@pytest.mark.parametrize("mosaic", [(1,), (0, 1), (0, 0, 1)])
def test_boxes_lie_on_their_objects_after_flip_crop_and_mosaic(tmp_path, mosaic):
    examples = make_examples(
        make_dataset(tmp_path, THREE), augmentation=Augmentation(), size=150, mosaic=mosaic
    )
    found = 0
    for index in range(12):
        example = examples[index]
        assert example.image.shape == (150, 150, 3)
        assert example.image.dtype == np.uint8
        assert example.boxes.dtype == np.float32
        assert ((example.boxes >= 0) & (example.boxes <= 1)).all()
        assert_boxes_show_their_colour(example)
        found += len(example.boxes)
    assert found > 5


def test_boxes_follow_a_picture_that_is_decoded_at_a_fraction(tmp_path):
    # 640 pixels for a tile of 50 are decoded at an eighth, 80 x 50.
    dataset = make_dataset(tmp_path, [[0, 1, 2]], size=(639, 395), suffix="jpg")
    example = make_examples(dataset, size=50)[0]
    assert_boxes_show_their_colour(example)
    wanted = dataset.images[0].boxes / 639
    np.testing.assert_allclose(example.boxes, wanted, atol=0.02)


def test_an_example_depends_on_seed_and_index_alone(tmp_path):
    dataset = make_dataset(tmp_path, THREE)
    options = {"augmentation": Augmentation(), "mosaic": (0.4, 0.3, 0.3)}
    first = make_examples(dataset, **options, seed=3)
    forward = [first[index] for index in range(12)]
    again = pickle.loads(pickle.dumps(make_examples(dataset, **options, seed=3)))
    for index in reversed(range(12)):
        assert_same(again[index], forward[index])
    other = make_examples(dataset, **options, seed=4)
    assert [other[index].source for index in range(12)] != [e.source for e in forward]


def test_each_image_leads_once_an_epoch_in_a_new_order(tmp_path):
    dataset = make_dataset(tmp_path, [[0]] * 7)
    for mosaic in ((1,), (0.5, 0.5)):
        examples = make_examples(dataset, mosaic=mosaic)
        leading = [files_of(examples[index])[0] for index in range(28)]
        epochs = [tuple(leading[start : start + 7]) for start in range(0, 28, 7)]
        assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
        assert len(set(epochs)) == 4


def test_mosaics_are_of_different_images_in_the_given_proportions(tmp_path):
    examples = make_examples(make_dataset(tmp_path, [[0]] * 10), mosaic=(2, 0, 1, 1))
    counts = Counter()
    beside = Counter()
    for index in range(400):
        files = files_of(examples[index])
        counts[len(files)] += 1
        assert len(set(files)) == min(len(files), 10)
        if len(files) == 9:
            beside.update(files[1:])
    assert set(counts) == {1, 9, 16}
    assert counts[1] == pytest.approx(200, abs=40)
    assert counts[9] == pytest.approx(100, abs=35)
    assert max(beside.values()) < 1.5 * min(beside.values())


def test_one_image_fills_a_mosaic_alone(tmp_path):
    example = make_examples(make_dataset(tmp_path, [[0]]), mosaic=(0, 1))[0]
    assert files_of(example) == [0] * 4
    assert example.images_read == 4


def test_sources_take_turns_by_weight_and_each_walks_through_its_images(tmp_path):
    weights = (1.0, 2.5, 0.5)
    folders = [tmp_path / name for name in "abc"]
    sources = [
        make_source(make_dataset(folder, [[0]] * (3 + number)), weight=weight)
        for number, (folder, weight) in enumerate(zip(folders, weights, strict=True))
    ]
    examples = DetectionExamples(
        sources, augmentation=Augmentation(crop=False), size=48, mosaic=(0.5, 0.5)
    )
    led: dict[str, list[int]] = {folder.name: [] for folder in folders}
    for index in range(160):
        paths = [Path(name) for name in examples[index].source.split(", ")]
        (name,) = {path.parent.name for path in paths}
        led[name].append(int(paths[0].stem))
        for folder, weight in zip(folders, weights, strict=True):
            assert abs(len(led[folder.name]) - (index + 1) * weight / 4) < 2
    for count, leading in zip((3, 4, 5), led.values(), strict=True):
        for start in range(0, len(leading) - count + 1, count):
            assert sorted(leading[start : start + count]) == list(range(count))


def test_an_unreadable_file_is_replaced_named_and_logged_once(tmp_path, caplog):
    dataset = make_dataset(tmp_path, [[0], [1], [2]])
    broken = dataset.images[1].path
    broken.write_bytes(broken.read_bytes()[:40])
    examples = make_examples(dataset, mosaic=(0, 1))
    with caplog.at_level(logging.WARNING):
        found = [examples[index] for index in range(3)]
    for example in found:
        assert set(example.corrupt) == {str(broken)}
        assert example.images_read == 4 + len(example.corrupt)
        assert 1 not in files_of(example)
        assert_boxes_show_their_colour(example)
    assert len(caplog.records) == 1
    assert str(broken) in caplog.text


def test_nothing_but_unreadable_files(tmp_path):
    dataset = make_dataset(tmp_path, [[0], [1]])
    for record in dataset.images:
        record.path.unlink()
    with pytest.raises(DatasetError, match=r"found 100 .* last one .*00\d.png"):
        make_examples(dataset)[0]


def test_pictures_whose_labels_say_left_or_right_are_not_mirrored(tmp_path):
    boxes = [[[0, 0, 10, 20]]] * 4
    dataset = make_dataset(
        tmp_path,
        [[0], [1], [2], [2]],
        names=("left glove", "green", "blue"),
        boxes=boxes,
        absent=[[], [], [], [0]],
    )
    examples = make_examples(dataset, augmentation=Augmentation(flip=1.0, crop=False))
    at_left = {}
    for index in range(4):
        example = examples[index]
        at_left[files_of(example)[0]] = bool(example.boxes[0, 0] == 0)
    assert at_left == {0: True, 1: False, 2: False, 3: True}


def test_boxes_beyond_the_limit_and_their_classes_are_left_out(tmp_path):
    dataset = make_dataset(tmp_path, [[0, 0, 1, 2]])
    example = make_examples(dataset, max_boxes=2)[0]
    assert names_of(example) == ["red", "red"]
    assert example.texts == ("red",), "green and blue are in view, so they are no negatives"


def test_a_class_that_was_cropped_away_is_not_asked_for(tmp_path):
    names = ("red", "green", "blue")
    dataset = make_dataset(tmp_path, [[0, 1]], names=names, size=(64, 64))
    examples = make_examples(dataset, augmentation=Augmentation(crop_area=(0.3, 0.4)), size=32)
    lost = 0
    for index in range(40):
        example = examples[index]
        boxed = set(names_of(example))
        assert set(example.texts) == boxed | {"blue"}
        lost += len(boxed) < 2
    assert lost > 10


def test_negatives_of_a_mosaic(tmp_path):
    names = tuple("abcdefg")
    known = {
        "labels": [[0], [1], [0], []],
        "absent": [[1, 3], [4], [], [3]],
        "unknown": [[5], [3], [], []],
        "names": names,
    }
    (tmp_path / "sets").mkdir()
    federated = make_dataset(tmp_path / "sets" / "a", exhaustive=False, **known)
    source = make_source(federated, random_negatives=0)
    options = {"augmentation": Augmentation(crop=False), "size": 48, "mosaic": (0, 1)}
    example = DetectionExamples([source], **options)[0]
    assert set(example.texts[:2]) == {"a", "b"}
    assert set(example.texts[2:]) == {"d", "e"}, "absent from one tile and boxed in none"
    exhaustive = make_dataset(tmp_path / "sets" / "b", **known)
    example = DetectionExamples([make_source(exhaustive)], **options)[0]
    assert set(example.texts) == set("abceg"), "d and f are unknown somewhere"


def test_instances_on_one_place_become_one_with_all_labels(tmp_path):
    box = [4, 4, 30, 20]
    dataset = make_dataset(tmp_path, [[0, 1, 2]], boxes=[[box, box, [0, 0, 9, 9]]])
    example = make_examples(dataset)[0]
    np.testing.assert_array_equal(example.labels, [[1, 1, 0], [0, 0, 1]])
    apart = make_examples(dataset, merge_iou=None)[0]
    assert names_of(apart) == ["red", "green", "blue"]


def test_boxes_whose_query_found_no_place_are_dropped(tmp_path):
    dataset = make_dataset(tmp_path, [[0, 1, 0]])
    source = make_source(dataset, max_queries=1)
    example = DetectionExamples([source], augmentation=Augmentation(crop=False), size=48)[0]
    assert example.texts == ("red",)
    assert example.boxes.shape == (2, 4)


def test_a_picture_without_boxes(tmp_path):
    example = make_examples(make_dataset(tmp_path, [[]]))[0]
    assert example.boxes.shape == (0, 4)
    assert example.labels.shape == (0, 3)
    assert example.texts == tuple(COLOURS)


def test_no_images():
    with pytest.raises(DatasetError, match="at least one data set"):
        make_examples()


def test_a_source_without_images(tmp_path):
    good, empty = make_dataset(tmp_path, [[0]]), make_dataset(tmp_path, [])
    source = make_source(good)
    with pytest.raises(DatasetError, match="data set 1: expected at least one image"):
        DetectionExamples(
            [source, type(source)(empty, source.queries)], augmentation=Augmentation(), size=48
        )


def test_a_group_of_examples_asks_in_the_same_words(tmp_path):
    dataset = make_dataset(tmp_path, THREE)
    source = make_source(dataset, templates="ensemble81")
    options = {"augmentation": Augmentation(crop=False), "size": 48}
    grouped = DetectionExamples([source], template_group=4, **options)
    texts = [set(grouped[index].texts) for index in range(8)]
    assert all(texts[0] == other for other in texts[:4])
    assert all(texts[4] == other for other in texts[4:])
    assert texts[0] != texts[4]
    alone = DetectionExamples([source], **options)
    assert len(set(map(frozenset, (alone[index].texts for index in range(4))))) > 1
