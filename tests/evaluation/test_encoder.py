"""What an encoder is worth, against the slow and obvious way to find out."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from owlkit import DualEncoder
from owlkit.data.captions import CaptionedImage
from owlkit.data.class_images import ClassImages, read_class_images
from owlkit.data.coco import read_coco
from owlkit.errors import ConfigError, DatasetError, QueryError
from owlkit.evaluation.encoder import (
    ClassFeatures,
    ClassScores,
    encode_classes,
    format_classes,
    measure_few_shot,
    measure_multi_label,
    measure_probes,
    measure_retrieval,
    measure_zero_shot,
    write_classes,
)
from owlkit.evaluation.features import Encoder
from owlkit.evaluation.knn import knn_probe
from owlkit.evaluation.probes import few_shot_indices, prototype_accuracy, ridge_probe
from tests.evaluation.small_encoder import make_dual_encoder, make_pictures
from tests.evaluation.small_set import coco_content, make_records


@pytest.fixture
def encoder(tokenizer_folder: Path) -> Encoder:
    return Encoder(make_dual_encoder(tokenizer_folder))


def cifar(data_dir: Path, part: str, count: int) -> ClassImages:
    """The first so many real images of each class."""
    images = read_class_images(data_dir / "cifar10" / f"{part}.npz")
    rows = [row for c in range(10) for row in np.flatnonzero(images.labels == c)[:count]]
    source = type(images.source)(Path(part), images.source.images[rows])  # type: ignore[attr-defined, call-arg]
    return ClassImages(images.names, images.labels[rows], source)


def clusters(count: int, seed: int) -> ClassFeatures:
    """Points about five directions, some of them nearer to a wrong one."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 5
    noise = torch.randn(count, 8, generator=generator)
    features = torch.nn.functional.normalize(3 * torch.eye(8)[labels] + noise, dim=1)
    return ClassFeatures(features, labels, tuple("abcde"))


def test_zero_shot_as_counted_one_by_one(encoder: Encoder, data_dir: Path) -> None:
    images = cifar(data_dir, "test", 3)
    test = encode_classes(encoder, images)
    assert test.features.shape == (30, 16)
    scored = measure_zero_shot(encoder, test, templates=["a photo of a {}", "the {}"])
    model = encoder.model
    assert isinstance(model, DualEncoder)
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    with torch.no_grad():
        classes = []
        for name in images.names:
            mean = model.encode_strings([f"a photo of a {name}", f"the {name}"]).mean(dim=0)
            classes.append(mean / mean.norm())
        for index, label in enumerate(images.labels):
            pixels = torch.from_numpy(model.preprocessing(images.read(index))[0])
            scores = torch.stack(classes) @ model.encode_images(pixels[None])[0]
            confusion[label, scores.argmax()] += 1
    assert scored.confusion is not None
    assert torch.equal(scored.confusion, confusion)
    assert scored.scores.tolist() == pytest.approx((confusion.diag() / 3).tolist())
    assert scored.counts.tolist() == [3] * 10
    assert scored.metrics["zero_shot_top1"] == pytest.approx(int(confusion.trace()) / 30)
    assert scored.metrics.keys() == {
        *("zero_shot_top1", "zero_shot_top5", "zero_shot_mean_per_class_recall"),
    }


def test_labels_stay_with_their_images_when_one_is_lost(encoder: Encoder, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        make_pictures(tmp_path / name, 80, seed=ord(name[0]))
    (tmp_path / "cat" / "0.png").write_bytes(b"no picture")
    whole = encode_classes(encoder, read_class_images(tmp_path))
    assert whole.labels.tolist() == [0] * 79 + [1] * 80
    (tmp_path / "dog" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="2 of 160 cannot"):
        encode_classes(encoder, read_class_images(tmp_path))


def test_probes_are_those_of_their_modules() -> None:
    train, test = clusters(60, seed=0), clusters(40, seed=1)
    rows = train.features, train.labels, test.features, test.labels
    found = measure_probes(train, test, probes=["knn", "ridge", "logistic", "linear", "prototype"])
    ridge = ridge_probe(*rows)
    for name in ("top1", "top5", "mean_per_class_recall"):
        assert found[f"knn_{name}"] == getattr(knn_probe(*rows), name)
        assert found[f"ridge_{name}"] == getattr(ridge, name)
    assert (found["ridge_top1"], found["ridge_strength"]) == (ridge.top1, ridge.strength)
    assert found["prototype_top1"] == prototype_accuracy(*rows).top1
    assert "prototype_strength" not in found
    assert all(0.7 < found[f"{name}_top1"] <= 1 for name in ("logistic", "linear", "ridge"))
    noise = replace(train, features=torch.randn(60, 8, generator=torch.Generator().manual_seed(0)))
    strengths = [ridge_probe(noise.features, *rows[1:], seed=seed).strength for seed in range(8)]
    assert len(set(strengths)) > 1
    for seed, strength in enumerate(strengths):
        seeded = measure_probes(noise, test, probes=["ridge"], seed=seed)
        assert seeded["ridge_strength"] == strength
    more = measure_probes(train, test, probes=["knn"], neighbours=(5, 60))
    assert more.keys() - {"knn_mean_per_class_recall"} == {
        *("knn_top1", "knn_top5", "knn5_top1", "knn5_top5", "knn60_top1", "knn60_top5"),
    }
    assert more["knn5_top1"] == knn_probe(*rows, k=5).top1
    with pytest.raises(ConfigError, match="expected 1 to 60"):
        measure_probes(train, test, neighbours=(61,))
    few = ClassFeatures(train.features[:7], train.labels[:7], train.names)
    assert measure_probes(few, test, probes=["knn"])["knn_top5"] == 1.0, "fewer than 20 images"


def test_few_shot_is_the_mean_of_several_draws() -> None:
    train, test = clusters(60, seed=0), clusters(40, seed=1)
    found = measure_few_shot(train, test, shots=[1, 4, 100], seed=2)
    drawn = []
    for seed in range(10, 15):
        rows = few_shot_indices(train.labels, 1, seed=seed)
        assert train.labels[rows].sort().values.tolist() == [0, 1, 2, 3, 4]
        drawn.append(
            prototype_accuracy(
                train.features[rows], train.labels[rows], test.features, test.labels
            ).top1
        )
    assert len(set(drawn)) > 1
    assert found["few_shot_1_top1"] == pytest.approx(np.mean(drawn))
    assert found["few_shot_100_top1"] == pytest.approx(
        measure_probes(train, test, probes=["prototype"])["prototype_top1"]
    )
    assert found["few_shot_1_top1"] < found["few_shot_4_top1"]
    with pytest.raises(ConfigError, match="at least 1 example"):
        measure_few_shot(train, test, shots=[0])


def test_other_classes_are_refused() -> None:
    train, test = clusters(60, seed=0), clusters(40, seed=1)
    for names in (tuple("abxde"), tuple("abcd"), tuple("abcdef")):
        other = ClassFeatures(train.features, train.labels, names)
        with pytest.raises(DatasetError, match=r"class \d is ('x'|None|'f') in one and"):
            measure_probes(other, test)
        with pytest.raises(DatasetError, match="expected the same classes"):
            measure_few_shot(other, test, shots=[1])


def test_retrieval_as_counted_one_by_one(encoder: Encoder, tmp_path: Path) -> None:
    captions = [("a cat", "a dog on a table"), ("an owl",), ("a red mug", "a truck", "a boat")]
    paths = make_pictures(tmp_path, 3)
    images = [
        CaptionedImage(path, texts, None) for path, texts in zip(paths, captions, strict=True)
    ]
    found = measure_retrieval(encoder, images, ks=(1, 2))
    vectors = torch.stack([encoder.image(np.asarray(Image.open(path))) for path in paths])
    hits, total = 0, 0
    for row, texts in enumerate(captions):
        for text in texts:
            hits += int((vectors @ encoder.texts([text])[0]).argmax()) == row
            total += 1
    assert found["text_to_image_recall@1"] == pytest.approx(hits / total)
    everything = [text for texts in captions for text in texts]
    similarity = vectors @ encoder.texts(everything).T
    hits = sum(
        any(everything[column] in texts for column in similarity[row].topk(2).indices.tolist())
        for row, texts in enumerate(captions)
    )
    assert found["image_to_text_recall@2"] == pytest.approx(hits / 3)
    assert 1 <= found["text_to_image_mean_rank"] <= 3


def test_captions_of_a_lost_image_are_not_asked_for(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("owlkit.evaluation.features.MAX_LOST", 0.5)
    texts = [("a cat",), ("a dog", "a truck"), ("an owl",)]
    paths = make_pictures(tmp_path, 3)
    images = [CaptionedImage(path, said, None) for path, said in zip(paths, texts, strict=True)]
    expected = measure_retrieval(encoder, [images[0], images[2]])
    paths[1].write_bytes(b"no picture")
    assert measure_retrieval(encoder, images) == pytest.approx(expected)


def test_several_labels_an_image(encoder: Encoder, tmp_path: Path) -> None:
    records = make_records(tmp_path / "images", count=6)
    content = coco_content(records)
    box = [5.0, 5.0, 10.0, 10.0]
    # A crowd is no target of a detector, but its class is in the image; another class is nowhere.
    content["annotations"] += [
        {"id": 900, "image_id": 100, "category_id": 20, "bbox": box, "area": 100.0, "iscrowd": 1}
    ]
    content["categories"].append({"id": 30, "name": "boat"})
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "boxes.json", tmp_path / "images")
    scored = measure_multi_label(encoder, dataset, templates="none")
    assert scored.counts.tolist() == [5, 4, 4, 0]
    owl = encoder.texts(["owl"])[0]
    similar = [float(encoder.image(np.asarray(Image.open(r.path))) @ owl) for r in records]
    has_owl = [True, False, False, True, True, True]
    hits, precisions = 0, []
    for place, row in enumerate(sorted(range(6), key=lambda row: -similar[row]), start=1):
        if has_owl[row]:
            hits += 1
            precisions.append(hits / place)
    assert float(scored.scores[2]) == pytest.approx(np.mean(precisions))
    assert float(scored.scores[3]) == -1
    mean = float(scored.scores[:3].mean())
    assert scored.metrics == {"multi_label_mAP": pytest.approx(mean)}
    assert "boat          0       -" in format_classes(scored)


def test_a_federated_data_set_has_no_certain_absences(encoder: Encoder, tmp_path: Path) -> None:
    content = coco_content(make_records(tmp_path / "images"))
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "lvis.json", tmp_path / "images")
    with pytest.raises(DatasetError, match="found a federated data set"):
        measure_multi_label(encoder, dataset, templates="none")


def test_an_image_tower_alone_has_probes_but_no_names(data_dir: Path) -> None:
    model = make_dual_encoder(None)
    tower = Encoder(model.vision, preprocessing=model.preprocessing)
    train, test = (encode_classes(tower, cifar(data_dir, part, 4)) for part in ("train", "test"))
    assert train.features.shape == (40, 32)
    assert 0 <= measure_probes(train, test)["ridge_top1"] <= 1
    with pytest.raises(QueryError, match="found an image tower alone"):
        measure_zero_shot(tower, test, templates="none")


@pytest.fixture
def scored() -> ClassScores:
    confusion = torch.tensor([[1, 3, 0], [0, 2, 0], [0, 0, 0]])
    counts, scores = torch.tensor([4, 2, 0]), torch.tensor([0.25, 1.0, -1.0])
    names = ('a $5 "mug"', "owl, grey", "猫")
    return ClassScores({}, names, counts, scores, "recall", confusion)


def test_a_table_of_the_classes(scored: ClassScores, tmp_path: Path) -> None:
    assert format_classes(scored).splitlines() == [
        "class       images  recall  most taken for",
        "owl, grey        2  1.0000",
        'a $5 "mug"       4  0.2500  owl, grey (3)',
        "猫                0       -",
    ]
    write_classes(scored, tmp_path / "classes.csv")
    with (tmp_path / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["class", "images", "recall"]
    assert rows[1:] == [['a $5 "mug"', "4", "0.25"], ["owl, grey", "2", "1.0"], ["猫", "0", ""]]


def test_classes_are_compared_by_what_the_data_calls_them() -> None:
    train, test = clusters(60, seed=0), clusters(40, seed=1)
    given = replace(train, keys=tuple("vwxyz")), replace(test, keys=tuple("vwxzy"))
    with pytest.raises(DatasetError, match="class 3 is 'y' in one and 'z' in the other"):
        measure_probes(*given)
    # Where one does not say, the names are all there is.
    assert measure_probes(given[0], test) == measure_probes(train, test)


def test_a_class_without_images_has_no_recall(encoder: Encoder, data_dir: Path) -> None:
    images = cifar(data_dir, "test", 1)
    test = encode_classes(encoder, ClassImages((*images.names, "none"), images.labels, images))
    scored = measure_zero_shot(encoder, test, templates="none")
    assert scored.scores[10] == -1
    assert format_classes(scored).splitlines()[-1].split()[:3] == ["none", "0", "-"]


def test_no_image_with_any_class(encoder: Encoder, tmp_path: Path) -> None:
    content = coco_content(make_records(tmp_path / "images", count=2))
    content["annotations"] = []
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "boxes.json", tmp_path / "images")
    scored = measure_multi_label(encoder, dataset, templates="none")
    assert scored.metrics == {"multi_label_mAP": -1.0}
