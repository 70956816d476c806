"""Files in COCO's format that must not be trained on: each fault is named with its place."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from owlkit.data.coco_json import CocoFile, parse_coco
from owlkit.errors import DatasetError

SOUND: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
        {"id": 3, "file_name": "b.jpg", "width": 40, "height": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20], "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 5, "bbox": [0, 0, 40, 30], "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 5, "bbox": [4.5, 5.25, 6, 7], "iscrowd": 0},
    ],
    "categories": [{"id": 90, "name": "owl"}, {"id": 5, "name": "cup"}],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "instances.json"


def parse(path: Path, content: Any) -> CocoFile:
    path.write_text(json.dumps(content))
    return parse_coco(path)


def test_no_annotations_are_no_fault(path):
    file = parse(path, SOUND | {"annotations": []})
    assert file.annotations.boxes.shape == (0, 4)
    assert file.names == ("cup", "owl")


def set_key(*path: Any) -> Any:
    *keys, last, value = path

    def change(content: Any) -> None:
        for key in keys:
            content = content[key]
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("images", ...), r"images: expected a list, found no such key"),
        (set_key("annotations", {}), r"annotations: expected a list, found an object"),
        (set_key("categories", []), r"categories: expected at least one entry"),
        (set_key("images", 1, 5), r"images\[1\]: expected an object, found a number"),
        (set_key("images", 1, "id", "3"), r'images\[1\]\.id: expected an integer, found "3"'),
        (set_key("images", 1, "id", True), r"images\[1\]\.id: expected an integer, found true"),
        (set_key("images", 1, "id", 2**63), r"images\[1\]\.id: expected an integer, found 92233"),
        (set_key("images", 1, "id", 7), r"images: expected every id once, found 7 2 times"),
        (set_key("images", 0, "width", ...), r"images\[0\]\.width: expected .* no such key in"),
        (set_key("images", 0, "height", 0), r"images\[0\]\.height: expected an integer above 0"),
        (set_key("images", 0, "file_name", ...), r"images\[0\]\.file_name: .*found neither"),
        (set_key("images", 0, "file_name", ["a"]), r"images\[0\]\.file_name: expected a text"),
        (set_key("images", 0, "neg_category_ids", [1.5]), r"expected a list of integers"),
        (set_key("annotations", 2, "bbox", [1, 2, 3]), r"annotations\[2\]\.bbox: expected four"),
        (set_key("annotations", 2, "bbox", [1, 2, 3, "4"]), r"bbox: expected four numbers"),
        (set_key("annotations", 2, "bbox", [1, 2, 3, 10**400]), r"bbox: expected four numbers"),
        (set_key("annotations", 2, "bbox", ...), r"annotations\[2\]\.bbox: .*no such key"),
        (set_key("annotations", 0, "image_id", "7"), r"annotations\[0\]\.image_id: .*found \"7\""),
        (set_key("annotations", 0, "iscrowd", 2), r"annotations\[0\]\.iscrowd: expected 0 or 1"),
        (set_key("categories", 1, "id", 90), r"categories: expected every id once, found 90"),
        (set_key("categories", 1, "name", "owl"), r"the ids 90, 5\. .*placeholder.* rename it"),
        (set_key("categories", 1, "name", "owl"), r'every name once, found "owl" 2 times'),
        (set_key("categories", 1, "name", " "), r"categories\[1\]\.name: expected a text"),
    ],
)
def test_files_that_stop(path, change, message):
    content = copy.deepcopy(SOUND)
    change(content)
    with pytest.raises(DatasetError, match=message) as caught:
        parse(path, content)
    assert str(caught.value).startswith(f"{path} cannot be used")


def test_many_faults_are_counted(path):
    faulty = [annotation | {"id": "x"} for annotation in SOUND["annotations"] * 3]
    with pytest.raises(DatasetError, match="and 4 more") as caught:
        parse(path, SOUND | {"annotations": faulty})
    assert str(caught.value).count("expected") == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"images": [\n1,\n}', "line 3 column 1"),
        (b"", "line 1 column 1"),
        (b"[]", "found a list .*detections"),
        (b"null", "found null"),
        (b'{"a": "\xff"}', "expected JSON in UTF-8"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "expected JSON"),
    ],
)
def test_files_that_are_no_json_objects(path, text, message):
    path.write_bytes(text)
    with pytest.raises(DatasetError, match=message) as caught:
        parse_coco(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_missing_is_named_with_its_option(path):
    with pytest.raises(DatasetError, match=r"instances\.json \(--annotations\): .* No such file"):
        parse_coco(path, setting="--annotations")


def test_a_byte_order_mark_is_allowed(path):
    path.write_text(json.dumps(SOUND), encoding="utf-8-sig")
    assert len(parse_coco(path).images) == 2
