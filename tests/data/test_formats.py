"""VOC annotations against the COCO files that were made from them independently."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from owlkit.data.formats import voc_to_coco
from owlkit.errors import DatasetError

CELLS = ["RBC", "WBC", "Platelets"]


def comparable(content: dict[str, Any]) -> tuple[Any, Any]:
    """Images and boxes without ids, sorted."""
    files = {image["id"]: image["file_name"] for image in content["images"]}
    names = {
        category["id"]: (category["id"], category["name"]) for category in content["categories"]
    }
    images = sorted(
        (image["file_name"], image["width"], image["height"]) for image in content["images"]
    )
    boxes = sorted(
        (
            files[item["image_id"]],
            names[item["category_id"]],
            item["bbox"],
            item["area"],
            item["iscrowd"],
            item["difficult"],
            item["truncated"],
        )
        for item in content["annotations"]
    )
    return images, boxes


@pytest.mark.parametrize(
    ("folder", "split", "options"),
    [
        ("bccd", "train", {"names": CELLS, "offset": 0}),
        ("bccd", "val", {"names": CELLS, "offset": 0}),
        ("bccd", "test", {"names": CELLS, "offset": 0}),
        ("voc", "train", {}),
        ("voc", "val", {}),
    ],
)
def test_conversion_equals_the_converted_files(data_dir, folder, split, options):
    found = voc_to_coco(data_dir / folder, split=split, **options)
    expected = json.loads((data_dir / folder / f"{split}.json").read_text())
    assert comparable(found) == comparable(expected)
    for part in ("images", "annotations"):
        assert [item["id"] for item in found[part]] == list(range(1, len(found[part]) + 1))
    assert all(type(number) is int for item in found["annotations"] for number in item["bbox"])


def test_empty_boxes_are_listed(data_dir, caplog):
    voc_to_coco(data_dir / "bccd", offset=0)
    assert "2 x box of zero or negative size: box dropped" in caplog.text
    assert "BloodImage_00338.xml: RBC [504, 337, 504, 337]" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        voc_to_coco(data_dir / "bccd", offset=1)
    assert caplog.text == "", "as pixels, a box from 504 to 504 is one pixel wide"


PAGE = """<annotation>
<filename>a.jpg</filename>
<size><width>40</width><height>30</height></size>
<object><name>cup</name>
<part><name>handle</name><bndbox><xmin>9</xmin></bndbox></part>
<bndbox><ymin>2</ymin><xmin>1.5</xmin><xmax>11</xmax><ymax>12.0</ymax></bndbox></object>
</annotation>"""


def write(folder: Path, text: str | bytes, name: str = "a.xml") -> Path:
    data = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(data)
    return folder


def test_keys_may_be_missing_or_fractional(tmp_path):
    content = voc_to_coco(write(tmp_path, PAGE.replace("<filename>a.jpg</filename>", "")), offset=0)
    assert content["images"] == [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}]
    (box,) = content["annotations"]
    assert box["bbox"] == [1.5, 2, 9.5, 10]
    assert (box["difficult"], box["truncated"]) == (0, 0)


def test_file_names_without_suffix(tmp_path):
    write(tmp_path, PAGE.replace("a.jpg", "2007_000027"))
    write(tmp_path, PAGE.replace("a.jpg", "b.png"), "b.xml")
    files = [image["file_name"] for image in voc_to_coco(tmp_path)["images"]]
    assert files == ["2007_000027.jpg", "b.png"]


def test_two_files_of_one_picture_stop(tmp_path):
    """Each says that the objects of the other are absent."""
    write(tmp_path, PAGE)
    write(tmp_path, PAGE.replace("a.jpg", "a"), "b.xml")
    with pytest.raises(DatasetError, match=r"<filename> a\.jpg in .*a\.xml and .*b\.xml"):
        voc_to_coco(tmp_path)


def test_names_come_from_the_whole_folder(tmp_path):
    # Else train and val would number their classes differently.
    for part in ("Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    write(tmp_path / "Annotations", PAGE.replace("a.jpg", "b.jpg"), "b.xml")
    write(tmp_path / "Annotations", PAGE.replace("cup", "ant"), "a.xml")
    write(tmp_path / "ImageSets" / "Main", "b 1\n\n", "val.txt")
    content = voc_to_coco(tmp_path, split="val")
    assert content["categories"] == [{"id": 1, "name": "ant"}, {"id": 2, "name": "cup"}]
    assert [item["category_id"] for item in content["annotations"]] == [2]
    alone = voc_to_coco([tmp_path / "Annotations" / "b.xml"])
    assert alone["categories"] == [{"id": 1, "name": "cup"}]


ENTITIES = '<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(PAGE.replace("</size>", ""), "expected XML, found .*line 7", id="open tag"),
        pytest.param("", "expected XML, found no element", id="empty"),
        pytest.param(ENTITIES + PAGE, "plain XML, found a document type 'a'", id="entities"),
        pytest.param((ENTITIES + PAGE).encode("utf-16"), "document type 'a'", id="in UTF-16"),
        pytest.param(PAGE.replace(">40<", "><"), "size/width, found ''", id="no width"),
        pytest.param(PAGE.replace(">40<", ">0<"), "at least 1 in <annotation>", id="zero width"),
        pytest.param(PAGE.replace("ymax", "ymux"), "bndbox/ymax, found nothing", id="no ymax"),
        pytest.param(PAGE.replace(">11<", ">nan<"), "bndbox/xmax, found 'nan'", id="nan"),
        pytest.param(PAGE.replace("<name>cup</name>", ""), "expected a name", id="no name"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message) as caught:
        voc_to_coco(write(tmp_path, text))
    assert str(tmp_path / "a.xml") in str(caught.value)


def test_bad_requests(tmp_path, data_dir):
    with pytest.raises(DatasetError, match="found none"):
        voc_to_coco(tmp_path)
    with pytest.raises(DatasetError, match=r"found 'cup' \(.*a\.xml\)"):
        voc_to_coco(write(tmp_path, PAGE), names=["owl"])
    with pytest.raises(DatasetError, match="every class name once"):
        voc_to_coco(tmp_path, names=["cup", "cup"])
    with pytest.raises(DatasetError, match=r"val\.txt: expected a list of images"):
        voc_to_coco(tmp_path, split="val")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    write(lists, "a  1\n\nb -1\n", "val.txt")
    with pytest.raises(DatasetError, match="found none for 1: b"):
        voc_to_coco(tmp_path, split="val")
    with pytest.raises(DatasetError, match="found files"):
        voc_to_coco([tmp_path / "a.xml"], split="val")
    with pytest.raises(DatasetError, match="found twice: a"):
        voc_to_coco([tmp_path / "a.xml", tmp_path / "a.xml"])
