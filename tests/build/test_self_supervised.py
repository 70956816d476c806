"""Self-supervised pretraining on a few synthetic scenes, and what becomes of its backbone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from owlkit import DualEncoder, ImageBackbone
from owlkit.build import (
    build_backbone,
    build_contrastive_training,
    build_detector,
    build_self_supervised_training,
)
from owlkit.build.self_supervised_tasks import build_self_supervised_task
from owlkit.config import (
    BackboneSection,
    ContrastiveConfig,
    ModelSection,
    SelfSupervisedConfig,
    load_config,
)
from owlkit.data.captions import read_captioned_images
from owlkit.data.shard_writing import write_shards
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation.knn import knn_accuracy
from owlkit.geometry import IMAGENET_MEAN, IMAGENET_STD
from tests.small_run import CONFIGS, STEPS, VISION, SmallData, lines_of, make_small_data

DINO = (
    *("data.crops.local_size=16", "data.crops.local_crops=2", "loss.dino.out_dim=32"),
    *("loss.dino.hidden_width=32", "loss.dino.bottleneck_width=16", "loss.dino.frozen_steps=1"),
)
PLAIN = ("loss.dino.ibot_weight=0", "loss.dino.ibot_head=shared")
OTHERS = "loss.dino={} data.crops={} optim.clip=global"
MAE = (
    f"{OTHERS} loss={{objective: mae, mae: {{decoder_width: 32, decoder_depth: 1, "
    "decoder_heads: 2}} model.vision.init=mae train.ema_decay=0.5"
)
BYOL = f"{OTHERS} loss={{objective: byol, byol: {{hidden_width: 32, width: 16}}}}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SmallData:
    return make_small_data(tmp_path_factory.mktemp("small"))


def load(data: SmallData, runs: Path, *words: str) -> SelfSupervisedConfig:
    images = f"data.train.images={data.scenes / 'train'}"
    file = CONFIGS / "quickstart" / "dino.yaml"
    given = (*VISION, *DINO, *STEPS, images, f"runs={runs}", *words)
    return load_config(file, given, schema=SelfSupervisedConfig)


def labelled(folder: Path) -> Path:
    """Forty pictures of two classes, told apart by their brightness, as arrays."""
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = generator.integers(100, size=(40, 32, 32, 3)) + 150 * labels[:, None, None, None]
    names = np.array(["dark", "bright"])
    np.savez(folder / "labelled.npz", images=images.astype("u1"), labels=labels, label_names=names)
    return folder / "labelled.npz"


def test_a_few_steps_leave_a_measured_backbone(data: SmallData, tmp_path: Path) -> None:
    file = labelled(tmp_path)
    words = [
        *(f"data.{part}_classes.classes={file}" for part in ("bank", "val")),
        *("data.bank_classes.max_images=30", "eval.neighbours=3"),
    ]
    trainer = build_self_supervised_training(load(data, tmp_path, *words))
    batch = next(iter(trainer.make_batches(0)))
    assert batch.global_crops.shape == (8, 2, 3, 32, 32)
    assert batch.local_crops is not None
    assert batch.local_crops.shape == (8, 2, 3, 16, 16)
    assert batch.masks is not None
    assert batch.masks.shape == (8, 2, 16)
    assert batch.masks.any(dim=-1).sum() <= 8, "half of the views are masked at most"
    task = trainer.task
    begun = task.student.state_dict()
    torch.testing.assert_close(task.teacher.state_dict(), begun, rtol=0, atol=0)

    state = trainer.fit().state
    assert state.step == 4
    measured = lines_of(tmp_path / "dino", "eval")
    assert set(measured) == {2, 4}
    model = ImageBackbone.from_pretrained(tmp_path / "dino" / "last")
    assert all(
        torch.equal(value, task.teacher.vision.state_dict()[name])
        for name, value in model.vision.state_dict().items()
    ), "the teacher is what is kept"
    assert (model.preprocessing.mean, model.preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert model.preprocessing.fit == "crop"
    # Brightness alone tells the classes apart, so that any vectors do it; which 30 images are in
    # the bank is drawn by the seed.
    arrays = np.load(file)
    pixels = torch.stack(
        [torch.from_numpy(model.preprocessing(image)[0]) for image in arrays["images"]]
    )
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(model(pixels).pooled, dim=-1)
    labels = torch.from_numpy(arrays["labels"])
    chosen = np.random.default_rng(0).permutation(40)[:30]
    top1, _ = knn_accuracy(vectors[chosen], labels[chosen], vectors, labels, k=3)
    assert measured[4]["knn_top1"] == pytest.approx(top1)


@pytest.mark.parametrize(
    "words",
    [
        " ".join(PLAIN),
        "loss.dino.centering=sinkhorn_knopp loss.dino.koleo_weight=0.1 model.vision.drop_path=0.2"
        " model.vision.uniform_drop_path=true loss.dino.ibot_out_dim=24",
        "loss.dino.ibot_head=shared loss.dino.head_batch_norm=true train.accumulation=2",
        MAE,
        BYOL,
    ],
    ids=["dino", "dinov2", "shared head", "mae", "byol"],
)
def test_every_objective_trains_and_goes_on_where_it_stopped(
    data: SmallData, tmp_path: Path, words: str
) -> None:
    weights = []
    for run, stops in (("whole", [4]), ("halves", [2, 4])):
        for step in stops:
            resume = len(stops) > 1 and step == 4
            config = load(data, tmp_path, f"name={run}", *split(words))
            trainer = build_self_supervised_training(config.model_copy(update={"resume": resume}))
            if step < 4:
                trainer.train = trainer.train.model_copy(update={"steps": step})
            trainer.fit(resume=resume)
        weights.append(trainer.task.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def split(words: str) -> list[str]:
    """Words apart, with the spaces inside of braces kept."""
    parts: list[str] = []
    for word in words.split(" "):
        if parts and parts[-1].count("{") > parts[-1].count("}"):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    return parts


def test_only_the_student_drops_branches(data: SmallData, tmp_path: Path) -> None:
    words = ["model.vision.drop_path=0.2", "model.vision.uniform_drop_path=true"]
    words += ["model.vision.overrides.proj_drop_rate=0.3"]
    task = build_self_supervised_task(load(data, tmp_path, *words))
    dropped = [
        max(layer.p for layer in side.modules() if isinstance(layer, nn.Dropout))
        for side in (task.student, task.teacher)
    ]
    assert dropped == [0.3, 0.0]
    assert (task.student.vision.drop_path, task.teacher.vision.drop_path) == (0.2, 0.0)
    rates = [block.drop_path1.drop_prob for block in task.student.vision.model.blocks]
    assert rates == [0.2, 0.2]
    assert task.student.vision.rescale_dropped


def test_views_grow_in_the_end_phase(data: SmallData, tmp_path: Path) -> None:
    words = ["data.end_phase={steps: 1, global_size: 64, local_size: 32}"]
    trainer = build_self_supervised_training(load(data, tmp_path, *words))
    sides = [batch.global_crops.shape[-1] for batch in trainer.make_batches(0)]
    assert sides == [32, 32, 32, 64]
    (late,) = trainer.make_batches(3)
    assert late.local_crops.shape[-1] == 32
    assert late.masks.shape[-1] == 64
    assert trainer.fit().state.step == 4


def test_captions_classes_and_shards_give_images_too(data: SmallData, tmp_path: Path) -> None:
    captions = data.scenes / "captions_train.jsonl"
    images = read_captioned_images(captions, data.scenes)
    write_shards(images, tmp_path / "shards", per_shard=20)
    kinds = {
        "captions": f"{{captions: {captions}, images: {data.scenes}}}",
        "classes": f"{{classes: {labelled(tmp_path)}}}",
        "shards": f"{{shards: ['{tmp_path}/shards/shard-*.tar']}}",
    }
    for kind, section in kinds.items():
        words = [f"name={kind}", f"data.train={section}"]
        trainer = build_self_supervised_training(load(data, tmp_path, *words))
        batch = next(iter(trainer.make_batches(0)))
        assert batch.global_crops.shape == (8, 2, 3, 32, 32)
        assert trainer.fit().state.step == 4


def test_the_backbone_gets_words_and_boxes(data: SmallData, tmp_path: Path) -> None:
    """DINO with iBOT, then LiT, then a detector: each takes what the one before it left."""
    build_self_supervised_training(load(data, tmp_path)).fit()
    backbone = tmp_path / "dino" / "best"
    file, *words = data.pretraining(
        tmp_path, f"model.vision={{weights: {backbone}}}", "data.flip=0"
    )
    words = [word for word in words if word not in VISION]
    words += ["optim.freeze=[image]", f"data.cache={tmp_path / 'vectors'}", "name=lit"]
    build_contrastive_training(load_config(file, words, schema=ContrastiveConfig)).fit()
    pair = DualEncoder.from_pretrained(tmp_path / "lit" / "best")
    tower = VisionTower.from_pretrained(backbone)
    assert tower.mask_token is not None
    assert pair.vision.mask_token is None
    assert pair.preprocessing == ImageBackbone.from_pretrained(backbone).preprocessing
    expected = {name: value for name, value in tower.state_dict().items() if name != "mask_token"}
    found = pair.vision.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    section = {"init_from": str(tmp_path / "lit" / "best"), "vision": {"image_size": 32}}
    detector = build_detector(ModelSection.model_validate(section))
    torch.testing.assert_close(detector.vision.state_dict(), expected, rtol=0, atol=0)


def test_pretraining_goes_on_from_a_backbone(tmp_path: Path) -> None:
    """A new mask token begins at zero, other weights and positions as they are."""
    arguments = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    values = {"name": "vit_tiny_patch16_224", "image_size": 32, "overrides": arguments}
    first = build_backbone(BackboneSection.model_validate({"vision": values}))
    first.save_pretrained(tmp_path / "first")
    again = BackboneSection.model_validate({"vision": {"weights": str(tmp_path / "first")}})
    second = build_backbone(again, mask_token=True)
    found = second.vision.state_dict()
    assert not found.pop("mask_token").any()
    torch.testing.assert_close(found, first.vision.state_dict(), rtol=0, atol=0)
    assert second.preprocessing == first.preprocessing


def test_random_weights_are_as_large_as_imagenet(tmp_path: Path) -> None:
    vision = {"name": "vit_tiny_patch16_224", "overrides": {"depth": 1}, "init": "mae"}
    model = build_backbone(BackboneSection.model_validate({"vision": vision}))
    assert model.preprocessing.size == (224, 224)
    assert not model.vision.model.pos_embed.requires_grad


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("data.train.images=", ConfigError, r"^data\.train: expected images, captions with"),
        ("data.train={captions: x.jsonl}", ConfigError, r"shards, found captions alone$"),
        ("data.train.images=/none", DatasetError, r"^/none: expected a folder of images"),
        ("data.train.images=$OWLKIT_TEST_UNSET", ConfigError, r"^data\.train\.images: \$OWLKIT"),
        (
            "data.crops.local_size=17",
            ConfigError,
            r"^data\.crops\.local_size: expected a multiple of the patch size 8 of vit_.*found 17",
        ),
        (
            "data.end_phase.steps=1 data.end_phase.global_size=60",
            ConfigError,
            r"^data\.end_phase\.global_size: expected a multiple of the patch size 8",
        ),
        (
            "model.vision.name=swin_tiny_patch4_window7_224 model.vision.overrides={} "
            "loss.dino.ibot_weight=0 loss.dino.ibot_head=shared data.crops.local_size=18",
            ConfigError,
            r"^data\.crops\.local_size: expected a size that swin_tiny.* can take, found 18",
        ),
        (
            "model.vision.name=resnet18 model.vision.overrides={}",
            ConfigError,
            "mask_token: resnet18 is no vision transformer",
        ),
        ("loss.dino.koleo_weight=1 train.accumulation=2", ConfigError, "accumulation"),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else "",
)
def test_what_cannot_work_is_named(
    data: SmallData, tmp_path: Path, words: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_self_supervised_training(load(data, tmp_path, *split(words)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "model.vision.name=resnet18 model.vision.overrides={} model.vision.init=timm",
            "vision transformer, found resnet18",
        ),
        ("model.vision.overrides.stem=conv", "embedded each by itself.*overlapping convolutions"),
    ],
)
def test_autoencoders_need_patches(
    data: SmallData, tmp_path: Path, words: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_self_supervised_training(load(data, tmp_path, *split(f"{MAE} {words}")))


def test_what_is_allowed_but_odd_is_said(
    data: SmallData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="owlkit")
    words = ["model.vision.overrides.stem=conv", "train.batch_size=100"]
    build_self_supervised_training(load(data, tmp_path, *words))
    assert "48 images are fewer than train.batch_size 100" in caplog.text
    assert "the stem let masked patches be seen" in caplog.text


def test_patches_may_have_a_narrower_head(data: SmallData, tmp_path: Path) -> None:
    words = ["loss.dino.ibot_bottleneck_width=8", "loss.dino.ibot_out_dim=24"]
    task = build_self_supervised_task(load(data, tmp_path, *words))
    heads = task.student.head, task.student.patch_head
    assert [tuple(head.prototypes.weight.shape) for head in heads] == [(32, 16), (24, 8)]


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_other_backbones_train(data: SmallData, tmp_path: Path, name: str) -> None:
    words = [f"model.vision.name={name}", "model.vision.overrides={}", *PLAIN, "train.steps=2"]
    words += ["model.vision.image_size=64", "data.crops.local_size=32"]
    assert build_self_supervised_training(load(data, tmp_path, *words)).fit().state.step == 2
