"""`owlkit annotate`, as a shell would call it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from owlkit import Predictor
from owlkit.cli import annotate
from owlkit.cli.command import Command
from owlkit.data.formats import voc_to_coco
from owlkit.detections import Detections
from owlkit.queries import QuerySet

CLASSES = ("cat", "remote control")
PICTURES = ("dog.jpg", "dog.png", "more/dog.jpg", "more/images/dog 1.jpg", "ünïcode 猫.png")


class FakePredictor:
    """Finds boxes that follow from the pixels; may be interrupted, and counts its images."""

    def __init__(self, identity: str = "weights 1") -> None:
        self.backend = SimpleNamespace(
            identity=identity, precision="float32", calibration=None, threshold=None
        )
        self.seen = 0
        self.interrupt_after = 10**9

    def detect(
        self, images: tuple[NDArray[np.uint8], ...], queries: QuerySet, **options: Any
    ) -> list[Detections]:
        assert options["nms_iou"] == 0.5
        assert queries.names == CLASSES
        if self.seen >= self.interrupt_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return [self._boxes(image) for image in images]

    def _boxes(self, image: NDArray[np.uint8]) -> Detections:
        height, width = image.shape[:2]
        generator = np.random.default_rng(int(image.sum()))
        count = 0 if (width, height) == (50, 50) else 4
        corners = np.sort(generator.random((count, 2, 2)), axis=1).reshape(count, 4)
        labels = generator.integers(0, 2, count)
        return Detections(
            boxes=corners * [width, height, width, height],
            scores=np.sort(generator.random(count))[::-1],
            labels=labels,
            names=tuple(CLASSES[label] for label in labels),
            image_size=(height, width),
        )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures, an empty one and an unreadable one."""
    folder = tmp_path / "photos"
    for number, name in enumerate(PICTURES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((160 + number, 121)).save(folder / name)
    Image.new("RGB", (50, 50)).save(folder / "empty.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    fake = FakePredictor()

    def load(*_: Any, precision: str, **__: Any) -> FakePredictor:
        fake.backend.precision = precision
        return fake

    monkeypatch.setattr(Predictor, "from_pretrained", load)
    return fake


Run = Callable[..., int]


@pytest.fixture
def run(photos: Path) -> Run:
    """The command on the photographs."""
    command = Command(annotate.SUMMARY, annotate.add_arguments, annotate.run)

    def call(out: Path, *words: str | Path, queries: str = ", ".join(CLASSES)) -> int:
        options = ["--queries", queries, "--out", out, *words]
        return command.main([str(word) for word in ("model", photos, *options)])

    return call


def content_of(folder: Path) -> dict[str, bytes]:
    """Label files and sheets; what is below `progress` and the links to pictures are none."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and "progress" not in path.parts
    }


def test_all_formats_say_the_same(
    run: Run, predictor: FakePredictor, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    out = photos / "labels of this folder"
    for form in ("coco", "yolo", "voc"):
        assert run(out, "--format", form) == 0
        said = capsys.readouterr()
        assert "6 images, 20 boxes, 1 unreadable" in said.out
        assert "unreadable broken.jpg: expected an image; found" in said.err
    assert predictor.seen == 6, "other formats cost no detection"
    expected = sorted([*PICTURES, "empty.png"])
    coco = COCO(out / "annotations.json")
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == expected
    voc = voc_to_coco(out, split="all")
    assert sorted(image["file_name"] for image in voc["images"]) == expected
    listed = (out / "images.txt").read_text(encoding="utf-8").splitlines()
    found = {os.path.realpath(out / line) for line in listed}
    assert found == {str((photos / name).resolve()) for name in expected}
    names = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))["names"]
    for image_id, line in zip(coco.getImgIds(), listed, strict=True):
        entry = coco.loadImgs(image_id)[0]
        assert (out / line).samefile(photos / entry["file_name"])
        rows = (out / "labels_with_confidence" / Path(line).with_suffix(".txt").name).read_text()
        items = coco.loadAnns(coco.getAnnIds(image_id))
        for row, item in zip(rows.splitlines(), items, strict=True):
            label, *_, width, height, score = map(float, row.split())
            assert names[int(label)] == coco.loadCats(item["category_id"])[0]["name"]
            # Corners in hundredths of pixels, fractions in millionths.
            assert abs(width * entry["width"] - item["bbox"][2]) < 0.011
            assert abs(height * entry["height"] - item["bbox"][3]) < 0.011
            assert abs(score - item["score"]) < 2e-6
    with Image.open(out / "sheets" / "sheet-001.jpg") as sheet:
        assert sheet.width > 6 * 280
    assert json.loads((out / "summary.json").read_text())["unreadable"].keys() == {"broken.jpg"}
    assert not list(photos.glob("*.txt")), "nothing beside the images"


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_interrupts_and_shards_give_equal_bytes(
    run: Run,
    predictor: FakePredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    form: str,
) -> None:
    assert run(tmp_path / "once", "--format", form) == 0
    parts = tmp_path / "parts"
    predictor.seen, predictor.interrupt_after = 0, 1
    assert run(parts, "--format", form) == 130
    assert "the same command goes on" in capsys.readouterr().err
    predictor.interrupt_after = 10**9
    assert run(parts, "--format", form, "--shard", "2/3") == 0
    assert "shard 2/3 done; " in capsys.readouterr().out
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert run(parts, "--format", form) == 0
    assert content_of(parts) == {}, "labels are written when all is done"
    assert run(parts, "--format", form, "--merge") == 1
    assert "run the shards that are missing" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    assert run(parts, "--format", form) == 0
    assert predictor.seen == 6, "each image once"
    assert content_of(parts) == content_of(tmp_path / "once")


def test_a_finished_job_is_written_again_only_on_demand(
    run: Run, predictor: FakePredictor, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert run(out) == 0
    labels = out / "annotations.json"
    labels.write_text("corrected by hand")
    assert run(out) == 0
    assert "--merge writes" in capsys.readouterr().out
    assert labels.read_text() == "corrected by hand"
    assert run(out, "--merge", "--sheets", "0") == 0
    assert len(json.loads(labels.read_text())["images"]) == 6
    (photos / "dog.png").unlink()
    (photos / "more" / "new.png").write_bytes((photos / "empty.png").read_bytes())
    assert run(out) == 0
    assert predictor.seen == 7
    names = [image["file_name"] for image in json.loads(labels.read_text())["images"]]
    assert "more/new.png" in names
    assert "dog.png" not in names


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--threshold", "0.3"], "begun with threshold None, now 0.3"),
        (["--tile", "64"], "begun with tile '0', now '64'"),
        (["--precision", "bfloat16"], "begun with precision 'float32', now 'bfloat16'"),
    ],
)
def test_a_job_goes_on_with_its_settings_alone(
    run: Run,
    predictor: FakePredictor,
    tmp_path: Path,
    capsys: Any,
    words: list[str],
    found: str,
) -> None:
    assert run(tmp_path / "out") == 0
    assert run(tmp_path / "out", *words) == 1
    assert found in capsys.readouterr().err


def test_a_job_goes_on_with_its_model_and_queries_alone(
    run: Run,
    predictor: FakePredictor,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    assert run(out) == 0
    assert run(out, queries="cat, dog") == 1
    assert "begun with classes ['cat', 'remote control'], now ['cat', 'dog']" in (
        capsys.readouterr().err
    )
    other = FakePredictor("weights 2")
    monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: other)
    assert run(out) == 1
    assert "begun with model 'weights 1', now 'weights 2'" in capsys.readouterr().err
    assert other.seen == 0
    saved = QuerySet.from_text(CLASSES)
    for number in range(2):
        saved.save(tmp_path / "saved.queries")
        assert run(tmp_path / "out2", queries=str(tmp_path / "saved.queries")) == number
        saved.update("cat", threshold=0.5)
        monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: predictor)
    assert "begun with queries 'file " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "3/2"], "--shard: expected a shard from 1/1 to N/N, found 3/2"),
        (["--batch-size", "0"], "--batch-size: expected at least 1, found 0"),
        (["--sheets", "-1"], "--sheets: expected at least 0, found -1"),
        (["--nms-iou", "2"], "nms_iou"),
        (["--merge"], "expected a job that has begun, found none"),
        (["--out", __file__], "--out: expected a folder to write to"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    run: Run,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(
        Predictor, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded")
    )
    assert run(tmp_path / "out", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_labels_of_others_and_odd_names_are_refused_first(
    run: Run, photos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Predictor, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded")
    )
    (tmp_path / "data set" / "labels").mkdir(parents=True)
    assert run(tmp_path / "data set", "--format", "yolo") == 1
    assert "found one that owlkit annotate did not write" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "data set").iterdir()] == ["labels"]
    (photos / "dog.jpg").rename(photos / "dog\x07.jpg")
    assert run(tmp_path / "out", "--format", "voc") == 1
    assert r"'dog\x07.jpg'" in capsys.readouterr().err


def test_results_of_other_jobs_are_no_images(
    run: Run, photos: Path, predictor: FakePredictor
) -> None:
    assert run(photos / "first", "--format", "yolo") == 0
    (photos / "progress").mkdir()
    (photos / "progress" / "settings.json").write_text("{}")
    assert run(photos / "second") == 0
    names = json.loads((photos / "second" / "annotations.json").read_text())["images"]
    assert sorted(image["file_name"] for image in names) == sorted([*PICTURES, "empty.png"])


def test_the_model_stands_first_or_is_an_option(
    predictor: FakePredictor, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    command = Command(annotate.SUMMARY, annotate.add_arguments, annotate.run)
    rest = ["--queries", "cat, remote control", "--out"]
    folders = [str(photos / "more" / "images"), str(photos / "more")]
    assert command.main([*folders, "--model", "m", *rest, str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    assert names == ["dog.jpg", "images/dog 1.jpg"]
    assert command.main([folders[0], *rest, str(tmp_path / "out2")]) == 1
    assert "expected a model and a folder" in capsys.readouterr().err
    assert command.main(["m", folders[0], folders[1] + "x", *rest, str(tmp_path / "out2")]) == 1
    assert "expected a folder of images, found none" in capsys.readouterr().err


def test_labels_are_what_the_predictor_finds(
    owlv2_folder: Path, photos: Path, tmp_path: Path
) -> None:
    command = Command(annotate.SUMMARY, annotate.add_arguments, annotate.run)
    words = [owlv2_folder, photos, "--queries", "cat, remote control", "--out", tmp_path / "out"]
    options = ["--threshold", "0.3", "--top-k", "20", "--device", "cpu", "--sheets", "0"]
    assert command.main([str(word) for word in [*words, *options]]) == 0
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    predictor = Predictor.from_pretrained(owlv2_folder, device="cpu")
    for image in content["images"]:
        found = predictor.detect(
            photos / image["file_name"], list(CLASSES), threshold=0.3, nms_iou=0.5, top_k=20
        )
        items = [item for item in content["annotations"] if item["image_id"] == image["id"]]
        assert [item["category_id"] - 1 for item in items] == found.labels.tolist()
        np.testing.assert_allclose([item["score"] for item in items], found.scores, atol=1e-6)
    assert content["annotations"]
    assert not (tmp_path / "out" / "sheets").exists()


def test_templates_are_for_words(run: Run, tmp_path: Path, capsys: Any) -> None:
    QuerySet.from_text(CLASSES).save(tmp_path / "saved.queries")
    queries = str(tmp_path / "saved.queries")
    assert run(tmp_path / "out", "--templates", "ensemble7", queries=queries) == 1
    assert "already has its prompts" in capsys.readouterr().err
