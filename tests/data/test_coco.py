"""Reading COCO and LVIS files against pycocotools, and what happens to everything that is wrong."""

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owlkit.data.coco import DetectionDataset, read_coco
from owlkit.data.dataset_report import Finding
from owlkit.errors import DatasetError

SIZE = (40, 30)
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


class Folder:
    """A small data set on disk that a test can spoil."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.images.mkdir()
        self.annotations = folder / "instances.json"
        self.content = copy.deepcopy(SOUND)
        for name in ("a.jpg", "b.jpg"):
            self.save_image(name)

    def save_image(self, name: str, size: tuple[int, int] = SIZE, **options: Any) -> None:
        (self.images / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size, "teal").save(self.images / name, **options)

    def add_image(self, number: int, name: str, *, exists: bool = True, **keys: Any) -> None:
        entry = {"id": number, "file_name": name, "width": 40, "height": 30, **keys}
        self.content["images"].append(entry)
        if exists:
            self.save_image(name)

    def add_box(self, box: list[float], **keys: Any) -> None:
        """Adds a box of class `cup` to the image 3."""
        entry = {"id": 50 + len(self.content["annotations"]), "image_id": 3, "category_id": 5}
        self.content["annotations"].append({**entry, "bbox": box, "iscrowd": 0, **keys})

    def add_sound_images(self, count: int = 200) -> None:
        """Adds images so that single lost ones stay below one per cent."""
        for number in range(1000, 1000 + count):
            self.add_image(number, f"{number}.jpg", exists=False)
            (self.images / f"{number}.jpg").hardlink_to(self.images / "a.jpg")

    def read(self, **options: Any) -> DetectionDataset:
        self.annotations.write_text(json.dumps(self.content))
        return read_coco(self.annotations, self.images, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_sound_file(folder, caplog):
    caplog.set_level(logging.INFO, logger="owlkit.data.coco")
    dataset = folder.read()
    assert dataset.names == ("cup", "owl")
    assert dataset.category_ids == (5, 90)
    assert dataset.frequencies == (None, None)
    assert dataset.exhaustive
    first, second = dataset.images
    assert (first.id, first.path, first.width, first.height) == (7, folder.images / "a.jpg", 40, 30)
    np.testing.assert_array_equal(first.boxes, [[1, 2, 11, 22], [4.5, 5.25, 10.5, 12.25]])
    np.testing.assert_array_equal(first.labels, [1, 0])
    assert (first.boxes.dtype, first.labels.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(second.boxes, [[0, 0, 40, 30]])
    assert first.absent == first.unknown == ()
    np.testing.assert_array_equal(dataset.class_counts(), [2, 1])
    assert dataset.report.counts == {}
    assert not dataset.report.has_faults
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert caplog.messages == [f"{folder.annotations}: 2 images, 3 boxes"]


@pytest.mark.parametrize(("part", "check"), [("train", "decode"), ("val", "header")])
def test_coco_as_downloaded_equals_pycocotools(data_dir, part, check, capsys):
    from pycocotools.coco import COCO

    file = data_dir / "coco_real" / f"instances_{part}.json"
    dataset = read_coco(file, data_dir / "coco_real" / f"{part}2017", check=check)
    peer = COCO(str(file))
    capsys.readouterr()
    assert [image.id for image in dataset.images] == [
        image["id"] for image in peer.dataset["images"]
    ]
    assert list(dataset.category_ids) == sorted(peer.cats)
    assert [peer.cats[number]["name"] for number in dataset.category_ids] == list(dataset.names)
    crowds = 0
    for image in dataset.images:
        annotations = peer.loadAnns(peer.getAnnIds(image.id))
        single = [item for item in annotations if not item["iscrowd"]]
        boxes = np.array([item["bbox"] for item in single]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(image.boxes, boxes, atol=2e-2)
        labels = [dataset.category_ids[label] for label in image.labels]
        assert labels == [item["category_id"] for item in single]
        crowds += len(annotations) - len(single)
        only_crowd = {item["category_id"] for item in annotations} - set(labels)
        assert {dataset.category_ids[label] for label in image.unknown} == only_crowd
    assert dataset.report.counts == {Finding.CROWD: crowds}
    assert dataset.report.boxes == dataset.class_counts().sum()


def test_images_below_folders_are_found(data_dir):
    dataset = read_coco(data_dir / "coco_real" / "instances.json", data_dir / "coco_real")
    assert len(dataset.images) == 411
    # With the folder above the images, the address in coco_url says where they are.
    file = data_dir / "coco_real" / "instances_val.json"
    dataset = read_coco(file, data_dir / "coco_real", check="names")
    assert {image.path.parent.name for image in dataset.images} == {"val2017"}


@pytest.mark.parametrize("name", ["bccd", "voc"])
def test_converted_sets_have_no_faults(data_dir, name):
    dataset = read_coco(data_dir / name / "train.json", data_dir / name / "JPEGImages")
    assert dataset.report.counts == {}
    assert dataset.report.boxes == {"bccd": 2804, "voc": 966}[name]


def test_lvis_without_images_stops(data_dir, tmp_path):
    file = data_dir / "eval_fixtures" / "lvis_val_100" / "lvis_val_100.json"
    with pytest.raises(DatasetError, match="100 of 100 are") as caught:
        read_coco(file, tmp_path, settings=("data.val", "data.val.images"))
    message = str(caught.value)
    assert f"{tmp_path / 'val2017' / '000000266409.jpg'}" in message
    assert "Set data.val.images" in message
    assert "train2017/*.jpg" in message


def test_lvis(data_dir, tmp_path):
    file = data_dir / "eval_fixtures" / "lvis_val_100" / "lvis_val_100.json"
    content = json.loads(file.read_text())
    (tmp_path / "val2017").mkdir()
    for image in content["images"]:
        (tmp_path / "val2017" / f"{image['id']:012}.jpg").touch()
    dataset = read_coco(file, tmp_path, check="names")
    assert not dataset.exhaustive
    assert read_coco(file, tmp_path, check="names", exhaustive=True).exhaustive
    assert len(dataset.names) == 1230
    assert {frequency: dataset.frequencies.count(frequency) for frequency in "rcf"} == {
        frequency: sum(item["frequency"] == frequency for item in content["categories"])
        for frequency in "rcf"
    }
    assert dataset.report.boxes == len(content["annotations"])
    for record, image in zip(dataset.images, content["images"], strict=True):
        for labels, key in (
            (record.absent, "neg_category_ids"),
            (record.unknown, "not_exhaustive_category_ids"),
        ):
            assert [dataset.category_ids[label] for label in labels] == sorted(image[key])


def test_lvis_v1_has_no_file_names(folder):
    for image in folder.content["images"]:
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"
    assert [image.path.name for image in folder.read().images] == ["a.jpg", "b.jpg"]
    folder.save_image("train2017/b.jpg")
    paths = [image.path.relative_to(folder.images) for image in folder.read().images]
    assert paths == [Path("a.jpg"), Path("train2017/b.jpg")]


def test_masks_and_other_keys_are_ignored(folder):
    folder.content["annotations"][0] |= {
        "segmentation": {"counts": [1, 2], "size": [30, 40]},
        "keypoints": [0] * 51,
        "area": 3,
    }
    folder.content["annotations"][1] |= {"segmentation": [[1, 2, 3, 4, 5, 6]]}
    del folder.content["annotations"][1]["iscrowd"]
    assert folder.read().report.counts == {}


@pytest.mark.parametrize(
    ("box", "kind", "clipped"),
    [
        pytest.param([-5, -5, 10, 10], Finding.PARTLY_OUTSIDE, [0, 0, 5, 5], id="over a corner"),
        pytest.param([35, 1, 10, 10], Finding.PARTLY_OUTSIDE, [35, 1, 40, 11], id="too wide"),
        pytest.param([-9, -9, 99, 99], Finding.PARTLY_OUTSIDE, [0, 0, 40, 30], id="larger"),
        pytest.param([30, 20, 10.01, 10], None, [30, 20, 40, 30], id="two decimals are no fault"),
        pytest.param([40, 0, 5, 5], Finding.OUTSIDE, None, id="touches the edge from outside"),
        pytest.param([-8, 3, 5, 5], Finding.OUTSIDE, None, id="left of the image"),
        pytest.param([3, 3, 0, 5], Finding.EMPTY, None, id="no width"),
        pytest.param([3, 3, 5, -1], Finding.EMPTY, None, id="negative height"),
        pytest.param([33.3, 3, 1e-9, 5], Finding.EMPTY, None, id="no width in 32 bits"),
        pytest.param([3, 3, float("nan"), 5], Finding.NOT_FINITE, None, id="nan"),
        pytest.param([3, 3, float("inf"), 5], Finding.NOT_FINITE, None, id="inf"),
        pytest.param([0, 0, 1e308, 1e308], Finding.PARTLY_OUTSIDE, [0, 0, 40, 30], id="huge"),
    ],
)
def test_faulty_boxes(folder, caplog, box, kind, clipped):
    folder.content["annotations"] = [folder.content["annotations"][0]]
    folder.add_box(box)
    dataset = folder.read()
    assert dataset.report.counts == ({} if kind is None else {kind: 1})
    assert dataset.report.has_faults == (kind is not None)
    record = dataset.images[1]
    if clipped:
        np.testing.assert_array_equal(record.boxes, [clipped])
        assert record.unknown == ()
    else:
        assert record.boxes.shape == (0, 4)
        assert record.unknown == (0,), "an object is there, so the class is not absent"
    if kind:
        assert "annotation 51" in caplog.text
        assert "image 3 (b.jpg, 40x30)" in caplog.text
        assert caplog.records[0].levelname == "WARNING"


def test_annotations_of_nothing_are_dropped(folder):
    folder.add_box([1, 1, 2, 2], image_id=99)
    folder.add_box([1, 1, 2, 2], category_id=99)
    folder.add_box([1, 1, 2, 2], id=1)
    dataset = folder.read()
    assert dataset.report.counts == {
        Finding.UNKNOWN_IMAGE: 1,
        Finding.UNKNOWN_CATEGORY: 1,
        Finding.DUPLICATE_ANNOTATION: 1,
    }
    assert "annotation 53: image 99, category 5" in str(dataset.report)
    assert [len(image.boxes) for image in dataset.images] == [2, 2]


def test_crowds(folder):
    folder.content["annotations"][0] |= {"iscrowd": 1}  # the only owl of image 7
    folder.add_box([1, 1, 5, 5], iscrowd=1)  # beside the cup of image 3
    first, second = folder.read(crowd="drop").images
    assert (first.unknown, first.labels.tolist()) == ((1,), [0])
    assert (second.unknown, second.labels.tolist()) == ((), [0])
    dataset = folder.read(crowd="drop_class")
    first, second = dataset.images
    assert (first.unknown, first.labels.tolist()) == ((1,), [0])
    assert (second.unknown, second.labels.tolist()) == ((0,), [])
    assert dataset.report.counts == {Finding.CROWD: 2, Finding.CROWDED_CLASS: 1}
    assert not dataset.report.has_faults


def test_absent_classes_that_contradict(folder):
    folder.content["images"][0] |= {
        "neg_category_ids": [90, 77],
        "not_exhaustive_category_ids": [5],
    }
    folder.content["images"][1] |= {"neg_category_ids": [90], "not_exhaustive_category_ids": []}
    dataset = folder.read()
    assert [image.absent for image in dataset.images] == [(), (1,)]
    assert [image.unknown for image in dataset.images] == [(0,), ()]
    assert dataset.report.counts == {Finding.CONTRADICTION: 1, Finding.UNKNOWN_CATEGORY: 1}


def spoil(folder: Folder, name: str) -> None:
    """Makes the image of that name faulty."""
    path = folder.images / name
    if name == "empty.jpg":
        path.write_bytes(b"")
    elif name == "text.jpg":
        path.write_text("no image")
    elif name == "cut.jpg":
        path.write_bytes(path.read_bytes()[:-20])
    elif name == "large.jpg":
        folder.save_image(name, (80, 60))
    elif name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        folder.save_image(name, SIZE, exif=exif)
    elif name == "folder.jpg":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    ("name", "check", "kind"),
    [
        ("gone.jpg", "names", Finding.MISSING_IMAGE),
        ("folder.jpg", "names", Finding.MISSING_IMAGE),
        ("x" * 400, "names", Finding.MISSING_IMAGE),
        ("nul\0.jpg", "names", Finding.MISSING_IMAGE),
        ("../instances.json", "names", Finding.OUTSIDE_FOLDER),
        ("/etc/hostname", "names", Finding.OUTSIDE_FOLDER),
        ("text.jpg", "names", None),
        ("empty.jpg", "header", Finding.UNREADABLE_IMAGE),
        ("text.jpg", "header", Finding.UNREADABLE_IMAGE),
        ("large.jpg", "header", Finding.WRONG_SIZE),
        ("turned.jpg", "header", Finding.WRONG_SIZE),
        ("cut.jpg", "header", None),
        ("cut.jpg", "decode", Finding.UNREADABLE_IMAGE),
        ("large.jpg", "decode", Finding.WRONG_SIZE),
        ("turned.jpg", "decode", Finding.WRONG_SIZE),
    ],
)
def test_faulty_images(folder, name, check, kind):
    folder.add_sound_images()
    made = name.endswith(".jpg") and name not in ("gone.jpg", "nul\0.jpg")
    folder.add_image(11, name, exists=made)
    spoil(folder, name)
    folder.add_box([-3, 1, 9, 9], image_id=11)
    dataset = folder.read(check=check)
    assert (11 in {image.id for image in dataset.images}) == (kind is None)
    boxes = {Finding.PARTLY_OUTSIDE: 1} if kind is None else {}
    assert dataset.report.counts == boxes | ({} if kind is None else {kind: 1})
    if kind:
        assert "image 11: " in dataset.report.examples[kind][0]
    assert dataset.report.boxes == 3 + (kind is None)


@pytest.mark.parametrize("check", ["header", "decode"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_sizes_are_those_of_the_upright_picture(folder, check, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    folder.save_image(f"phone.{suffix}", (30, 40), exif=exif)
    folder.add_image(11, f"phone.{suffix}", exists=False)
    assert folder.read(check=check).report.counts == {}


def test_more_than_one_percent_of_lost_images_stops(folder):
    folder.add_sound_images(197)
    folder.add_image(11, "gone.jpg", exists=False)
    assert len(folder.read().images) == 199, "1 of 200 is half a per cent"
    folder.add_image(12, "also gone.jpg", exists=False)
    assert len(folder.read().images) == 199, "2 of 201"
    folder.add_image(13, "text.jpg")
    spoil(folder, "text.jpg")
    with pytest.raises(DatasetError, match="3 of 202 are") as caught:
        folder.read()
    assert f"image 11: no {folder.images / 'gone.jpg'}" in str(caught.value)
    assert "1 x image unreadable" in str(caught.value)


def test_images_of_one_file_become_one(folder, caplog):
    """In an exhaustive set each entry says that the objects of the others are absent."""
    folder.add_image(11, "./b.jpg", exists=False, neg_category_ids=[90])
    folder.add_image(12, "b.jpg", exists=False, not_exhaustive_category_ids=[5])
    folder.add_box([1, 1, 5, 5], image_id=11)
    folder.add_box([2, 2, 5, 5], image_id=12)
    dataset = folder.read()
    assert [image.id for image in dataset.images] == [7, 3]
    merged = dataset.images[1]
    expected = [[0, 0, 40, 30], [1, 1, 6, 6], [2, 2, 7, 7]]
    np.testing.assert_array_equal(merged.boxes, expected)
    assert (merged.absent, merged.unknown) == ((1,), (0,))
    assert dataset.report.counts == {Finding.REPEATED_IMAGE: 2}
    assert f"images 3 and 11: {folder.images / 'b.jpg'}" in caplog.text
    apart = folder.read(merge_repeated=False)
    assert [(image.id, len(image.boxes)) for image in apart.images] == [
        *((7, 2), (3, 1), (11, 1), (12, 1))
    ]
    assert apart.report.counts == {Finding.REPEATED_IMAGE: 2}


def test_only_the_first_images_are_looked_at(folder, caplog):
    folder.add_image(11, "gone.jpg", exists=False)
    folder.add_box([1, 1, 5, 5], image_id=11)
    dataset = folder.read(max_images=2)
    assert [image.id for image in dataset.images] == [7, 3]
    assert dataset.report.counts == {}
    assert dataset.report.boxes == 3
    with pytest.raises(DatasetError, match="1 of 3 are"):
        folder.read(max_images=3)


def test_folders_as_windows_writes_them(folder):
    folder.save_image("part/c.jpg")
    folder.content["images"][0]["file_name"] = "part\\c.jpg"
    assert folder.read().images[0].path == folder.images / "part" / "c.jpg"
    folder.save_image("a\\b.jpg")
    folder.content["images"][0]["file_name"] = "a\\b.jpg"
    assert folder.read().images[0].path == folder.images / "a\\b.jpg"
    folder.add_sound_images()
    folder.content["images"][0]["file_name"] = "..\\instances.json"
    assert folder.read(check="names").report.counts == {Finding.OUTSIDE_FOLDER: 1}


def test_missing_data_says_what_to_put_where(folder, tmp_path):
    with pytest.raises(DatasetError, match="instances_train2017") as caught:
        read_coco(tmp_path / "gone.json", folder.images)
    assert f"{tmp_path / 'gone.json'} (annotations), found no such file" in str(caught.value)
    with pytest.raises(DatasetError, match=r"\(--annotations\), found no such file"):
        read_coco(tmp_path / "gone.json", folder.images, settings=("--annotations", "--images"))
    folder.read()
    with pytest.raises(DatasetError, match=r"\(--images\), found no such folder"):
        read_coco(folder.annotations, tmp_path / "gone", settings=("--annotations", "--images"))
    with pytest.raises(DatasetError, match="found a folder"):
        read_coco(tmp_path, folder.images)


def test_reading_needs_neither_torch_nor_albumentations():
    code = (
        "import sys, owlkit.data.coco, owlkit.data.formats, owlkit.data.split\n"
        "assert not {'torch', 'albumentations'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
