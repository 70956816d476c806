"""COCO metrics against pycocotools: its recorded numbers, and itself on random problems."""

import copy
import json
import sys

import numpy as np
import pytest

from owlkit.errors import ConfigError, DatasetError, MissingDependencyError
from owlkit.evaluation import evaluate_boxes, matching, measure_boxes, split_metrics

EXACT = 1e-9  # pure counting in float64
BACKENDS = ("auto", "pycocotools", "faster-coco-eval")
RECORDED = (
    ("coco_val2014_100", "instances_val2014_100", "instances_val2014_fakebbox100_results"),
    ("coco_val2014_sampled", "instances", "results"),
    ("voc2012_100", "instances", "results"),
)


def read(path):
    return json.loads(path.read_bytes())


@pytest.fixture(scope="module")
def small(golden):
    """Ground truth, detections, expected numbers: 24 images full of ties, crowds and gaps."""
    folder = golden("08_coco_eval")
    return tuple(read(folder / f"{name}.json") for name in ("gt", "dt", "expected"))


def assert_metrics(found, expected, tolerance=EXACT):
    assert set(found) == set(expected)
    assert found == pytest.approx(expected, abs=tolerance, rel=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_golden_numbers(small, backend):
    truth, results, expected = small
    measured = measure_boxes(truth, results, backend=backend)
    assert_metrics(measured.metrics, expected["stats"])
    assert {str(key) for key in measured.per_class} == set(expected["per_class"])
    for key, numbers in measured.per_class.items():
        assert_metrics(numbers, expected["per_class"][str(key)])
    agnostic = evaluate_boxes(truth, results, backend=backend, class_agnostic=True)
    assert_metrics(agnostic, expected["class_agnostic_stats"])
    # Ties make the order of the list matter, by 0.0067 here.
    reversed_order = evaluate_boxes(truth, results[::-1], backend=backend)
    assert_metrics(reversed_order, expected["reversed_detection_order_stats"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_golden_subset(small, backend):
    truth, results, expected = small
    subset = expected["subset"]
    chosen = {"image_ids": subset["imgIds"], "category_ids": subset["catIds"]}
    measured = measure_boxes(truth, results, backend=backend, **chosen)
    assert_metrics(measured.metrics, subset["stats"])
    assert measured.category_ids == tuple(subset["catIds"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_golden_arrays(golden, small, backend):
    measured = measure_boxes(*small[:2], backend=backend)
    with np.load(golden("08_coco_eval") / "expected_arrays.npz") as arrays:
        np.testing.assert_allclose(measured.precision, arrays["precision"][..., 0, -1], atol=EXACT)
        np.testing.assert_allclose(measured.scores, arrays["scores"][..., 0, -1], atol=EXACT)
        assert measured.category_ids == tuple(arrays["catIds"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_limits_give_a_true_ap(small, backend):
    # pycocotools' own summary asks for a limit of 100 by name and prints -1.
    truth, results, expected = small
    found = evaluate_boxes(truth, results, backend=backend, max_detections=300)
    printed = dict(expected["maxdets300_stats_as_printed"])
    printed["AP"], printed["AR300"] = expected["maxdets300_true_AP"], printed.pop("AR100")
    assert_metrics(found, printed)
    few = evaluate_boxes(truth, results, backend=backend, max_detections=10)
    assert [name for name in few if name.startswith("AR")] == ["AR1", "AR10", "ARs", "ARm", "ARl"]
    assert few["AR10"] == pytest.approx(expected["stats"]["AR10"], abs=EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_useless_and_no_detections(small, backend):
    truth, results, expected = small
    zeros = expected["one_useless_detection_stats"]
    assert_metrics(evaluate_boxes(truth, [], backend=backend), zeros)
    useless = results[0] | {"bbox": [0.0, 0.0, 0.1, 0.1]}
    assert_metrics(evaluate_boxes(truth, [useless], backend=backend), zeros)
    nothing_to_find = truth | {"annotations": []}
    for found in (results, []):
        undefined = evaluate_boxes(nothing_to_find, found, backend=backend)
        assert set(undefined.values()) == {-1.0}


@pytest.mark.parametrize(("name", "truth", "results"), RECORDED)
def test_recorded_numbers_of_real_data(data_dir, name, truth, results):
    folder = data_dir / "eval_fixtures" / name
    measured = measure_boxes(folder / f"{truth}.json", str(folder / f"{results}.json"))
    expected = read(folder / "expected.json")["bbox"]
    written = 5.01e-7  # six digits
    assert_metrics(measured.metrics, expected["stats"], written)
    for key, precision in expected["per_category_AP"].items():
        assert measured.per_class[int(key)]["AP"] == pytest.approx(precision, abs=written)


def test_five_thousand_images(golden):
    folder = golden("08b_coco_eval_5k")
    with np.load(folder / "problem.npz") as problem:
        columns = {name: problem[name] for name in problem.files}
    boxes = {side: (columns[f"{side}_box10"] / 10).tolist() for side in ("gt", "dt")}
    ids = {
        side: zip(
            (columns[f"{side}_image"] + 1).tolist(),
            (columns[f"{side}_category"] + 1).tolist(),
            boxes[side],
            strict=True,
        )
        for side in ("gt", "dt")
    }
    keys = ("image_id", "category_id", "bbox")
    truth = {
        "images": [{"id": index} for index in range(1, 5001)],
        "categories": [{"id": index} for index in range(1, 81)],
        "annotations": [
            dict(zip(keys, row, strict=True), iscrowd=crowd)
            for row, crowd in zip(ids["gt"], columns["gt_crowd"].tolist(), strict=True)
        ],
    }
    scores = (columns["dt_score16"] / 65535).tolist()
    results = [
        dict(zip(keys, row, strict=True), score=score)
        for row, score in zip(ids["dt"], scores, strict=True)
    ]
    measured = measure_boxes(truth, results)
    expected = read(folder / "expected.json")
    assert_metrics(measured.metrics, expected["stats"])
    for key, numbers in expected["per_class"].items():
        assert_metrics(measured.per_class[int(key)], numbers)


def random_problem(seed):
    """Boxes on a coarse grid, so that overlaps, scores and thresholds tie; crowds; odd areas."""
    random = np.random.default_rng(seed)
    images, categories = [5, 3, 11], [2, 9]

    def box():
        x, y, width, height = random.integers([0, 0, 0, 1], [4, 4, 5, 6]) * 25.0
        return [float(x), float(y), float(width), float(height)]

    def entry():
        image, category = random.choice(images), random.choice(categories)
        return {"image_id": int(image), "category_id": int(category), "bbox": box()}

    annotations = [
        entry()
        | {"id": index, "iscrowd": int(random.random() < 0.2)}
        | {"area": float(random.choice([100, 32**2, 5000, 96**2, 20000]))}
        for index in range(30)
    ]
    results = [entry() | {"score": float(random.integers(-2, 6))} for _ in range(120)]
    named = ({"images": images, "categories": categories}).items()
    return {name: [{"id": key} for key in ids] for name, ids in named} | {
        "annotations": annotations
    }, results


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_equal_to_pycocotools_on_random_problems(seed, class_agnostic):
    truth, results = random_problem(seed)
    options = {"class_agnostic": class_agnostic, "max_detections": 15}
    peer = measure_boxes(truth, results, backend="pycocotools", **options)
    own = measure_boxes(truth, results, backend="owlkit", **options)
    assert own.metrics == peer.metrics
    assert own.per_class == peer.per_class
    np.testing.assert_array_equal(own.precision, peer.precision)
    np.testing.assert_array_equal(own.scores, peer.scores)


def test_class_agnostic_ties_follow_the_category_ids():
    # Both objects overlap the first detection by 0.6; the second one overlaps only the left one
    # enough. The object of the higher category counts as the later, wherever it is listed.
    left, right = ([x, 0.0, 20.0, 20.0] for x in (5.0, 15.0))
    where = {"image_id": 1, "category_id": 2}
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 2}, {"id": 9}],
        "annotations": [where | {"bbox": left, "category_id": 9}, where | {"bbox": right}],
    }
    results = [
        where | {"bbox": [x, 0.0, 20.0, 20.0], "score": score} for x, score in ((10, 0.9), (0, 0.8))
    ]
    for backend in BACKENDS:
        found = evaluate_boxes(truth, results, backend=backend, class_agnostic=True)
        # One of two found, at three of the ten thresholds: 0.50, 0.55 and 0.60.
        assert found["AR100"] == pytest.approx(0.5 * 0.3)


def test_pieces_do_not_change_the_numbers(small, monkeypatch):
    whole = evaluate_boxes(*small[:2])
    for pairs in (1, 7, 100):
        monkeypatch.setattr(matching, "_PAIRS_AT_ONCE", pairs)
        assert evaluate_boxes(*small[:2]) == whole


@pytest.mark.parametrize("backend", BACKENDS)
def test_annotation_ids_do_not_matter(small, backend):
    # An object with the id 0 is never found by pycocotools and by faster-coco-eval.
    truth, results, expected = small
    for change in ({"id": 0}, {"id": "same"}):
        annotations = [annotation | change for annotation in truth["annotations"]]
        found = evaluate_boxes(truth | {"annotations": annotations}, results, backend=backend)
        assert_metrics(found, expected["stats"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_stay_and_nothing_is_printed(small, backend, capfd):
    truth, results = copy.deepcopy(small[:2])
    evaluate_boxes(truth, results, backend=backend)
    assert truth == small[0]
    assert results == small[1]
    assert capfd.readouterr() == ("", "")


def test_missing_area_and_crowd_are_those_of_a_plain_box(small):
    truth, results, _ = small
    keys = ("image_id", "category_id", "bbox")
    bare = [{key: annotation[key] for key in keys} for annotation in truth["annotations"]]
    full = [
        annotation | {"iscrowd": 0, "area": annotation["bbox"][2] * annotation["bbox"][3]}
        for annotation in bare
    ]
    found = [evaluate_boxes(truth | {"annotations": each}, results) for each in (bare, full)]
    assert found[0] == found[1]


def test_split_is_the_mean_over_classes_with_objects(small):
    measured = measure_boxes(*small[:2])
    per_class = measured.per_class
    found = split_metrics(measured, base_ids=[1, 3, 4], novel_ids=(2, 12))
    assert per_class[3]["AP"] == -1, "has only crowds, and is left out"
    for name in ("AP", "AP50"):
        for part, ids in (("base", (1, 4)), ("novel", (2, 12))):
            mean = sum(per_class[key][name] for key in ids) / len(ids)
            assert found[f"{name}_{part}"] == pytest.approx(mean, abs=1e-12)
    assert split_metrics(measured, [3], [])["AP_base"] == -1
    assert split_metrics(measured, [3], [])["AP50_novel"] == -1


@pytest.mark.parametrize(
    ("base", "novel", "message"),
    [([1, 2], [2, 4], r"\[2\] in both"), ([1], [77], r"\[77\], which were not measured")],
)
def test_split_refuses(small, base, novel, message):
    with pytest.raises(DatasetError, match=message):
        split_metrics(measure_boxes(*small[:2]), base, novel)


def test_settings_say_how_it_was_measured(small):
    own = measure_boxes(*small[:2], max_detections=50)
    assert own.settings["backend"] == "owlkit"
    assert own.settings["max_detections"] == 50
    assert json.loads(json.dumps(own.settings)) == own.settings
    peer = measure_boxes(*small[:2], backend="faster-coco-eval")
    assert peer.settings["backend"] == "faster-coco-eval"


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_missing_package_is_named(small, backend, monkeypatch):
    for module in ("pycocotools", "pycocotools.coco", "faster_coco_eval"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'owlkit\[train\]'"):
        evaluate_boxes(*small[:2], backend=backend)
    assert_metrics(evaluate_boxes(*small[:2]), small[2]["stats"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "coco"}, "backend: expected one of auto, owlkit, .* found 'coco'"),
        ({"max_detections": 0}, "max_detections: expected an integer >= 1, found 0"),
        ({"max_detections": 2.5}, "found 2.5"),
    ],
)
def test_bad_options_are_named(small, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_boxes(*small[:2], **options)
