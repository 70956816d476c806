"""Tiles cover an image; what they show is what the image shows, once."""

import itertools

import numpy as np
import pytest

import owlkit
from owlkit.detections import Detections
from owlkit.errors import DetectionsError, ImageError, QueryError
from owlkit.postprocess import Selection
from owlkit.suppression import box_iou, soft_nms
from owlkit.tiling import Tiling, detect_tiles

NAMES = ("square", "disc")


def picture(height, width, objects):
    """An image whose pixels say which object they belong to: its number from 1, and its label."""
    image = np.zeros((height, width, 3), np.uint8)
    for number, (label, (x0, y0, x1, y1)) in enumerate(objects, start=1):
        image[y0:y1, x0:x1] = (number, label, 0)
    return image


class Seer:
    """Sees exactly what a view shows of each object: the visible share is the score."""

    def __init__(self, objects, *, least=0.05, largest=None):
        self.areas = [(x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1) in objects]
        self.least = least
        self.largest = largest
        self.batches = []
        self.selections = set()

    def __call__(self, views, selection):
        self.batches.append(len(views))
        self.selections.add(selection)
        return [self.look(view) for view in views]

    def look(self, view):
        rows = []
        for number in np.unique(view[..., 0][view[..., 0] > 0]).tolist():
            y, x = np.nonzero(view[..., 0] == number)
            share = len(x) / self.areas[number - 1]
            box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
            fits = self.largest is None or max(box[2] - box[0], box[3] - box[1]) <= self.largest
            if share > self.least and fits:
                rows.append((box, 0.9 * share, int(view[y[0], x[0], 1])))
        return Detections(
            boxes=[box for box, _, _ in rows],
            scores=[score for _, score, _ in rows],
            labels=[label for _, _, label in rows],
            names=[NAMES[label] for _, _, label in rows],
        )


def detect(objects, size=(200, 240), *, tiling=None, selection=None, **options):
    return detect_tiles(
        Seer(objects, **options),
        picture(*size, objects),
        tiling or Tiling(64),
        (32, 32),
        batch_size=5,
        selection=selection or Selection(),
    )


def as_rows(found):
    rows = zip(found.labels.tolist(), found.boxes.tolist(), strict=True)
    return sorted((label, tuple(map(int, box))) for label, box in rows)


@pytest.mark.parametrize(
    ("image_size", "tiling"),
    [
        ((200, 240), Tiling(64)),
        ((200, 240), Tiling((50, 70), overlap=0)),
        ((65, 64), Tiling(64, overlap=0.9)),
        ((10, 1000), Tiling((64, 3), overlap=0.5)),
        ((64, 64), Tiling(64)),
        ((5, 7), Tiling()),
        ((100, 33), Tiling(overlap=0.3, whole=False)),
    ],
)
def test_tiles_cover_the_image(image_size, tiling):
    height, width = image_size
    views = tiling.plan(image_size, (32, 32))
    size = tiling.size or 32
    tall, wide = (size, size) if isinstance(size, int) else size
    tall, wide = min(tall, height), min(wide, width)
    whole = (0, 0, width, height)
    assert views.count(whole) == (1 if tiling.whole or (tall, wide) == image_size else 0)
    assert len(set(views)) == len(views)
    tiles = [view for view in views if view != whole] or views
    shown = np.zeros(image_size, int)
    for x0, y0, x1, y1 in tiles:
        assert (y1 - y0, x1 - x0) == (tall, wide)
        assert 0 <= x0
        assert 0 <= y0
        shown[y0:y1, x0:x1] += 1
    assert shown.shape == image_size, "no tile reaches outside"
    assert shown.min() == 1
    for side, starts in ((wide, {view[0] for view in tiles}), (tall, {view[1] for view in tiles})):
        for one, following in itertools.pairwise(sorted(starts)):
            shared = one + side - following
            assert shared >= tiling.overlap * side or following == one + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "positive integer or .* found 0"),
        ({"size": 6.5}, "found 6.5"),
        ({"size": (64,)}, r"found \(64,\)"),
        ({"size": (64, -1)}, "found"),
        ({"size": "64"}, "found '64'"),
        ({"size": True}, "found True"),
        ({"overlap": 1}, r"overlap in \[0, 0.9\], found 1"),
        ({"overlap": float("nan")}, "found nan"),
        ({"overlap": "a"}, "found 'a'"),
    ],
)
def test_bad_tilings_are_named(options, message):
    with pytest.raises(QueryError, match=message):
        Tiling(**options)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ImageError, match="at least 1x1"):
        Tiling(8).plan((0, 5), (8, 8))


@pytest.mark.parametrize("overlap", [0.25, 0.4])
@pytest.mark.parametrize("whole", [True, False])
def test_objects_anywhere_are_found_once_and_completely(overlap, whole):
    """Objects no larger than the overlap, at every position relative to the seams."""
    generator = np.random.default_rng(0)
    for _ in range(25):
        objects = []
        for top, left in itertools.product(range(0, 180, 30), range(0, 220, 30)):
            if generator.random() < 0.5:
                y0, x0 = top + generator.integers(0, 12), left + generator.integers(0, 12)
                tall, wide = generator.integers(6, 17, size=2)
                box = (x0, y0, x0 + wide, y0 + tall)
                objects.append((int(generator.integers(2)), tuple(map(int, box))))
        # The whole image is seen, but small things are not seen in it.
        found = detect(objects, tiling=Tiling(64, overlap, whole))
        assert as_rows(found) == sorted(objects)


@pytest.mark.parametrize("box", [(20, 50, 95, 70), (10, 10, 85, 88), (0, 30, 240, 44)])
def test_an_object_larger_than_the_overlap_is_put_together(box):
    """Even if no view shows it completely."""
    found = detect([(0, box)], tiling=Tiling(64, whole=False))
    assert as_rows(found) == [(0, box)]


def test_an_object_larger_than_a_tile_is_the_one_of_the_whole_image():
    box = (10, 20, 190, 180)
    found = detect([(1, box)])
    assert as_rows(found) == [(1, box)]
    assert found.scores[0] == np.float32(0.9)


def test_two_objects_side_by_side_stay_two():
    objects = [(0, (30, 20, 56, 40)), (0, (57, 20, 100, 40)), (1, (110, 20, 140, 40))]
    assert as_rows(detect(objects, tiling=Tiling(64, whole=False))) == objects


def test_a_cut_box_stays_where_nothing_better_is_found():
    # Only what is at most 20 pixels long is seen: the piece in the second tile.
    objects = [(0, (40, 10, 66, 20))]
    found = detect(objects, tiling=Tiling(64, overlap=0.25, whole=False), largest=20)
    assert as_rows(found) == [(0, (48, 10, 66, 20))]


def test_a_poor_box_does_not_swallow_better_ones():
    def look(views, selection):
        results = []
        for view in views:
            whole = view.shape[1] == 200
            box, score = ([0, 0, 200, 64], 0.2) if whole else ([0, 10, 20, 30], 0.9)
            shown = whole or view[0, 0, 0]
            found = Detections([box], [score], [0], ["square"])
            results.append(found if shown else Detections.empty())
        return results

    image = np.zeros((64, 200, 3), np.uint8)
    image[0, 48] = 1  # the second tile, whose left edge cuts the box
    arguments = {"tiling": Tiling(64), "input_size": (64, 64), "batch_size": 8}
    found = detect_tiles(look, image, selection=Selection(), **arguments)
    assert found.scores.tolist() == pytest.approx([0.9, 0.2])


def test_the_merged_boxes_are_those_of_slow_suppression():
    """Many overlapping boxes of random scores, none of them cut."""
    generator = np.random.default_rng(1)
    offsets = {}

    def look(views, selection):
        results = []
        for view in views:
            corner = (int(view[0, 0, 0]), int(view[0, 0, 1]))
            random = np.random.default_rng(corner)
            low = random.uniform(4, 30, (12, 2))
            boxes = np.concatenate([low, low + random.uniform(8, 28, (12, 2))], axis=1)
            scores = random.uniform(0.1, 1, 12).astype(np.float32)
            labels = random.integers(0, 2, 12)
            offsets[corner] = (boxes, scores, labels)
            results.append(Detections(boxes, scores, labels, [NAMES[row] for row in labels]))
        return results

    rows, columns = np.mgrid[:160, :160].astype(np.uint8)
    image = np.stack([columns, rows, rows], axis=2)
    for _ in range(3):
        iou = float(generator.uniform(0.3, 0.7))
        selection = Selection(nms_iou=iou, top_k=20)
        tiling = Tiling(64, whole=False)
        found = detect_tiles(look, image, tiling, (64, 64), batch_size=4, selection=selection)
        boxes = np.concatenate(
            [b.astype(np.float32) + np.array(c * 2) for c, (b, _, _) in offsets.items()]
        )
        scores = np.concatenate([scores for _, scores, _ in offsets.values()])
        labels = np.concatenate([labels for _, _, labels in offsets.values()])
        kept = []
        for row in np.argsort(-scores, kind="stable"):
            rivals = [one for one in kept if labels[one] == labels[row]]
            if not rivals or box_iou(boxes[[row]], boxes[rivals]).max() <= iou:
                kept.append(row)
        np.testing.assert_array_equal(found.scores, scores[kept[:20]])
        np.testing.assert_allclose(found.boxes, boxes[kept[:20]], rtol=1e-6)
        assert found.labels.tolist() == labels[kept[:20]].tolist()


def test_soft_nms_fusion_and_agnostic_merging_happen_once():
    objects = [(0, (50, 10, 62, 22)), (1, (48, 9, 64, 24))]
    image = picture(64, 112, objects[:1])
    boxes = {0: (2, 10, 14, 22), 48: (2, 10, 14, 22)}

    def merged(selection):
        calls = []

        def look(views, within):
            calls.append(within)
            return [
                Detections([boxes[0]] * 2, [0.8, 0.4], [0, 1], NAMES)
                if view[10, 2, 0]
                else Detections.empty()
                for view in views
            ]

        found = detect_tiles(
            look,
            image,
            Tiling(64, overlap=0.25),
            (64, 64),
            batch_size=2,
            selection=selection,
        )
        return found, calls[0]

    soft = Selection(threshold=0.05, soft_nms="gaussian", class_agnostic=True, top_k=7)
    found, within = merged(soft)
    assert (within.soft_nms, within.nms_iou, within.top_k) == (None, None, None)
    kept, decayed = soft_nms([boxes[0]] * 2, [0.8, 0.4], method="gaussian", score_threshold=0.05)
    np.testing.assert_allclose(found.scores, decayed.astype(np.float32))
    assert found.labels.tolist() == kept.tolist()
    fused, within = merged(Selection(box_fusion=True, class_agnostic=True))
    assert (within.box_fusion, within.nms_iou) == (False, None)
    assert fused.scores.tolist() == pytest.approx([0.6])
    agnostic, within = merged(Selection(class_agnostic=True))
    assert (within.nms_iou, within.class_agnostic) == (0.5, True)
    assert agnostic.names == ("square",)
    best, within = merged(Selection(nms_iou=0.5, top_k=1))
    assert (len(best), within.top_k) == (1, None)
    assert len(merged(Selection())[0]) == 2


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_a_box_of_another_class_stands_for_a_cut_one_only_if_asked(class_agnostic):
    boxes = [[44, 10, 64, 30], [2, 10, 32, 30]]

    def look(views, selection):
        found = zip(boxes, NAMES, range(2), strict=True)
        return [Detections([box], [0.8], [label], [name]) for box, name, label in found]

    found = detect_tiles(
        look,
        np.zeros((64, 112, 3), np.uint8),
        Tiling(64, overlap=0.25, whole=False),
        (64, 64),
        batch_size=2,
        selection=Selection(class_agnostic=class_agnostic),
    )
    assert set(found.names) == ({"disc"} if class_agnostic else set(NAMES))


def test_views_come_in_batches_and_results_must_fit():
    objects = [(0, (3, 3, 9, 9))]
    seer = Seer(objects)
    image = picture(100, 100, objects)
    found = detect_tiles(seer, image, Tiling(64), (9, 9), batch_size=3, selection=Selection())
    assert seer.batches == [3, 2], "four tiles and the whole"
    assert found.source is image
    assert found.image_size == (100, 100)
    with pytest.raises(DetectionsError, match="each of 3 tiles, found 0"):
        detect_tiles(
            lambda views, selection: [],
            image,
            Tiling(64),
            (9, 9),
            batch_size=3,
            selection=Selection(),
        )
    nothing = detect_tiles(
        Seer([]), image * 0, Tiling(8), (9, 9), batch_size=9, selection=Selection()
    )
    assert nothing == Detections.empty((100, 100))


def test_a_predictor_looks_at_tiles(owlv2_folder):
    """Untouched by tiling where one tile shows everything; else inside the image, and sorted."""
    predictor = owlkit.Predictor.from_pretrained(owlv2_folder, batch_size=4)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    words, options = ["a cat", "a dog"], {"threshold": 0.2, "nms_iou": 0.5}
    whole = predictor.detect(image, words, **options)
    assert predictor.detect(image, words, tiles=Tiling(200), **options) == whole
    found = predictor.detect(image, words, tiles=Tiling(48, whole=False), **options)
    assert len(found) > 0
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [120, 90, 120, 90]).all()
