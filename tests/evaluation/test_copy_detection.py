"""Copies are found by the authors' descriptor; each counted one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from owlkit.data.class_images import ClassImages, ImageArray, read_class_images
from owlkit.errors import DatasetError
from owlkit.evaluation.copy_detection import Whitening, measure_copies
from owlkit.evaluation.feature_cache import FeatureCache
from owlkit.evaluation.features import Encoder, ImageFiles
from owlkit.evaluation.strong_copies import StrongCopies, make_copy
from owlkit.models.dual_encoder import DualEncoder
from tests.evaluation.small_encoder import make_dual_encoder, make_pictures


@pytest.fixture
def model() -> DualEncoder:
    return make_dual_encoder(None)


def descriptor(model: DualEncoder, image: np.ndarray) -> torch.Tensor:
    """As eval_copy_detection.py of DINO has it, on timm's tokens."""
    pixels = torch.from_numpy(model.preprocessing(image)[0])[None]
    with torch.no_grad():
        feats = model.vision.model.forward_features(pixels)
        cls_output_token = feats[:, 0]
        b, h, w, d = len(feats), 4, 4, feats.shape[2]
        feats = feats[:, 1:].reshape(b, h, w, d).clamp(min=1e-6).permute(0, 3, 1, 2)
        feats = F.avg_pool2d(feats.pow(4), (h, w)).pow(1.0 / 4).reshape(b, -1)
        return F.normalize(torch.cat((cls_output_token, feats), dim=1), dim=1)[0]


@pytest.mark.parametrize("whiten", [False, True])
def test_copies_as_looked_for_one_by_one(model: DualEncoder, data_dir: Path, whiten: bool) -> None:
    photographs = read_class_images(data_dir / "cifar10" / "test.npz")
    pictures = np.stack([photographs.read(row) for row in range(100)])
    originals, distractors = (
        ClassImages(("any",), np.zeros(len(part), int), ImageArray(Path("a"), part))
        for part in (pictures[:12], pictures[12:])
    )
    found = measure_copies(
        Encoder(model), originals, distractors=distractors, whiten=whiten, seed=3
    )
    database = torch.stack([descriptor(model, picture) for picture in pictures])
    copies = StrongCopies(originals, seed=3)
    queries = torch.stack([descriptor(model, copies.read(row)) for row in range(12)])
    if whiten:
        learned = database[12:].double()
        mean = learned.mean(dim=0)
        _, s, vt = torch.linalg.svd(learned - mean, full_matrices=False)
        variances = (s**2 / len(learned)).clamp(min=1e-5 * float(s[0] ** 2) / len(learned))
        axes = vt.T / variances.sqrt()
        queries, database = (
            F.normalize((x.double() - mean) @ axes, dim=1) for x in (queries, database)
        )
    precisions, hits = [], 0
    for row, query in enumerate(queries):
        similarity = database @ query
        rank = int((similarity > similarity[row]).sum())
        precisions.append((1.0 if rank == 0 else 0.0) / 2 + 1 / (rank + 1) / 2)
        hits += rank == 0
    assert 0 < hits < 12
    assert found == {
        "copy_detection_mAP": pytest.approx(np.mean(precisions)),
        "copy_top1": pytest.approx(hits / 12),
    }


def test_whitened_directions_are_equally_important() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 5, generator=generator) * torch.tensor([1.0, 5, 0.1, 2, 1]) + 3
    whitening = Whitening.learn(rows)
    centred = (rows.double() - whitening.mean) @ whitening.axes
    torch.testing.assert_close(centred.T @ centred / 400, torch.eye(5).double())
    with pytest.raises(DatasetError, match="two images or more, found 1"):
        Whitening.learn(rows[:1])


def test_copies_depend_on_seed_and_number_alone(data_dir: Path, tmp_path: Path) -> None:
    photographs = ImageFiles(tuple(sorted((data_dir / "samples").glob("*.jpg"))))
    copies = StrongCopies(photographs, seed=1)
    assert len(copies) == len(photographs) == 5
    for row in (4, 0, 2):
        assert np.array_equal(copies.read(row), StrongCopies(photographs, seed=1).read(row))
    assert not np.array_equal(copies.read(0), StrongCopies(photographs, seed=2).read(0))
    assert copies.where(0) != StrongCopies(photographs, seed=2).where(0)
    for seed in range(60):
        image = photographs.read(seed % 5)[::4, ::4]
        copy = make_copy(image, np.random.default_rng(seed))
        assert copy.dtype == np.uint8
        assert copy.shape[2] == 3
        assert 0.25 < copy.size / image.size < 0.75
    for size in ((1, 1), (1, 50), (50, 1)):
        for seed in range(20):
            assert make_copy(np.zeros((*size, 3), np.uint8), np.random.default_rng(seed)).size


def test_copies_are_kept_apart_from_their_originals(model: DualEncoder, tmp_path: Path) -> None:
    files = ImageFiles(tuple(make_pictures(tmp_path / "images", 4)))
    encoder = Encoder(model, cache=FeatureCache(tmp_path / "cache"))
    first = measure_copies(encoder, files)
    assert measure_copies(encoder, files) == first
    assert len(list((tmp_path / "cache").iterdir())) == 2
    measure_copies(encoder, files, seed=1)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_an_image_that_cannot_be_read_is_left_out(
    model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("owlkit.evaluation.features.MAX_LOST", 0.5)
    paths = make_pictures(tmp_path, 6)
    paths[1].write_bytes(b"no picture")
    found = measure_copies(Encoder(model), ImageFiles(tuple(paths)))
    copies = StrongCopies(ImageFiles(tuple(paths)))
    rows = [0, 2, 3, 4, 5]
    database = torch.stack([descriptor(model, np.asarray(Image.open(paths[r]))) for r in rows])
    queries = torch.stack([descriptor(model, copies.read(row)) for row in rows])
    hits = ((queries @ database.T).argmax(dim=1) == torch.arange(5)).float().mean()
    assert found["copy_top1"] == pytest.approx(float(hits))
    with pytest.raises(DatasetError, match="expected distractors"):
        measure_copies(Encoder(model), ImageFiles(tuple(paths)), whiten=True)
