"""Trainings of detectors from every kind of weights, on a few synthetic scenes."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from timm.models import save_for_hf
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from owlkit import OwlDetector
from owlkit.build import build_detector_training, build_dual_encoder
from owlkit.build.detection import build_examples, build_loss, read_sources
from owlkit.config import ContrastiveConfig, DetectorConfig, LossSection, load_config
from owlkit.data.examples import DetectionExamples
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.engine import DetectionTask, Trainer
from owlkit.engine.clipping import PerExampleClipping
from owlkit.errors import CheckpointError, ConfigError, DatasetError, QueryError
from owlkit.geometry import owlvit_preprocessing
from tests.small_run import (
    CONFIGS,
    TEXT_SIZES,
    SmallData,
    lines_of,
    make_small_data,
)

# The tokenizer of the saved Hugging Face models spells the names of scenes.
pytestmark = pytest.mark.filterwarnings("ignore:.*is cut to the limit")

TWO_STEPS = ("train.steps=2", "name=run")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SmallData:
    return make_small_data(tmp_path_factory.mktemp("small"))


def load(config: str, words: list[str]) -> DetectorConfig:
    return load_config(CONFIGS / f"{config}.yaml", words)


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def saved_dual_encoder(data: SmallData, folder: Path) -> list[str]:
    config = load_config(
        CONFIGS / "quickstart" / "clip.yaml",
        data.pretraining(folder)[1:],
        schema=ContrastiveConfig,
    )
    build_dual_encoder(config.model, seed=3).save_pretrained(folder / "dual")
    return [f"model.init_from={folder / 'dual'}", "model.heads.merge=none"]


def saved_clip(data: SmallData, folder: Path) -> list[str]:
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    size["num_attention_heads"] = 2
    tokenizer = Tokenizer.from_pretrained(data.tokenizer)
    vocabulary = {"vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.vocab_size - 1}
    config = CLIPConfig(
        text_config={**size, **vocabulary, "max_position_embeddings": 30, "bos_token_id": 0},
        vision_config={**size, "image_size": 24, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder / "clip")
    for path in data.tokenizer.iterdir():
        shutil.copy(path, folder / "clip")
    return [f"model.init_from={folder / 'clip'}", "model.vision.positions=bilinear_aligned"]


def saved_timm(data: SmallData, folder: Path) -> list[str]:
    small: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    model = timm.create_model("vit_small_patch16_224.dino", img_size=24, **small)
    save_for_hf(model, folder, model_args={**small, "img_size": 24}, safe_serialization=True)
    for path in folder.glob("*.bin"):
        path.unlink()
    return text_tower(data, folder)


def saved_dino(data: SmallData, folder: Path) -> list[str]:
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=8
    )
    Dinov2Model(config).save_pretrained(folder)
    return text_tower(data, folder)


def text_tower(data: SmallData, folder: Path) -> list[str]:
    """Random texts beside trained images."""
    tokenizer = f"model.text.tokenizer={data.tokenizer}"
    return [f"model.vision.weights={folder}", *TEXT_SIZES, tokenizer]


def random_towers(data: SmallData, folder: Path) -> list[str]:
    return list(data.random_towers)


STARTS: dict[str, Callable[[SmallData, Path], list[str]]] = {
    "random": random_towers,
    "dual encoder": saved_dual_encoder,
    "clip": saved_clip,
    "timm": saved_timm,
    "dinov2": saved_dino,
}


def check_two_steps(config: DetectorConfig, runs: Path) -> Trainer:
    """Every weight that learns gets a gradient, moves, and what is saved is what was trained."""
    trainer = build_detector_training(config)
    batch = next(iter(trainer.make_batches(0)))
    assert batch.targets.box_mask.any()
    trainer.task(batch)["loss"].backward()
    named = dict(trainer.task.named_parameters())
    missing = [name for name, value in named.items() if value.requires_grad and value.grad is None]
    assert not missing or trainer.task.find_unused_parameters, missing
    trainer.optimizer.zero_grad()
    before = tensors(trainer)
    assert trainer.fit().ending == "finished"
    after = tensors(trainer)
    parts = {
        name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert {"vision", "text", "class_head", "box_head"} <= parts
    run = runs / "run"
    assert {"loss", "classes", "l1", "giou"} <= lines_of(run, "train")[2].keys()
    assert {"AP", "AP50", "AP_base", "AP_novel"} <= lines_of(run, "eval")[2].keys()
    saved = OwlDetector.from_pretrained(run / "last").state_dict()
    assert all(torch.equal(saved[name], after[name]) for name in saved)
    assert [path.name for path in (run / "samples").iterdir()] == ["step_000002"]
    return trainer


@pytest.mark.parametrize("start", list(STARTS))
def test_two_steps_from_every_kind_of_towers(data: SmallData, tmp_path: Path, start: str) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    words = [*STARTS[start](data, folder), "model.vision.image_size=32", *TWO_STEPS]
    # The preset's own sizes belong to random weights only.
    preset = "owl_tiny" if start == "random" else "finetune"
    cleared = [] if start == "random" else ["loss.drop_patches=0"]
    if not any(word.startswith("model.init_from") for word in words):
        cleared.append("model.init_from=")
    config = load(preset, data.overrides(tmp_path, *cleared, *words))
    trainer = check_two_steps(config, tmp_path)
    assert trainer.model.get_submodule("vision").grid == (4, 4)


@pytest.mark.parametrize("kind", ["owlvit", "owlv2"])
def test_two_steps_from_published_detectors(
    data: SmallData, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    folder = request.getfixturevalue(f"{kind}_folder")
    words = [f"model.init_from={folder}", "model.vision.image_size=64", *TWO_STEPS]
    # Layer norms' shifts learn last; a rate at which two steps show everywhere.
    words += ["optim.lr=1e-2"]
    trainer = check_two_steps(load("finetune", data.overrides(tmp_path, *words)), tmp_path)
    assert isinstance(trainer.model, OwlDetector)
    assert (trainer.model.objectness_head is not None) == (kind == "owlv2")


def test_the_recipe_of_owlv2(data: SmallData, tmp_path: Path) -> None:
    """Objectness, dropped patches, clipping one by one, parts, moving average, all at once."""
    words = [
        *data.random_towers,
        *("model.heads.objectness=true", "loss.drop_patches=0.5", "loss.objectness_top_k=4"),
        *("loss.normalization=per_example", "optim.clip=per_example", "optim.optimizer=adam"),
        *("train.accumulation=2", "train.ema_decay=0.9", "data.augment.mosaic=[0.5, 0.5]"),
        *("optim.lr=1e-2", *TWO_STEPS),
    ]
    trainer = check_two_steps(load("owl_tiny", data.overrides(tmp_path, *words)), tmp_path)
    assert isinstance(trainer.clipping, PerExampleClipping)
    task = trainer._bare_task
    assert isinstance(task, DetectionTask)
    assert (task.drop_patches, task.objectness_top_k) == (0.5, 4)
    line = lines_of(tmp_path / "run", "train")[2]
    assert line["objectness"] > 0
    assert line["gradient_norm"] > 0
    best = OwlDetector.from_pretrained(tmp_path / "run" / "best")
    assert trainer.average is not None
    name = "class_head.logit_shift.weight"
    candidates = [trainer.average.model.state_dict()[name], trainer.model.state_dict()[name]]
    assert not torch.equal(*candidates)
    assert not torch.equal(best.state_dict()[name], candidates[1]), "best is the average"


def test_mosaics_are_counted_by_the_files_they_are_made_of(data: SmallData, tmp_path: Path) -> None:
    words = [*data.random_towers, "data.augment.mosaic=[0, 1]", "train.eval_every=4", "name=run"]
    config = load("owl_tiny", data.overrides(tmp_path, *words))
    state = build_detector_training(config).fit().state
    assert (state.examples, state.images_read) == (32, 128)


def test_everything_that_is_missing_is_named_at_once(data: SmallData, tmp_path: Path) -> None:
    words = [f"data.{part}=/none/{part}" for part in ("val.annotations", "val.images")]
    words += ["data.train.images=/none/train.images"]
    config = load("owl_tiny", data.overrides(tmp_path, *words, "name=run"))
    with pytest.raises(DatasetError) as caught:
        build_detector_training(config)
    said = str(caught.value)
    for part in ("train.images", "val.annotations", "val.images"):
        assert f"at /none/{part} (data.{part}), found no such" in said
    assert said.count("expected") == 3
    assert said.count("COCO as downloaded") == 1


def examples_of(config: DetectorConfig) -> DetectionExamples:
    preprocessing = owlvit_preprocessing(32, "scenic")
    sources = read_sources(config.data)
    return build_examples(sources, config.data, preprocessing=preprocessing, batch_size=4, seed=0)


def test_the_first_images_only(data: SmallData, tmp_path: Path) -> None:
    words = ["data.train.max_images=3", "data.augment.mosaic=[1]"]
    examples = examples_of(load("owl_tiny", data.overrides(tmp_path, *words)))
    content = json.loads((data.annotations / "instances_train.json").read_text())
    files = {str(data.scenes / image["file_name"]) for image in content["images"][:3]}
    assert {examples[index].source for index in range(9)} == files
    # The others are not even looked at.
    for image in content["images"][3:]:
        image["file_name"] = "gone.jpg"
    (tmp_path / "few.json").write_text(json.dumps(content))
    words.append(f"data.train.annotations={tmp_path / 'few.json'}")
    examples_of(load("owl_tiny", data.overrides(tmp_path, *words)))


@pytest.mark.parametrize("fit", ["pad", "squash", "crop"])
def test_training_fits_images_as_prediction_does(data: SmallData, tmp_path: Path, fit: str) -> None:
    """A picture twice as wide as high, half of it white: pads black, stretches, or is cut."""
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 255
    cv2.imwrite(str(tmp_path / "wide.png"), image)
    content = {
        "images": [{"id": 1, "file_name": "wide.png", "width": 40, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 0, 20, 20]}],
        "categories": [{"id": 1, "name": "white"}],
    }
    (tmp_path / "wide.json").write_text(json.dumps(content))
    config = load(
        "owl_tiny",
        data.overrides(
            tmp_path,
            *data.random_towers,
            *(f"data.train.annotations={tmp_path / 'wide.json'}", f"data.train.images={tmp_path}"),
            *("data.augment.flip=0", "data.augment.crop=false", "data.augment.mosaic=[1]"),
            *("data.augment.min_remaining_area=0", "name=run", f"model.preprocessing.fit={fit}"),
            "model.preprocessing.pad_value=0.2",
        ),
    )
    trainer = build_detector_training(config)
    batch = next(iter(trainer.make_batches(0)))
    assert isinstance(trainer.model, OwlDetector)
    own = trainer.model.preprocessing
    assert (own.fit, own.pad_value) == (fit, 0.2)
    pixels, transform = own(image)
    shown = torch.from_numpy(pixels) * torch.tensor(own.std)[:, None, None]
    shown = (shown + torch.tensor(own.mean)[:, None, None]) * 255
    # Filters differ at the edges of the white half and of the picture.
    assert ((batch.images[0].float() - shown).abs() > 2).float().mean() < 0.1
    x0, y0, x1, y1 = transform.apply([[20, 0, 40, 20]]).clip(0, 1)[0]
    box = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
    np.testing.assert_allclose(batch.targets.boxes[0, 0], box, atol=1e-6)


def test_several_data_sets(data: SmallData, tmp_path: Path) -> None:
    content = json.loads((data.annotations / "instances_train.json").read_text())
    for number, category in enumerate(content["categories"]):
        category["name"] = f"other {number}"
    (tmp_path / "other.json").write_text(json.dumps(content))
    extra = (
        f"data.extra=[{{annotations: {tmp_path / 'other.json'}, images: {data.scenes}, weight: 3}}]"
    )
    config = load("owl_tiny", data.overrides(tmp_path, extra, "data.augment.mosaic=[1]"))
    examples = examples_of(config)
    kinds = [bool(examples[index].texts[0].startswith("other")) for index in range(8)]
    assert sum(kinds) == 6


def test_every_setting_of_the_loss_arrives() -> None:
    values = {
        "class_weight": 2.0,
        "l1_weight": 3.0,
        "giou_weight": 4.0,
        "focal_alpha": 0.4,
        "focal_gamma": 1.0,
        "normalization": "global",
        "objectness_weight": 0.5,
    }
    loss = build_loss(LossSection(**values))  # type: ignore[arg-type]
    for name, value in values.items():
        assert getattr(loss, name) == value, name


def test_no_evaluation_without_validation_data(
    data: SmallData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*data.random_towers, *TWO_STEPS, "data.val.annotations=", "eval.split="]
    with caplog.at_level(logging.INFO, logger="owlkit.build"):
        trainer = build_detector_training(load("owl_tiny", data.overrides(tmp_path, *words)))
    assert "no data.val.annotations: nothing is measured, best/ will be the last" in caplog.text
    assert trainer.evaluation is None
    trainer.fit()
    OwlDetector.from_pretrained(tmp_path / "run" / "best")


def test_what_the_first_evaluation_would_refuse_is_refused_before_training(
    data: SmallData, tmp_path: Path
) -> None:
    content = json.loads((data.annotations / "instances_val.json").read_text())
    content["annotations"][0]["area"] = None
    (tmp_path / "val.json").write_text(json.dumps(content))
    words = [*data.random_towers, *TWO_STEPS, f"data.val.annotations={tmp_path / 'val.json'}"]
    with pytest.raises(DatasetError, match=r"annotations\[0\]\.area: expected a finite number"):
        build_detector_training(load("owl_tiny", data.overrides(tmp_path, *words)))


def test_an_evaluation_survives_faults_that_a_training_survives(
    data: SmallData, tmp_path: Path
) -> None:
    """Annotations of nothing, a picture listed twice, one that is cut off."""
    content = json.loads((data.annotations / "instances_val.json").read_text())
    stray = content["annotations"][0] | {"id": 10**6, "image_id": 10**6}
    content["annotations"].append(stray)
    images = content["images"]
    images.append(images[0] | {"id": 10**5})
    picture = data.scenes / images[1]["file_name"]
    broken = tmp_path / "broken" / picture.name
    broken.parent.mkdir()
    broken.write_bytes(picture.read_bytes()[:-200])
    for image in images:
        image["file_name"] = str(Path("scenes") / image["file_name"])
    images[1]["file_name"] = str(broken.relative_to(tmp_path))
    (tmp_path / "scenes").symlink_to(data.scenes)
    (tmp_path / "val.json").write_text(json.dumps(content))
    words = [*data.random_towers, *TWO_STEPS, f"data.val.annotations={tmp_path / 'val.json'}"]
    words += [f"data.val.images={tmp_path}", "eval.sample_images=3"]
    build_detector_training(load("owl_tiny", data.overrides(tmp_path, *words))).fit()
    assert "AP" in lines_of(tmp_path / "run", "eval")[2]
    samples = {path.stem for path in (tmp_path / "run" / "samples" / "step_000002").iterdir()}
    assert samples == {str(images[0]["id"]), str(images[2]["id"])}


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (
            ["data.train.annotations=/none/a.json"],
            DatasetError,
            r"COCO's .* at /none/a\.json \(data\.train\.annotations\), found no such file",
        ),
        (
            ["data.val.annotations=/none/a.json"],
            DatasetError,
            r"COCO's .* at /none/a\.json \(data\.val\.annotations\), found no such file",
        ),
        (
            ["data.val.images=/none/pictures"],
            DatasetError,
            r"folder .* at /none/pictures \(data\.val\.images\), found no such folder",
        ),
        (
            ["data.train.images="],
            ConfigError,
            r"^data\.train\.images: expected the folder of the images, found nothing",
        ),
        (
            ["data.extra=[{annotations: $OWLKIT_TEST_UNSET/a.json, images: b}]"],
            ConfigError,
            r"^data\.extra\.0\.annotations: \$OWLKIT_TEST_UNSET/a\.json names an environment",
        ),
        (
            ["data.train.annotations=$NO_BOXES"],
            DatasetError,
            r"^data\.train\.annotations: .* one box, found 0 in 6 images, .*none\.json",
        ),
        (
            ["data.val.annotations=$NO_BOXES"],
            DatasetError,
            r"^data\.val\.annotations: .* one box, found 0 in 6 images, .*none\.json",
        ),
        (["eval.templates=ensemble8"], QueryError, "did you mean ensemble"),
        (["eval.split=/none/split.json"], DatasetError, r"/none/split\.json"),
        (["model.init_from=/none/model"], CheckpointError, r"/none/model: no such folder"),
        (["model.text.tokenizer="], ConfigError, "tokenizer"),
        (["loss.objectness_top_k=4"], ConfigError, "objectness head"),
        (["optim.warmup_steps=4"], ConfigError, r"optim\.warmup_steps"),
        (["train.batch_size=9", "train.accumulation=2"], ConfigError, r"train\.batch_size"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_work_is_named_before_anything_is_trained(
    data: SmallData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    error: type[Exception],
    message: str,
) -> None:
    content = json.loads((data.annotations / "instances_val.json").read_text())
    (tmp_path / "none.json").write_text(json.dumps({**content, "annotations": []}))
    monkeypatch.setenv("NO_BOXES", str(tmp_path / "none.json"))
    towers = [*data.random_towers] if "init_from" not in words[0] else []
    preset = "owl_tiny" if towers else "finetune"
    if towers:
        towers += ["model.vision.image_size=32"]
    with pytest.raises(error, match=message):
        build_detector_training(load(preset, data.overrides(tmp_path, *towers, "name=run", *words)))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_missing_data_set_is_found_before_weights_are_loaded(tmp_path: Path) -> None:
    words = ["name=run", f"runs={tmp_path}", "model.init_from=no/such-model"]
    words += [f"data.train.annotations={tmp_path / 'none.json'}", f"data.train.images={tmp_path}"]
    with pytest.raises(DatasetError, match=r"none\.json"):
        build_detector_training(load_config(CONFIGS / "owl_b16.yaml", words))
