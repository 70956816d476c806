"""`owlkit evaluate-encoder`: a model and data, in; numbers, tables and a picture, out."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owlkit.cli import evaluate_encoder
from owlkit.cli.command import Command
from owlkit.data.captions import read_captioned_images
from owlkit.data.class_images import read_class_images
from owlkit.data.image_sources import read_images
from owlkit.encoders import VisionTower
from owlkit.evaluation.copy_detection import measure_copies
from owlkit.evaluation.encoder import (
    encode_classes,
    measure_few_shot,
    measure_probes,
    measure_retrieval,
    measure_zero_shot,
)
from owlkit.evaluation.features import Encoder
from owlkit.evaluation.image_retrieval import measure_class_retrieval
from owlkit.evaluation.layers import measure_layers
from owlkit.geometry import Preprocessing
from owlkit.models.dual_encoder import DualEncoder
from tests.evaluation.small_encoder import make_dual_encoder, make_pictures
from tests.evaluation.small_set import make_records, write_coco

Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("model") / "pair"
    make_dual_encoder(tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def run() -> Run:
    command = Command(
        evaluate_encoder.SUMMARY, evaluate_encoder.add_arguments, evaluate_encoder.run
    )
    # Bare names: the small tokenizer has room for 16 tokens.
    more = ["--device", "cpu", "--templates", "none"]
    return lambda *words: command.main([*more, *map(str, words)], program="owlkit")


@pytest.fixture
def arrays(tmp_path: Path, data_dir: Path) -> dict[str, Path]:
    """Real images, four and three of each class."""
    files = {}
    for part, count in (("train", 4), ("test", 3)):
        with np.load(data_dir / "cifar10" / f"{part}.npz") as content:
            labels = content["labels"]
            rows = [row for c in range(10) for row in np.flatnonzero(labels == c)[:count]]
            files[part] = tmp_path / f"{part}.npz"
            np.savez(
                files[part],
                images=content["images"][rows],
                labels=labels[rows],
                label_names=content["label_names"],
            )
    return files


def captions_file(folder: Path) -> Path:
    make_pictures(folder / "images", 4)
    lines = [
        {"file": f"{number}.png", "captions": [f"a cat {number}", "an owl"], "split": split}
        for number, split in enumerate(("train", "val", "val", "val"))
    ]
    file = folder / "captions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def test_classes_and_probes(
    run: Run,
    model: Path,
    arrays: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "deep" / "out"
    words = ["--classes", arrays["test"], "--train-classes", arrays["train"], "--seed", "3"]
    words += ["--few-shot", "1,2", "--probes", "prototype,ridge"]
    assert run(model, *words, "--out", out, "--json", tmp_path / "m.json") == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    encoder = Encoder(DualEncoder.from_pretrained(model))
    train, test = (
        encode_classes(encoder, read_class_images(arrays[part])) for part in ("train", "test")
    )
    expected = measure_zero_shot(encoder, test, templates="none").metrics
    expected |= measure_probes(train, test, probes=["ridge", "prototype"], seed=3)
    expected |= measure_few_shot(train, test, shots=[1, 2], seed=3)
    assert metrics == pytest.approx(expected)
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert sorted(path.name for path in out.iterdir()) == [
        *("classes.csv", "confusion.png", "metrics.json", "report.txt"),
    ]
    printed = capsys.readouterr().out
    assert (out / "report.txt").read_text() in printed
    assert f"few_shot_2_top1                   {metrics['few_shot_2_top1']:.4f}" in printed


def test_features_are_kept(
    run: Run,
    model: Path,
    arrays: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [model, "--classes", arrays["test"], "--cache", tmp_path / "cache", "--json"]
    assert run(*words, tmp_path / "1.json") == 0

    def refuse(*args: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(DualEncoder, "encode_images", refuse)
    monkeypatch.setattr(DualEncoder, "encode_text", refuse)
    assert run(*words, tmp_path / "2.json") == 0
    assert (tmp_path / "2.json").read_bytes() == (tmp_path / "1.json").read_bytes()


def test_retrieval_of_a_split_and_several_labels(
    run: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = captions_file(tmp_path)
    records = make_records(tmp_path / "images", count=5)
    boxes = write_coco(tmp_path / "boxes.json", records)
    out = tmp_path / "out"
    words = ["--captions", captions, "--images", tmp_path / "images", "--split", "val"]
    assert run(model, *words, "--multi-label", boxes, "--out", out) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    images = read_captioned_images(captions, tmp_path / "images", split="val")
    assert len(images) == 3
    expected = measure_retrieval(Encoder(DualEncoder.from_pretrained(model)), images)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics.keys() - expected.keys() == {"multi_label_mAP"}
    assert (out / "multi_label.csv").read_text().startswith("class,images,AP\n")
    assert not (out / "confusion.png").exists()
    assert "red mug" in capsys.readouterr().out


def test_other_names_for_the_classes(
    run: Run, model: Path, arrays: dict[str, Path], tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    lines = "\n".join(f"kind {number}" for number in range(10))
    names.write_text(lines + "\n\n", encoding="utf-8-sig")
    words = ["--classes", arrays["test"], "--names", names, "--out", tmp_path / "out"]
    assert run(model, *words) == 0
    table = (tmp_path / "out" / "classes.csv").read_text()
    assert "kind 7,3," in table
    assert "kind 0,3," in table


def test_an_image_tower_alone_is_probed(
    run: Run,
    owlv2_folder: Path,
    arrays: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from owlkit import OwlDetector

    OwlDetector.from_pretrained(owlv2_folder).save_pretrained(tmp_path / "detector")
    words = [tmp_path / "detector", "--classes", arrays["test"], "--json", tmp_path / "m.json"]
    assert run(*words, "--train-classes", arrays["train"], "--probes", "knn") == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics.keys() == {"knn_top1", "knn_top5", "knn_mean_per_class_recall"}

    def refuse(*args: object) -> None:
        raise AssertionError("images were encoded first")

    monkeypatch.setattr(Encoder, "images", refuse)
    captions = ["--captions", captions_file(tmp_path), "--images", tmp_path / "images"]
    for more in ([], ["--train-classes", arrays["train"], *captions]):
        assert run(*words, *more) == 1
        assert "found an image tower alone" in capsys.readouterr().err


def test_layers_neighbours_and_retrieval(
    run: Run, model: Path, arrays: dict[str, Path], tmp_path: Path
) -> None:
    words = ["--classes", arrays["test"], "--train-classes", arrays["train"], "--seed", "3"]
    words += ["--probes", "retrieval,layers,knn", "--neighbours", "2,10,2"]
    assert run(model, *words, "--json", tmp_path / "m.json") == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    encoder = Encoder(DualEncoder.from_pretrained(model))
    images = [read_class_images(arrays[part]) for part in ("train", "test")]
    train, test = (encode_classes(encoder, each) for each in images)
    expected = measure_zero_shot(encoder, test, templates="none").metrics
    expected |= measure_probes(train, test, probes=["knn"], neighbours=(2, 10))
    expected |= measure_layers(encoder, images[0], images[1], seed=3)
    expected |= measure_class_retrieval(train, test)
    assert {"knn10_top1", "layers_top1", "layers_blocks", "retrieval_mAP"} < metrics.keys()
    assert metrics == pytest.approx(expected)


def test_layers_are_refused_before_anything_is_encoded(
    run: Run,
    arrays: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tower = VisionTower("resnet18", image_size=32)
    preprocessing = Preprocessing(size=(32, 32), fit="crop", resample="bicubic")
    monkeypatch.setattr(
        "owlkit.evaluation.features.load_encoder", lambda folder: (tower, preprocessing)
    )
    monkeypatch.setattr(Encoder, "images", lambda *_: pytest.fail("images were encoded first"))
    words = ["--classes", arrays["test"], "--train-classes", arrays["train"], "--probes", "layers"]
    assert run("any", *words) == 1
    assert "needs a vision transformer, found resnet18" in capsys.readouterr().err


@pytest.mark.parametrize("distractors", [False, True])
def test_copies(
    run: Run,
    model: Path,
    arrays: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    distractors: bool,
) -> None:
    make_pictures(tmp_path / "images" / "deep", 6)
    words = ["--copies", tmp_path / "images", "--seed", "4", "--json", tmp_path / "m.json"]
    words += ["--distractors", arrays["train"], "--whiten"] if distractors else []
    assert run(model, *words) == 0
    expected = measure_copies(
        Encoder(DualEncoder.from_pretrained(model)),
        read_images(tmp_path / "images"),
        distractors=read_class_images(arrays["train"]) if distractors else None,
        whiten=distractors,
        seed=4,
    )
    assert json.loads((tmp_path / "m.json").read_text()) == pytest.approx(expected)
    assert f"--copies {tmp_path / 'images'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --classes, --captions, --multi-label or --copies, found nothing to do"),
        (["--copies", "absent"], "absent: expected a folder of images"),
        (["--classes", ".", "--distractors", "."], "--distractors: expected --copies with it"),
        (["--copies", ".", "--whiten"], "--whiten: expected --distractors with it"),
        (["--classes", ".", "--neighbours", "9"], "--neighbours: expected --train-classes with it"),
        (
            ["--classes", ".", "--train-classes", ".", "--neighbours", "x"],
            "--neighbours: expected numbers as in 1,2,4; found 'x'",
        ),
        (["--captions", "a.jsonl"], "--captions: expected --images with it"),
        (["--multi-label", "a.json"], "--multi-label: expected --images with it"),
        (["--classes", ".", "--probes", "knn"], "--probes: expected --train-classes with it"),
        (["--classes", ".", "--few-shot", "1"], "--few-shot: expected --train-classes with it"),
        (["--classes", ".", "--split", "val"], "--split: expected --captions with it"),
        (
            ["--classes", ".", "--train-classes", ".", "--probes", "knn,magic"],
            "expected some of knn,ridge,logistic,linear,prototype,layers,retrieval, found 'magic'",
        ),
        (
            ["--classes", ".", "--train-classes", ".", "--few-shot", "1,0"],
            "--few-shot: expected numbers as in 1,2,4; found '1,0'",
        ),
        (["--classes", "absent"], "absent: expected a folder with one folder per class"),
        (["--classes", ".", "--names", "absent"], "--names absent: expected a text file"),
        (["--classes", ".", "--json", "."], "--json: expected a file"),
        (["--classes", ".", "--templates", "ensemble8"], "did you mean ensemble81? (or give a"),
        (["--classes", ".", "--templates", __file__], "template 0: expected text with exactly"),
        (["--classes", ".", "--out", __file__], "--out: expected a folder to write to"),
        (["--classes", ".", "--cache", __file__], "expected a folder for cached features"),
    ],
)
def test_what_is_wrong_is_said(
    run: Run, model: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, *words) == 1
    assert message in capsys.readouterr().err


def test_other_classes_to_learn_from(
    run: Run,
    arrays: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("cat", "dog"):
        make_pictures(tmp_path / "folders" / name, 2)
    words = ["--classes", arrays["test"], "--train-classes", tmp_path / "folders"]
    assert run("no model yet", *words) == 1
    assert "expected the same classes" in capsys.readouterr().err


def test_names_do_not_hide_that_classes_differ(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("train/cat", "train/dog", "test/dog", "test/owl"):
        make_pictures(tmp_path / place, 2)
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    words = ["--classes", tmp_path / "test", "--train-classes", tmp_path / "train"]
    assert run("no model yet", *words, "--names", tmp_path / "names.txt") == 1
    assert "class 0 is 'cat' in one and 'dog' in the other" in capsys.readouterr().err


def test_one_example_a_class_and_templates_of_ones_own(
    run: Run, model: Path, tmp_path: Path
) -> None:
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        make_pictures(tmp_path / place, 1, seed=len(place))
    templates = tmp_path / "templates.txt"
    templates.write_text("a {}\n\nthe {}\n", encoding="utf-8-sig")
    words = ["--classes", tmp_path / "test", "--train-classes", tmp_path / "train"]
    words += ["--templates", templates, "--json", tmp_path / "m.json"]
    assert run(model, *words) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["ridge_strength"] == 32
    encoder = Encoder(DualEncoder.from_pretrained(model))
    test = encode_classes(encoder, read_class_images(tmp_path / "test"))
    expected = measure_zero_shot(encoder, test, templates=["a {}", "the {}"]).metrics
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
