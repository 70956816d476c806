"""Parts are looked for inside the boxes of their parents."""

import numpy as np
import pytest

import owlkit
from owlkit.detections import Detections
from owlkit.errors import DetectionsError, QueryError
from owlkit.nested import detect_parts, relabelled, root_names
from owlkit.queries.syntax import parse_words

QUERIES = parse_words("face [nose, eye [pupil]], cat, car [wheel]")
IMAGE = np.arange(100 * 120 * 3, dtype=np.int64).reshape(100, 120, 3).astype(np.uint8)
# Every thing that is there, in pixels of the image.
THINGS = {
    "nose": [(25, 25, 35, 40), (70, 25, 78, 35)],
    "eye": [(12, 14, 22, 20), (45, 12, 58, 20), (61, 12, 70, 20), (2, 2, 9, 8)],
    "pupil": [(15, 15, 18, 18), (24, 24, 30, 30)],
    "wheel": [(5, 90, 15, 99)],
}
FOUND = Detections(
    boxes=[(10, 10, 60, 60), (80, 70, 110, 95), (50, 5, 90, 50)],
    scores=[0.5, 0.9, 0.7],
    labels=[0, 4, 0],
    names=["face", "cat", "face"],
    image_size=(100, 120),
)


class Looker:
    """Finds the things whose pixels a crop shows, by where its memory starts in the image."""

    def __init__(self):
        self.asked = []

    def __call__(self, crops, queries):
        self.asked.append((queries.names, [crop.shape[:2] for crop in crops]))
        return [self.look(crop, queries) for crop in crops]

    def look(self, crop, queries):
        assert np.shares_memory(crop, IMAGE), "a view, not a copy"
        start = crop.__array_interface__["data"][0] - IMAGE.__array_interface__["data"][0]
        y, x = divmod(start // 3, IMAGE.shape[1])
        height, width = crop.shape[:2]
        rows = [
            (label, np.clip((x0 - x, y0 - y, x1 - x, y1 - y), 0, (width, height, width, height)))
            for label, name in enumerate(queries.names)
            for x0, y0, x1, y1 in THINGS[name]
        ]
        rows = [(label, box) for label, box in rows if box[0] < box[2] and box[1] < box[3]]
        return Detections(
            boxes=[box for _, box in rows],
            scores=[0.8 - 0.01 * row for row in range(len(rows))],
            labels=[label for label, _ in rows],
            names=[queries.names[label] for label, _ in rows],
        )


def test_parts_of_every_level_are_found_in_their_parents():
    look = Looker()
    whole = detect_parts(look, IMAGE, FOUND, QUERIES, margin=0.1)
    assert [names for names, _ in look.asked] == [("nose", "eye"), ("pupil",)]
    assert look.asked[0][1] == [(60, 60), (55, 48)], "both faces at once, each with its margin"
    assert (np.diff(whole.scores) <= 0).all()
    assert whole.labels.tolist() == [QUERIES.names.index(name) for name in whole.names]
    pairs = {
        (name, tuple(map(int, box)), None if parent < 0 else tuple(map(int, whole.boxes[parent])))
        for name, box, parent in zip(whole.names, whole.boxes, whole.parents, strict=True)
    }
    first, second = (10, 10, 60, 60), (50, 5, 90, 50)
    assert pairs == {
        ("face", first, None),
        ("face", second, None),
        ("cat", (80, 70, 110, 95), None),
        ("nose", (25, 25, 35, 40), first),
        ("nose", (70, 25, 78, 35), second),
        ("eye", (12, 14, 22, 20), first),
        ("eye", (45, 12, 58, 20), first),
        ("eye", (50, 12, 58, 20), second),  # shown from the margin on, and cut to its parent
        ("eye", (61, 12, 70, 20), second),
        ("pupil", (15, 15, 18, 18), (12, 14, 22, 20)),  # the other one is in no eye
    }
    assert len(whole) == len(pairs)


def test_centres_decide_and_margins_only_show():
    box = {"nose": [(58, 30, 66, 40)], "eye": [], "pupil": [], "wheel": []}
    face = FOUND[:1]
    for centre_shift, parts in ((0, 0), (-4, 1)):
        x0, y0, x1, y1 = box["nose"][0]
        moved = {**box, "nose": [(x0 + centre_shift, y0, x1 + centre_shift, y1)]}
        look = Looker()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.test_nested.THINGS", moved)
            whole = detect_parts(look, IMAGE, face, QUERIES, margin=0.5)
        assert len(whole) == 1 + parts
        assert look.asked[0][1] == [(85, 85)], "cut at the image's edge"
    assert whole.boxes[whole.names.index("nose")].tolist() == [54, 30, 60, 40]


def test_what_has_no_parts_costs_nothing():
    look = Looker()
    cat = FOUND[1:2]
    whole = detect_parts(look, IMAGE, cat, QUERIES)
    assert look.asked == []
    assert whole == Detections(
        cat.boxes, cat.scores, cat.labels, cat.names, cat.image_size, parents=[-1]
    )
    assert len(detect_parts(look, IMAGE, Detections.empty((100, 120)), QUERIES)) == 0
    line = Detections([(5, 5, 5, 9), (130, 5, 140, 9)], [0.5, 0.5], [0, 0], ["face"] * 2)
    assert len(detect_parts(look, IMAGE, line, QUERIES)) == 2, "not a pixel to look at"
    assert look.asked == []


def test_tracks_stay_with_what_is_tracked():
    tracked = Detections(FOUND.boxes, FOUND.scores, FOUND.labels, FOUND.names, track_ids=[3, 4, 5])
    whole = detect_parts(Looker(), IMAGE, tracked, QUERIES)
    assert whole.track_ids[whole.parents < 0].tolist() == [4, 5, 3]
    assert set(whole.track_ids[whole.parents >= 0]) == {-1}


def test_labels_of_a_subset_become_those_of_the_set():
    assert root_names(QUERIES) == ("face", "cat", "car")
    part = Detections([(0, 0, 1, 1)] * 2, [0.5, 0.4], [1, 0], ["cat", "face"])
    assert relabelled(part, QUERIES).labels.tolist() == [4, 0]
    with pytest.raises(QueryError, match="names of the query set, found 'dog'"):
        relabelled(Detections([(0, 0, 1, 1)], [0.5], [0], ["dog"]), QUERIES)


def test_bad_values_are_named():
    for margin in (-0.1, float("nan"), 11):
        with pytest.raises(QueryError, match="margin"):
            detect_parts(Looker(), IMAGE, FOUND, QUERIES, margin=margin)
    with pytest.raises(DetectionsError, match="each of 2 crops, found 0"):
        detect_parts(lambda crops, queries: [], IMAGE, FOUND, QUERIES)


def test_a_predictor_finds_parts(owlv2_folder):
    """With a random model: parts lie in their parents, and are what it finds in that crop."""
    predictor = owlkit.Predictor.from_pretrained(owlv2_folder)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    queries = parse_words("cat [dog], owl")
    found = predictor.detect(image, queries, threshold=0.2, nms_iou=0.5)
    parts = np.flatnonzero(found.parents >= 0)
    assert len(parts) > 0
    for row in parts:
        parent = found.boxes[found.parents[row]]
        assert (found.names[row], found.names[found.parents[row]]) == ("dog", "cat")
        assert (found.boxes[row, :2] >= parent[:2]).all()
        assert (found.boxes[row, 2:] <= parent[2:]).all()
    roots = found[found.parents < 0]
    plain = predictor.detect(image, ["cat", "owl"], threshold=0.2, nms_iou=0.5)
    np.testing.assert_array_equal(roots.boxes, plain.boxes)
    assert roots.names == plain.names
