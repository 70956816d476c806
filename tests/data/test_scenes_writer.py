import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from owlkit.data.scenes import BASE, CLASS_NAMES, NOVEL, TIERS, draw_scene, make_scenes, writer
from owlkit.errors import DatasetError

TOOL = Path(__file__).parents[2] / "tools" / "make_scenes.py"
TRAIN, VAL = 48, 12
NOVEL_NAMES = {CLASS_NAMES[label] for label in NOVEL}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "easy"
    make_scenes(out, train=TRAIN, val=VAL, seed=3)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def captions_of(folder: Path, split: str) -> list[dict]:
    text = (folder / f"captions_{split}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def names_in(caption: str) -> list[str]:
    return sorted(re.findall("|".join(CLASS_NAMES), caption))


def test_layout(folder):
    assert sorted(contents(folder)) == sorted(
        [f"train/{index:06d}.jpg" for index in range(TRAIN)]
        + [f"val/{index:06d}.jpg" for index in range(VAL)]
        + [f"annotations/{name}.json" for name in ("instances_train", "instances_val", "split")]
        + ["captions_train.jsonl", "captions_val.jsonl"]
    )
    with Image.open(folder / "train/000000.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
    split = json.loads((folder / "annotations/split.json").read_text())
    assert split == {
        "base": [CLASS_NAMES[label] for label in BASE],
        "novel": [CLASS_NAMES[label] for label in NOVEL],
    }


@pytest.mark.parametrize("tier", TIERS)
def test_files_are_the_same_every_time_and_do_not_depend_on_how_many_there_are(tmp_path, tier):
    make_scenes(tmp_path / "a", tier=tier, train=10, val=3, seed=1)
    make_scenes(tmp_path / "b", tier=tier, train=10, val=3, seed=1)
    make_scenes(tmp_path / "larger", tier=tier, train=12, val=4, seed=1)
    make_scenes(tmp_path / "other", tier=tier, train=10, val=3, seed=2)
    first, larger = contents(tmp_path / "a"), contents(tmp_path / "larger")
    assert first == contents(tmp_path / "b")
    pictures = [name for name in first if name.endswith(".jpg")]
    assert all(first[name] == larger[name] for name in pictures)
    other = contents(tmp_path / "other")
    assert all(first[name] != other[name] for name in pictures)
    assert len({first[name] for name in pictures}) == len(pictures), "a picture twice"


def test_training_boxes_are_of_base_pairs_in_pictures_without_novel_ones(folder):
    coco = COCO(str(folder / "annotations/instances_train.json"))
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    assert list(names.values()) == [CLASS_NAMES[label] for label in BASE]
    listed = {image["file_name"]: image["id"] for image in coco.dataset["images"]}
    for line in captions_of(folder, "train"):
        present = names_in(line["captions"][0])
        assert (line["file"] in listed) == (not NOVEL_NAMES & set(present))
        if line["file"] in listed:
            boxes = coco.imgToAnns[listed[line["file"]]]
            assert sorted(names[box["category_id"]] for box in boxes) == present
    assert 0 < len(listed) < TRAIN


def test_validation_has_every_box_of_every_class(folder):
    coco = COCO(str(folder / "annotations/instances_val.json"))
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    assert names == {label + 1: name for label, name in enumerate(CLASS_NAMES)}
    files = [image["file_name"] for image in coco.dataset["images"]]
    assert files == [f"val/{index:06d}.jpg" for index in range(VAL)]
    assert min(coco.imgs) == min(coco.anns) == 1, "pycocotools reads 0 as no match"
    for index, image in enumerate(coco.dataset["images"]):
        scene = draw_scene(TIERS["easy"], "val", index, seed=3)
        boxes = coco.imgToAnns[image["id"]]
        assert [box["category_id"] - 1 for box in boxes] == scene.labels.tolist()
        xywh = np.array([box["bbox"] for box in boxes])
        np.testing.assert_array_equal(xywh[:, :2] + xywh[:, 2:], scene.boxes[:, 2:])
        np.testing.assert_array_equal(xywh[:, :2], scene.boxes[:, :2])
        assert ((xywh[:, :2] + xywh[:, 2:]) <= (image["width"], image["height"])).all()


def test_captions_lines(folder):
    train, val = captions_of(folder, "train"), captions_of(folder, "val")
    assert [line["file"] for line in train] == [f"train/{index:06d}.jpg" for index in range(TRAIN)]
    assert [line["group"] for line in train] == [index // 8 for index in range(TRAIN)]
    assert all(len(line["captions"]) == 2 for line in [*train, *val])
    assert [sorted(line) for line in val] == [["captions", "file"]] * VAL


def test_jpegs_hold_the_scenes(folder):
    scene = draw_scene(TIERS["easy"], "train", 7, seed=3)
    decoded = np.asarray(Image.open(folder / "train/000007.jpg")).astype(int)
    assert np.abs(decoded - scene.image).mean() < 4, "a wrong order of channels gives over 20"


def test_summary_counts(tmp_path):
    summary = make_scenes(tmp_path / "scenes", train=64, val=1)
    labels = [draw_scene(TIERS["easy"], "train", index).labels for index in range(64)]
    boxed = [one for one in labels if not np.isin(one, NOVEL).any()]
    assert (summary.train, summary.boxed, summary.val) == (64, len(boxed), 1)
    everywhere, in_boxes = (
        [list(np.concatenate(part)).count(label) for label in range(64)] for part in (labels, boxed)
    )
    assert summary.rarest == min(everywhere)
    assert summary.rarest_boxed == min(in_boxes[label] for label in BASE)


def test_an_empty_folder_is_used_and_a_full_one_left_alone(tmp_path):
    out = tmp_path / "deep" / "scenes"
    out.mkdir(parents=True)
    make_scenes(out, train=1, val=1)
    before = contents(out)
    with pytest.raises(DatasetError, match="expected a free place or an empty folder"):
        make_scenes(out, train=2, val=1)
    assert contents(out) == before
    assert list(out.parent.iterdir()) == [out]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(tier, split, index, *, seed):
        if index == 3:
            raise KeyboardInterrupt
        return draw_scene(tier, split, index, seed=seed)

    monkeypatch.setattr(writer, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path / "scenes", train=8, val=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tier": "medium"}, "a tier of easy, hard, found 'medium'"),
        ({"train": 0}, "train of at least 1, found 0"),
        ({"val": -1}, "val of at least 1, found -1"),
        ({"seed": -1}, "seed of at least 0, found -1"),
    ],
)
def test_bad_arguments_are_named(tmp_path, options, message):
    with pytest.raises(DatasetError, match=message):
        make_scenes(tmp_path / "scenes", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_program_reports_what_it_made_and_what_it_refuses(tmp_path):
    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(TOOL), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    out = tmp_path / "scenes"
    made = program(str(out), "--tier", "hard", "--train", "8", "--val", "2", "--seed", "1")
    assert made.returncode == 0, made.stderr
    assert re.search(r"8 training pictures, \d with boxes, and 2 for validation", made.stdout)
    assert len(list((out / "train").iterdir())) == 8
    refused = program(str(out))
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert "Traceback" not in refused.stderr
