"""The container a user gets back: checks at birth, indexing and converters."""

import builtins
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ZeroShotObjectDetectionPipeline

import owlkit
from owlkit.detections import Detections
from owlkit.errors import DetectionsError, MissingDependencyError

BOXES = [[0.9, 1.2, 10.7, 20.999], [5.0, 5.0, 6.5, 7.25], [-3.7, -0.2, 0.0, 4.5]]


def make(**changes) -> Detections:
    values = {
        "boxes": BOXES,
        "scores": [0.25, 0.9, 0.5],
        "labels": [1, 0, 1],
        "names": ["dog", "cat", "dog"],
        "image_size": (40, 30),
        "source": "photo.jpg",
    }
    return Detections(**(values | changes))


def test_types_and_copies():
    boxes = np.array(BOXES)
    found = make(boxes=boxes, labels=np.array([1, 0, 1], np.int16))
    boxes[:] = 0
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.labels.dtype == np.int64
    assert found.names == ("dog", "cat", "dog")
    assert found.boxes[0, 2] == np.float32(10.7)
    assert len(found) == 3
    assert "photo.jpg" not in repr(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((3, 5))}, r"boxes of shape \[N, 4\], found \[3, 5\]"),
        ({"boxes": np.zeros(4)}, r"found \[4\]"),
        ({"boxes": np.zeros((0, 5)), "scores": [], "labels": [], "names": []}, r"found \[0, 5\]"),
        ({"boxes": [["a"] * 4] * 3}, "boxes to be an array of numbers"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, 1]]}, "boxes to be an array of numbers"),
        ({"scores": [0.5, 0.5]}, r"scores of shape \[3\], one per box, found \[2\]"),
        ({"labels": [[1], [0], [1]]}, r"labels of shape \[3\], one per box, found \[3, 1\]"),
        ({"labels": [0.0, 1.0, 2.0]}, "labels to be integers, found float64"),
        ({"labels": [0, -1, 0]}, "labels of at least 0, found -1 at row 1"),
        ({"names": ["dog"]}, "3 names, one per box, found 1"),
        ({"names": "dog"}, "sequence of strings, found 'dog'"),
        ({"names": None}, "sequence of strings, found None"),
        ({"names": ["dog", 3, "cat"]}, "names to be strings, found 3 at row 1"),
        ({"boxes": [*BOXES[:2], [5, 0, 4, 9]]}, "x0 <= x1 and y0 <= y1, found .* at row 2"),
        ({"boxes": [[0, 5, 4, 4.9], *BOXES[1:]]}, "y0 <= y1, found .* at row 0"),
        ({"boxes": [BOXES[0], [0, 0, np.nan, 1], BOXES[2]]}, "finite boxes, found .* at row 1"),
        ({"boxes": [[0, 0, 1e300, 1], *BOXES[1:]]}, "finite boxes, found .* at row 0"),
        ({"scores": [0.5, 1.01, 0.5]}, r"scores in \[0, 1\], found 1.01 at row 1"),
        ({"scores": [0.5, 0.5, np.nan]}, r"scores in \[0, 1\], found nan at row 2"),
        ({"scores": [-0.1, 0.5, 0.5]}, "found -0.1"),
        ({"track_ids": [1, 2]}, r"track_ids of shape \[3\], one per box, found \[2\]"),
        ({"track_ids": [0.5, 1, 2]}, "track_ids to be integers, found float64"),
        ({"track_ids": [1, -2, 3]}, "track_ids of at least -1, found -2 at row 1"),
        ({"parents": [[-1, 0, 0]]}, r"parents of shape \[3\], one per box, found \[1, 3\]"),
        ({"parents": [-1, 3, 0]}, "parents that are other rows, or -1, found 3 at row 1"),
        ({"parents": [-1, -2, 0]}, "found -2 at row 1"),
        ({"parents": [-1, 0, 2]}, "found 2 at row 2"),
        ({"image_size": (40,)}, r"image_size \(height, width\) in pixels, found \(40,\)"),
        ({"image_size": (40, 0)}, "image_size"),
        ({"image_size": 5}, "found 5"),
        ({"image_size": (40, 30.5)}, "image_size"),
    ],
)
def test_faults_are_named_at_birth(changes, message):
    with pytest.raises(DetectionsError, match=message):
        make(**changes)


def test_empty():
    none = Detections.empty((4, 5))
    assert len(none) == 0
    assert none.boxes.shape == (0, 4)
    assert none.image_size == (4, 5)
    assert none == Detections([], [], [], [], (4, 5)), "empty lists will do"
    assert none.to_list() == none.to_coco(1) == []
    assert len(none[[]]) == len(none[:3]) == len(none.filter(0.5)) == 0


def test_equality_looks_at_everything_but_the_source():
    assert make() == make(source=None)
    for changes in (
        {"boxes": [*BOXES[:2], [0, 0, 1, 1]]},
        {"scores": [0.25, 0.9, 0.4]},
        {"labels": [1, 0, 2]},
        {"names": ["dog", "cat", "fox"]},
        {"image_size": None},
        {"track_ids": [1, 2, 3]},
        {"parents": [-1, -1, -1]},
    ):
        assert make() != make(**changes)
    assert make() != make()[:2]
    assert make() != "detections"
    with pytest.raises(TypeError):
        hash(make())


def test_tracks_and_parents_are_kept_and_compared():
    found = make(track_ids=np.array([7, -1, 3], np.int32), parents=[-1, 0, 0])
    assert found.track_ids.dtype == found.parents.dtype == np.int64
    assert found == make(track_ids=[7, -1, 3], parents=[-1, 0, 0]) == found.without_source()
    assert found != make(track_ids=[7, -1, 4], parents=[-1, 0, 0])
    assert found != make(track_ids=[7, -1, 3], parents=[-1, 0, 1])
    assert found.to_list() == make().to_list()
    assert found.to_coco(1) == make().to_coco(1)
    assert make(track_ids=[7, -1, 3]).to_supervision().tracker_id.tolist() == [7, -1, 3]
    assert make().to_supervision().tracker_id is None
    none = Detections([], [], [], [], track_ids=[], parents=[])
    assert len(none[[]].track_ids) == len(none.parents) == 0


@pytest.mark.parametrize(
    ("key", "parents", "tracks"),
    [
        (slice(None, None, -1), [2, 2, -1], [3, -1, 7]),
        ([1, 2], [-1, -1], [-1, 3]),  # the parent is gone
        ([2, 0, 2, 0], [1, -1, 1, -1], [3, 7, 3, 7]),  # the first copy is the parent
        ([True, False, True], [-1, 0], [7, 3]),
        (-1, [-1], [3]),
        ([], [], []),
    ],
)
def test_chosen_parts_find_their_parent(key, parents, tracks):
    chosen = make(track_ids=[7, -1, 3], parents=[-1, 0, 0])[key]
    assert chosen.parents.tolist() == parents
    assert chosen.track_ids.tolist() == tracks


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        (np.array([True, False, True]), [0, 2]),
        ([False, False, False], []),
        (np.array([2, 0, 2]), [2, 0, 2]),
        ([-1], [2]),
        ([], []),
        (1, [1]),
        (np.int64(-3), [0]),
    ],
)
def test_indexing(key, rows):
    found, whole = make()[key], make()
    np.testing.assert_array_equal(found.boxes, whole.boxes[rows])
    np.testing.assert_array_equal(found.scores, whole.scores[rows])
    np.testing.assert_array_equal(found.labels, whole.labels[rows])
    assert found.names == tuple(whole.names[row] for row in rows)
    assert (found.image_size, found.source) == (whole.image_size, whole.source)


def test_a_loop_gives_single_detections():
    assert [one.names for one in make()] == [("dog",), ("cat",), ("dog",)]
    with pytest.raises(IndexError):
        make()[3]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ([True, False], r"mask of shape \[3\], found \[2\]"),
        (True, r"mask of shape \[3\], found \[\]"),
        ([0, 3], "indices below 3, found 3"),
        ([0.0, 1.0], "indices to be integers"),
        ([[0, 1]], r"indices of shape \[K\], found \[1, 2\]"),
    ],
)
def test_bad_indices_are_named(key, message):
    with pytest.raises(DetectionsError, match=message):
        make()[key]


def test_filter_is_strict():
    assert make().filter(0.5).scores.tolist() == pytest.approx([0.9])
    assert make(scores=[0.1, 0.1, 0.2]).filter(0.1).scores.tolist() == pytest.approx([0.2])
    assert len(make().filter(0.0)) == 3
    for threshold in (2, "a", "0.5", None, [0.1, 0.2], float("nan")):
        with pytest.raises(DetectionsError, match=r"threshold in \[0, 1\], found "):
            make().filter(threshold)
    assert len(make().filter(np.float32(0.5))) == 1


def test_to_list_is_what_the_transformers_pipeline_returns():
    # The pipeline's own postprocess, fed with the same boxes, one label at a time.
    found = make()
    pipeline = object.__new__(ZeroShotObjectDetectionPipeline)

    def picked(outputs, threshold, target_sizes):
        rows = [row for row in range(3) if found.names[row] == outputs.label]
        return [
            {
                "scores": torch.from_numpy(found.scores[rows]),
                "boxes": torch.from_numpy(found.boxes[rows]),
            }
        ]

    pipeline.image_processor = SimpleNamespace(post_process_object_detection=picked)
    outputs = [
        {"candidate_label": label, "label": label, "target_size": torch.zeros(1, 2)}
        for label in ("cat", "dog")
    ]
    assert found.to_list() == pipeline.postprocess(outputs)
    assert [entry["label"] for entry in found.to_list()] == ["cat", "dog", "dog"]


def test_to_list_cuts_towards_zero_and_is_ready_for_json():
    entry = make().to_list()[1]
    assert entry["box"] == {"xmin": -3, "ymin": 0, "xmax": 0, "ymax": 4}
    assert list(entry) == ["score", "label", "box"]
    assert json.loads(json.dumps(make().to_list())) == make().to_list()
    assert [type(value) for value in entry["box"].values()] == [int] * 4
    equal = make(scores=[0.5, 0.5, 0.5], names=["a", "b", "c"]).to_list()
    assert [one["label"] for one in equal] == ["a", "b", "c"], "equal scores keep their order"


def test_to_coco():
    entries = make().to_coco(42, {0: 17, 1: 18})
    assert [entry["category_id"] for entry in entries] == [18, 17, 18]
    assert [entry["image_id"] for entry in entries] == [42] * 3
    assert entries[1]["bbox"] == [5.0, 5.0, 1.5, 2.25]
    np.testing.assert_allclose(entries[0]["bbox"], [0.9, 1.2, 9.8, 19.799], rtol=1e-6)
    assert entries[2]["score"] == 0.5
    assert json.loads(json.dumps(entries)) == entries
    assert json.loads(json.dumps(make().to_coco(np.int64(42))))[0]["image_id"] == 42
    assert [entry["category_id"] for entry in make().to_coco(1)] == [1, 0, 1]
    assert [entry["category_id"] for entry in make().to_coco(1, [7, 9])] == [9, 7, 9]
    for ids in ({0: 17}, [17]):
        with pytest.raises(DetectionsError, match="category id for label 1"):
            make().to_coco(1, ids)


def test_to_coco_is_read_by_pycocotools(capsys):
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = {
        "images": [{"id": 42, "height": 40, "width": 30}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(make().to_coco(42, {0: 17, 1: 18}))
    assert loaded.anns[2]["area"] == pytest.approx(1.5 * 2.25)


def test_to_supervision():
    converted = make().to_supervision()
    np.testing.assert_array_equal(converted.xyxy, make().boxes)
    np.testing.assert_array_equal(converted.confidence, make().scores)
    np.testing.assert_array_equal(converted.class_id, make().labels)
    assert converted.data["class_name"].tolist() == ["dog", "cat", "dog"]
    assert len(converted[converted.confidence > 0.4]) == 2
    assert len(Detections.empty().to_supervision()) == 0


def test_supervision_is_named_when_it_is_missing(monkeypatch):
    real_import = builtins.__import__

    def without_supervision(name, *args, **kwargs):
        if name == "supervision":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_supervision)
    with pytest.raises(MissingDependencyError, match="pip install supervision"):
        make().to_supervision()


@pytest.mark.parametrize("kind", ["path", "array", "pil"])
def test_plot_draws_on_the_source(tmp_path, kind):
    photo = np.full((40, 30, 3), 90, dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    source = {"path": str(path), "array": photo, "pil": Image.fromarray(photo)}[kind]
    drawn = make(source=source).plot(palette=[(1, 2, 3)], line_width=2)
    assert drawn.size == (30, 40)
    assert (np.asarray(drawn) == (1, 2, 3)).all(axis=2).any()
    assert (photo == 90).all()


def test_plot_says_that_it_needs_the_image():
    with pytest.raises(DetectionsError, match=r"know their image \(source\), found None") as caught:
        make(source=None).plot()
    assert "owlkit.visualize.draw_detections(image, detections)" in str(caught.value)
    image = np.zeros((40, 30, 3), np.uint8)
    drawn = owlkit.visualize.draw_detections(image, make(source=None))
    assert drawn.size == (30, 40), "the advice works after `import owlkit` alone"


def test_without_source_lets_go_of_the_image():
    frame = np.zeros((40, 30, 3), np.uint8)
    found = make(source=frame)
    assert found.source is frame, "not copied"
    assert found.without_source().source is None
    assert found.without_source() == found
