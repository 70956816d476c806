"""Vectors of images and texts: those of the model itself, computed once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from owlkit import DualEncoder
from owlkit.data.class_images import read_class_images
from owlkit.encoders import VisionTower
from owlkit.errors import CheckpointError, ConfigError, DatasetError, ImageError, QueryError
from owlkit.evaluation.feature_cache import FeatureCache
from owlkit.evaluation.features import (
    EncodedImages,
    Encoder,
    ImageFiles,
    load_encoder,
    pooled_features,
)
from owlkit.geometry import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from owlkit.images import load_image
from tests.encoders.test_hf_vision import copy_as_model_folder
from tests.evaluation.small_encoder import blobs, make_dual_encoder, make_pictures


@pytest.fixture
def model(tokenizer_folder: Path) -> DualEncoder:
    return make_dual_encoder(tokenizer_folder)


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    return ImageFiles(tuple(make_pictures(tmp_path / "images", 5)))


class Calls:
    """Counts how often a module runs, and on how many rows."""

    def __init__(self, module: nn.Module) -> None:
        self.rows: list[int] = []
        module.register_forward_hook(lambda _, inputs, __: self.rows.append(len(inputs[0])))


def directly(model: DualEncoder, path: Path) -> torch.Tensor:
    """One image by the model's own methods."""
    pixels = torch.from_numpy(model.preprocessing(load_image(path))[0])
    with torch.no_grad():
        return model.encode_images(pixels[None])[0]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_images_as_the_model_encodes_them(
    model: DualEncoder, files: ImageFiles, batch_size: int
) -> None:
    done: list[int] = []
    calls = Calls(model.vision)
    encoder = Encoder(model, batch_size=batch_size, on_images=done.append)
    found = encoder.images(files)
    assert max(calls.rows) == min(batch_size, 5)
    assert sum(done) == 5
    expected = torch.stack([directly(model, path) for path in files.paths])
    torch.testing.assert_close(found.features, expected, atol=1e-6, rtol=0)
    assert (found.rows.tolist(), found.unreadable) == ([0, 1, 2, 3, 4], ())
    one = encoder.image(load_image(files.paths[3]))
    torch.testing.assert_close(one, expected[3], atol=1e-6, rtol=0)
    found.features.requires_grad_()  # plain tensors, that a probe can be trained on


@torch.no_grad()
def test_an_image_tower_alone_and_its_pooled_vectors(model: DualEncoder, files: ImageFiles) -> None:
    pixels = [model.preprocessing(load_image(path))[0] for path in files.paths]
    pooled = model.vision(torch.from_numpy(np.stack(pixels))).pooled
    tower = Encoder(model.vision, preprocessing=model.preprocessing)
    torch.testing.assert_close(tower.images(files).features, F.normalize(pooled), atol=1e-6, rtol=0)
    found = pooled_features(model, files)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pooled.numpy(), atol=1e-5)
    with pytest.raises(QueryError, match="expected a model with a text tower"):
        tower.texts(["a cat"])
    with pytest.raises(ConfigError, match="needs a preprocessing"):
        Encoder(model.vision)


def test_pictures_of_classes_in_an_array(model: DualEncoder, data_dir: Path) -> None:
    images = read_class_images(data_dir / "cifar10" / "test.npz")
    few = type(images)(images.names, images.labels[:7], images.source)
    found = Encoder(model, batch_size=4).images(few).features
    pixels = [model.preprocessing(images.read(index))[0] for index in range(7)]
    with torch.no_grad():
        expected = model.encode_images(torch.from_numpy(np.stack(pixels)))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_texts_and_class_prompts(model: DualEncoder) -> None:
    encoder = Encoder(model)
    texts = ["a cat", "a dog in the snow", "a cat"]
    calls = Calls(model.text)
    found = encoder.texts(texts)
    assert calls.rows == [2], "equal texts are encoded once"
    torch.testing.assert_close(found, model.encode_strings(texts), atol=1e-6, rtol=0)
    classes = encoder.class_prompts(["cat", "red mug"], ["a photo of a {}.", "the {}", "{}"])
    for name, row in zip(["cat", "red mug"], classes, strict=True):
        prompts = [f"a photo of a {name}.", f"the {name}", name]
        mean = sum(model.encode_strings([prompt])[0] for prompt in prompts) / 3
        torch.testing.assert_close(row, mean / mean.norm(), atol=1e-6, rtol=0)
    with pytest.raises(QueryError, match="no templates are named"):
        encoder.class_prompts(["cat"], "ensemble8")


def test_without_a_tokenizer_there_are_no_texts(tmp_path: Path) -> None:
    model = make_dual_encoder(None)
    for cache in (None, FeatureCache(tmp_path)):
        assert not Encoder(model).has_text
        with pytest.raises(QueryError, match="with a tokenizer, found one saved without"):
            Encoder(model, cache=cache).texts(["a cat"])


def test_the_model_runs_once_for_the_same_weights_and_data(
    model: DualEncoder, files: ImageFiles, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    images, texts = Calls(model.vision), Calls(model.text)
    encoder = Encoder(model, cache=cache)
    first = encoder.images(files), encoder.texts(["a cat", "a dog"])
    again = Encoder(model, cache=cache, batch_size=2).images(files)
    assert torch.equal(first[0].features, again.features)
    assert torch.equal(first[0].rows, again.rows)
    assert torch.equal(first[1], encoder.texts(["a cat", "a dog"]))
    assert (images.rows, texts.rows) == ([5], [2])
    pooled_features(model, files, cache=cache)
    assert images.rows == [5, 5], "another kind of vector"


def change_weights(model: DualEncoder, files: ImageFiles) -> Encoder:
    model.vision.model.blocks[0].mlp.fc1.bias.data += 0.1
    return Encoder(model)


def change_projection(model: DualEncoder, files: ImageFiles) -> Encoder:
    assert model.image_projection is not None
    model.image_projection.weight.data *= 1.5
    return Encoder(model)


def change_preprocessing(model: DualEncoder, files: ImageFiles) -> Encoder:
    return Encoder(model, preprocessing=Preprocessing(size=(32, 32), fit="pad", resample="bicubic"))


def change_a_file(model: DualEncoder, files: ImageFiles) -> Encoder:
    make_pictures(files.paths[0].parent, 1, seed=9)
    return Encoder(model)


@pytest.mark.parametrize(
    "change", [change_weights, change_projection, change_preprocessing, change_a_file]
)
def test_what_changed_is_computed_anew(
    model: DualEncoder,
    files: ImageFiles,
    tmp_path: Path,
    change: Callable[[DualEncoder, ImageFiles], Encoder],
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    before = Encoder(model, cache=cache).images(files).features
    encoder = change(model, files)
    fresh = encoder.images(files).features
    encoder.cache = cache
    calls = Calls(model.vision)
    assert torch.equal(encoder.images(files).features, fresh)
    assert calls.rows == [5]
    if change is not change_projection:  # whose length is normalised away
        assert not torch.equal(fresh, before)


def test_a_new_text_tower_keeps_the_image_vectors(
    model: DualEncoder, files: ImageFiles, tmp_path: Path
) -> None:
    """As while a text tower learns beside a locked image tower."""
    encoder = Encoder(model, cache=FeatureCache(tmp_path / "cache"))
    encoder.images(files)
    before = encoder.texts(["a cat"])
    model.text.projection.weight.data[0] += 1
    calls = Calls(model.vision)
    encoder.images(files)
    assert calls.rows == []
    assert not torch.equal(encoder.texts(["a cat"]), before)


def test_a_model_in_training_is_used_as_trained_and_left_in_training(
    files: ImageFiles, tokenizer_folder: Path
) -> None:
    model = make_dual_encoder(tokenizer_folder, dropout=0.9)
    expected = Encoder(model).images(files).features
    model.train()
    model.vision.eval()  # a locked tower stays locked
    model.vision.model.blocks[1].train()
    modes = [module.training for module in model.modules()]
    encoder = Encoder(model)
    torch.testing.assert_close(encoder.images(files).features, expected, atol=1e-6, rtol=0)
    encoder.texts(["a cat"])
    assert [module.training for module in model.modules()] == modes


def test_a_file_that_cannot_be_read_is_left_out(
    model: DualEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = make_pictures(tmp_path / "images", 4)
    paths[1].write_bytes(b"no picture")
    files = ImageFiles(tuple(paths))
    cache = FeatureCache(tmp_path / "cache")
    for _ in range(2):  # computed, and from the cache
        found = Encoder(model, cache=cache, batch_size=1).images(files)
        assert (found.rows.tolist(), found.unreadable) == ([0, 2, 3], (str(paths[1]),))
        found.check_enough()
    assert str(paths[1]) in caplog.text
    torch.testing.assert_close(found.features[1], directly(model, paths[2]), atol=1e-6, rtol=0)
    pooled = pooled_features(model, files)
    assert np.isnan(pooled).all(axis=1).tolist() == [False, True, False, False]
    paths[2].write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="at most 1% cannot be read; found that 2 of 4 cannot"):
        pooled_features(model, files)


def test_nothing_to_encode(model: DualEncoder) -> None:
    found = Encoder(model).images(ImageFiles(()))
    assert found.features.shape == (0, 16)
    with pytest.raises(DatasetError, match="0 of 0"):
        found.check_enough()
    many = EncodedImages(torch.zeros(300, 2), torch.arange(300), ("a", "b", "c"))
    many.check_enough()  # one per cent
    with pytest.raises(ConfigError, match="batch size of at least 1, found 0"):
        Encoder(model, batch_size=0)


def test_saved_towers_are_loaded_with_their_preprocessing(
    model: DualEncoder, tmp_path: Path, golden: Callable[[str], Path]
) -> None:
    model.preprocessing = Preprocessing(size=(32, 32), fit="pad", resample="bilinear")
    model.save_pretrained(tmp_path / "own")
    loaded, preprocessing = load_encoder(tmp_path / "own")
    assert isinstance(loaded, DualEncoder)
    assert preprocessing == model.preprocessing
    kinds: dict[str, Any] = {}
    for name in ("clip_gelu_eos", "siglip", "dinov2", "vit"):
        folder = copy_as_model_folder(golden("03_towers") / name, tmp_path / name)
        kinds[name], preprocessing = load_encoder(folder)
    assert [type(kind) for kind in kinds.values()] == [DualEncoder] * 2 + [VisionTower] * 2
    assert preprocessing == Preprocessing(
        size=kinds["vit"].image_size,
        fit="crop",
        resample="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    encoder = Encoder(kinds["vit"], preprocessing=preprocessing)
    assert encoder.image(blobs(0)).norm().item() == pytest.approx(1)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_encoder(tmp_path / "absent")


def test_the_image_tower_of_a_detector(owlv2_folder: Path, tmp_path: Path) -> None:
    """Its pair of towers as transformers saves it, its image tower alone as owlkit does."""
    from owlkit import OwlDetector

    assert isinstance(load_encoder(owlv2_folder)[0], DualEncoder)
    detector = OwlDetector.from_pretrained(owlv2_folder)
    detector.save_pretrained(tmp_path / "own")
    tower, preprocessing = load_encoder(tmp_path / "own")
    assert isinstance(tower, VisionTower)
    assert preprocessing == detector.preprocessing


def test_an_image_that_was_lost_once_is_not_lost_for_good(
    model: DualEncoder, files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a share of the network was away for a moment."""
    cache = FeatureCache(tmp_path / "cache")
    read = ImageFiles.read

    def fail(self: ImageFiles, index: int) -> np.ndarray:
        if index == 2:
            raise ImageError("away")
        return read(self, index)

    monkeypatch.setattr(ImageFiles, "read", fail)
    calls = Calls(model.vision)
    for _ in range(2):
        assert Encoder(model, cache=cache).images(files).rows.tolist() == [0, 1, 3, 4]
    assert calls.rows == [4]
    monkeypatch.setattr(ImageFiles, "read", read)
    for _ in range(2):
        found = Encoder(model, cache=cache).images(files)
        assert (found.rows.tolist(), found.unreadable) == ([0, 1, 2, 3, 4], ())
    assert calls.rows == [4, 5]


def test_a_backbone(model: DualEncoder, tmp_path: Path) -> None:
    """An image tower alone, as self-supervised training saves it."""
    from owlkit.models.backbone import ImageBackbone

    ImageBackbone(model.vision, model.preprocessing).save_pretrained(tmp_path / "own")
    tower, preprocessing = load_encoder(tmp_path / "own")
    assert isinstance(tower, VisionTower)
    assert preprocessing == model.preprocessing
    own, loaded = (
        Encoder(each, preprocessing=preprocessing).image(blobs(0)) for each in (model.vision, tower)
    )
    assert torch.equal(own, loaded)
