"""LVIS metrics against the numbers of the lvis package, and a slow, obvious version."""

import json
from collections import defaultdict

import numpy as np
import pytest

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation import evaluate_lvis, measure_lvis

EXACT = 1e-9  # pure counting in float64
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@pytest.fixture(scope="module")
def problem(golden):
    """Ground truth, detections, expected numbers: 30 federated images."""
    folder = golden("08c_lvis_eval")
    names = ("gt", "dt", "expected")
    return tuple(json.loads((folder / f"{name}.json").read_bytes()) for name in names)


def test_golden_numbers(problem):
    truth, results, expected = problem
    measured = measure_lvis(truth, results)
    assert measured.metrics == pytest.approx(expected["stats"], abs=EXACT, rel=0)
    found = {str(key): numbers["AP"] for key, numbers in measured.per_class.items()}
    assert found == pytest.approx(expected["per_class_AP"], abs=EXACT, rel=0)
    hundred = evaluate_lvis(truth, results, max_detections=100)
    assert hundred == pytest.approx(expected["max_dets_100"], abs=EXACT, rel=0)


def test_recorded_numbers_of_real_data(data_dir):
    folder = data_dir / "eval_fixtures" / "lvis_val_100"
    found = evaluate_lvis(folder / "lvis_val_100.json", folder / "synthetic_results.json")
    expected = json.loads((folder / "expected.json").read_bytes())["bbox"]["stats"]
    assert found == pytest.approx(expected, abs=5.01e-7, rel=0), "written with six digits"


def best(results, key, limit):
    groups = defaultdict(list)
    for result in results:
        groups[result[key]].append(result)
    return [
        result
        for group in groups.values()
        for result in sorted(group, key=lambda result: -result["score"])[:limit]
    ]


def slow_iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    return inner / (a[2] * a[3] + b[2] * b[3] - inner) if inner else 0.0


def slow_verdicts(image, category, annotations, results, threshold):
    """(score, right, wrong) of the detections of a class in an image, best first."""
    objects = [
        annotation["bbox"]
        for annotation in annotations
        if (annotation["image_id"], annotation["category_id"]) == (image["id"], category)
    ]
    if not objects and category not in image["neg_category_ids"]:
        return
    partial = category in image["not_exhaustive_category_ids"]
    found = [
        result
        for result in results
        if (result["image_id"], result["category_id"]) == (image["id"], category)
    ]
    for result in sorted(found, key=lambda result: -result["score"]):
        overlaps = [slow_iou(result["bbox"], box) for box in objects]
        right = max(overlaps, default=0.0) >= threshold
        if right:
            objects.pop(int(np.argmax(overlaps)))
        yield result["score"], right, not right and not partial


def slow_ap(truth, results, category):
    """Average precision of a class, objects of all sizes, by the definition."""
    annotations = truth["annotations"]
    positives = sum(annotation["category_id"] == category for annotation in annotations)
    if not positives:
        return -1.0
    sampled = []
    for threshold in THRESHOLDS:
        ranked = []
        for image in sorted(truth["images"], key=lambda image: image["id"]):
            ranked += slow_verdicts(image, category, annotations, results, threshold)
        ranked.sort(key=lambda verdict: -verdict[0])
        points, right, wrong = [], 0, 0
        for _, is_right, is_wrong in ranked:
            right, wrong = right + is_right, wrong + is_wrong
            points.append((right / positives, right / max(right + wrong, 1)))
        for recall in np.linspace(0, 1, 101):
            reached = [precision for at, precision in points if at >= recall]
            sampled.append(max(reached, default=0.0))
    return float(np.mean(sampled))


def slow_means(truth, results, name):
    """AP and its means over rare, common and frequent classes."""
    letters = {record["id"]: record["frequency"] for record in truth["categories"]}
    per_class = {key: slow_ap(truth, results, key) for key in letters}
    means = {}
    for part in ("", "r", "c", "f"):
        chosen = [ap for key, ap in per_class.items() if ap > -1 and part in letters[key]]
        means[name.format(part)] = float(np.mean(chosen)) if chosen else -1.0
    return means


def test_limit_for_an_image_like_the_slow_version(problem):
    truth, results, _ = problem
    slow = slow_means(truth, best(results, "image_id", 100), "AP{}")
    found = evaluate_lvis(truth, results, max_detections=100)
    assert {name: found[name] for name in slow} == pytest.approx(slow, abs=EXACT)


@pytest.mark.parametrize("limit", [20, 10_000])
def test_fixed_ap_like_the_slow_version(problem, limit):
    truth, results, _ = problem
    slow = slow_means(truth, best(results, "category_id", limit), "AP{}_fixed")
    found = evaluate_lvis(truth, results, fixed_ap=True, detections_per_class=limit)
    assert {name: found[name] for name in slow} == pytest.approx(slow, abs=EXACT)


def test_fixed_ap_of_a_class_does_not_depend_on_other_classes(problem):
    truth, results, _ = problem
    # A flood of confident detections of one class pushes all others out of an image's 300.
    flood = [result | {"category_id": 1, "score": 2.0} for result in results]
    few = {"max_detections": 40}

    def others(detections, **options):
        per_class = measure_lvis(truth, detections, **options).per_class
        return {key: numbers for key, numbers in per_class.items() if key != 1}

    assert others(results + flood, fixed_ap=True) == others(results, fixed_ap=True)
    assert others(results + flood, **few) != others(results, **few)


def test_names_of_fixed_ap(problem):
    names = set(evaluate_lvis(*problem[:2], fixed_ap=True))
    assert names == {name.split("@")[0] + "_fixed" for name in problem[2]["stats"]}


def test_no_detections_and_no_crowds(problem):
    truth, results, expected = problem
    assert set(evaluate_lvis(truth, []).values()) == {0.0}
    crowds = [annotation | {"iscrowd": 1} for annotation in truth["annotations"]]
    found = evaluate_lvis(truth | {"annotations": crowds}, results)
    assert found == pytest.approx(expected["stats"], abs=EXACT, rel=0)


def test_image_subset_is_the_smaller_data_set(problem):
    truth, results, _ = problem
    ids = [image["id"] for image in truth["images"]][:10]
    smaller = {
        "images": [image for image in truth["images"] if image["id"] in ids],
        "annotations": [entry for entry in truth["annotations"] if entry["image_id"] in ids],
        "categories": truth["categories"],
    }
    fewer = [result for result in results if result["image_id"] in ids]
    assert evaluate_lvis(truth, results, image_ids=ids) == evaluate_lvis(smaller, fewer)


def test_frequencies_may_be_missing_altogether(problem):
    truth, results, expected = problem
    categories = [{"id": record["id"]} for record in truth["categories"]]
    found = evaluate_lvis(truth | {"categories": categories}, results)
    assert found["AP"] == pytest.approx(expected["stats"]["AP"], abs=EXACT)
    assert (found["APr"], found["APc"], found["APf"]) == (-1, -1, -1)


def test_bad_federation_is_named(problem):
    truth, results, _ = problem
    first, *others = truth["categories"]
    letters = truth | {"categories": [first | {"frequency": "x"}, *others]}
    with pytest.raises(DatasetError, match=r"category 1: .* one of r, c, f, found 'x'"):
        evaluate_lvis(letters, results)
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        for bad in ([77], 3):
            images = [image | {key: bad} for image in truth["images"]]
            with pytest.raises(DatasetError, match=f"image .*: expected '{key}' to list"):
                evaluate_lvis(truth | {"images": images}, results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_detections": 0}, "max_detections: expected an integer >= 1, found 0"),
        ({"fixed_ap": True, "detections_per_class": -1}, "detections_per_class: .* found -1"),
    ],
)
def test_bad_limits_are_named(problem, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_lvis(*problem[:2], **options)
