"""Faults in ground truth and results are named with the entry; unusual but fine input is read."""

import json

import numpy as np
import pytest

from owlkit.errors import DatasetError
from owlkit.evaluation.inputs import read_problem

TRUTH = {
    "images": [{"id": 9}, {"id": 4}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
    "annotations": [
        {"image_id": 9, "category_id": 1, "bbox": [0, 1, 20, 30], "area": 500.5, "iscrowd": 1},
        {"image_id": 4, "category_id": 3, "bbox": [5, 5, 10, 10]},
    ],
}
RESULT = {"image_id": 4, "category_id": 3, "bbox": [1.5, 2, 3, 4], "score": 0.5}


def test_columns():
    problem = read_problem(TRUTH, [RESULT, RESULT | {"image_id": 9, "score": 1}])
    assert [image["id"] for image in problem.images] == [4, 9]
    assert problem.category_ids == (1, 3)
    assert problem.objects.image.tolist() == [1, 0]
    assert problem.objects.category.tolist() == [0, 1]
    assert problem.objects.areas.tolist() == [500.5, 100]
    assert problem.objects.crowd.tolist() == [True, False]
    assert problem.found.image.tolist() == [0, 1]
    assert problem.found.boxes[0].tolist() == [1.5, 2, 3, 4]
    assert problem.found.areas.tolist() == [12, 12]
    assert problem.found.scores.tolist() == [0.5, 1]


def test_subsets_leave_out_both_sides():
    results = [RESULT, RESULT | {"image_id": 9}, RESULT | {"category_id": 1}]
    problem = read_problem(TRUTH, results, image_ids=[4], category_ids=(3, 3))
    assert problem.category_ids == (3,)
    assert len(problem.images) == 1
    assert problem.objects.boxes.tolist() == [[5, 5, 10, 10]]
    assert problem.found.image.tolist() == [0]
    assert problem.found.category.tolist() == [0]


def test_arrays_and_files_are_read_alike(tmp_path):
    as_arrays = RESULT | {"bbox": np.array(RESULT["bbox"]), "score": np.float32(0.5)}
    as_arrays["image_id"] = np.int32(4)
    files = [tmp_path / "truth.json", tmp_path / "results.json"]
    for file, content in zip(files, (TRUTH, [RESULT]), strict=True):
        file.write_text(json.dumps(content))
    for problem in (read_problem(TRUTH, (as_arrays,)), read_problem(str(files[0]), files[1])):
        assert problem.found.image.tolist() == [0]
        assert problem.found.boxes.tolist() == [RESULT["bbox"]]
        assert problem.found.scores.tolist() == [0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, r"results\[2\]: expected 'image_id' .* found 5; 1 of 4 .* ids: \[5\]"),
        ({"category_id": 7}, r"results\[2\]: expected 'category_id' .* found 7"),
        ({"image_id": "4"}, r"results\[2\]: expected 'image_id' to be an integer, found '4'"),
        ({"image_id": 4.5}, "to be an integer, found 4.5"),
        ({"category_id": None}, "to be an integer, found None"),
        ({"score": float("nan")}, r"results\[2\]: expected 'score' to be a finite .* found nan"),
        ({"score": float("inf")}, "found inf"),
        ({"score": "0.5"}, "found '0.5'"),
        ({"score": [0.5]}, r"found \[0.5\]"),
        ({"bbox": [1, 2, 3]}, r"results\[2\]: .* \[x, y, width, height\], .* found \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, "4"]}, "found .1, 2, 3, '4'"),
        ({"bbox": [1, 2, -3, 4]}, "no negative size, found .1, 2, -3, 4"),
        ({"bbox": [1, 2, float("nan"), 4]}, "found .1, 2, nan, 4"),
        ({"bbox": 3.0}, "found 3.0"),
        ({"bbox": {"x": 1}}, "found {'x': 1}"),
    ],
)
def test_bad_result_is_named(change, message):
    with pytest.raises(DatasetError, match=message):
        read_problem(TRUTH, [RESULT, RESULT, RESULT | change, RESULT])


@pytest.mark.parametrize("key", list(RESULT))
def test_missing_key_is_named(key):
    broken = {name: value for name, value in RESULT.items() if name != key}
    with pytest.raises(DatasetError, match=rf"results\[1\]: expected '{key}', found {{"):
        read_problem(TRUTH, [RESULT, broken])


def test_unknown_ids_are_listed_once_and_not_without_end():
    results = [RESULT | {"category_id": 100 + index % 12} for index in range(40)]
    message = r"40 of 40 entries have unknown ids: \[100, .* 109\] and 2 more"
    with pytest.raises(DatasetError, match=message):
        read_problem(TRUTH, results)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"annotations": []}, "results: expected a list of dictionaries, found {'annotations'"),
        (None, "found None"),
        ([3], r"results\[0\]: expected 'image_id', found 3"),
        (["image_id"], r"results\[0\]: expected 'image_id', found 'image_id'"),
    ],
)
def test_results_of_another_form(results, message):
    with pytest.raises(DatasetError, match=message):
        read_problem(TRUTH, results)


ANNOTATION = TRUTH["annotations"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "ground truth: expected a list 'images', found None"),
        ({"categories": {}}, "expected a list 'categories', found {}"),
        ({"annotations": "a.json"}, "expected a list 'annotations', found 'a.json'"),
        ({"images": []}, "at least one entry in 'images', found none"),
        ({"images": [{"id": 9}, {"id": 4}, {"id": 9}]}, r"images\[2\]: .* found 9 again"),
        ({"images": [{"id": 9}, {"file_name": "a"}]}, r"images\[1\]: expected 'id'"),
        ({"categories": [{"id": "cat"}]}, r"categories\[0\]: expected 'id' .* found 'cat'"),
        ({"annotations": [ANNOTATION | {"image_id": 5}]}, r"annotations\[0\]: .* found 5"),
        ({"annotations": [ANNOTATION | {"category_id": 2}]}, "'category_id' .* found 2"),
        ({"annotations": [ANNOTATION | {"bbox": []}]}, "'bbox' .* found"),
        ({"annotations": [ANNOTATION | {"area": None}]}, "'area' .* found None"),
        ({"annotations": [ANNOTATION | {"iscrowd": "no"}]}, "'iscrowd' to be 0 or 1, found 'no'"),
        ({"annotations": [3]}, r"annotations\[0\]: expected 'bbox', found 3"),
    ],
)
def test_bad_ground_truth_is_named(change, message):
    with pytest.raises(DatasetError, match=message):
        read_problem(TRUTH | change, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_ids": [4, 6]}, r"image_ids: .* found unknown \[6\]"),
        ({"category_ids": ["cat"]}, r"category_ids: .* found unknown \['cat'\]"),
        ({"category_ids": []}, "category_ids: .* found none"),
    ],
)
def test_bad_subset_is_named(options, message):
    with pytest.raises(DatasetError, match=message):
        read_problem(TRUTH, [], **options)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DatasetError, match=r"absent.json: expected a JSON file, found No such"):
        read_problem(tmp_path / "absent.json", [])
    broken = tmp_path / "broken.json"
    broken.write_text('[{"image_id": 4,')
    with pytest.raises(DatasetError, match=r"broken.json: expected JSON, found"):
        read_problem(TRUTH, broken)
    with pytest.raises(DatasetError, match="expected a COCO dictionary"):
        read_problem([RESULT], [])  # type: ignore[arg-type]
