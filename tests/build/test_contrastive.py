"""Contrastive pretraining on a few synthetic scenes."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from owlkit import DualEncoder
from owlkit.build import build_contrastive_training
from owlkit.config import ContrastiveConfig, load_config
from owlkit.data.captions import read_captioned_images
from owlkit.data.shard_writing import write_shards
from owlkit.encoders.vision import VisionTower
from owlkit.errors import ConfigError, DatasetError
from tests.small_run import SmallData, lines_of, make_small_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SmallData:
    return make_small_data(tmp_path_factory.mktemp("small"))


def load(data: SmallData, runs: Path, *words: str) -> ContrastiveConfig:
    file, *overrides = data.pretraining(runs, *words)
    return load_config(file, overrides, schema=ContrastiveConfig)


def test_a_few_steps_learn_and_leave_a_dual_encoder(data: SmallData, tmp_path: Path) -> None:
    trainer = build_contrastive_training(load(data, tmp_path, "train.steps=30", "data.flip=0"))
    batch = next(iter(trainer.make_batches(0)))
    groups = {
        line["file"]: line["group"]
        for line in map(json.loads, (data.scenes / "captions_train.jsonl").read_text().splitlines())
    }
    files = [Path(source).relative_to(data.scenes).as_posix() for source in batch.sources]
    assert len({groups[file] for file in files}) == 1, "a batch of eight is one group"
    trainer.task(batch)["loss"].backward()
    missing = [name for name, value in trainer.task.named_parameters() if value.grad is None]
    assert missing == [], "processes would wait for one another's gradients"
    trainer.optimizer.zero_grad()
    state = trainer.fit().state
    assert (state.step, state.examples, state.images_read) == (30, 240, 240)
    losses = [line["loss"] for line in lines_of(tmp_path / "clip", "train").values()]
    assert sum(losses[-5:]) < sum(losses[:5])
    measured = lines_of(tmp_path / "clip", "eval")
    assert set(measured) == set(range(2, 31, 2))
    both = [measured[30][f"{way}_recall@1"] for way in ("text_to_image", "image_to_text")]
    assert measured[30]["recall@1"] == pytest.approx(sum(both) / 2)
    assert state.best == max(line["recall@1"] for line in measured.values())
    models = [DualEncoder.from_pretrained(tmp_path / "clip" / place) for place in ("best", "last")]
    trained = trainer.model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in models[1].state_dict().items())
    assert all(model.encode_strings(["a red circle"]).shape == (1, 32) for model in models)


def test_the_flip_of_the_configuration_is_used(data: SmallData, tmp_path: Path) -> None:
    batches = []
    for flip in (0, 1):
        words = [f"data.flip={flip}", "data.group_size=1", f"name=flip{flip}"]
        trainer = build_contrastive_training(load(data, tmp_path, *words))
        batches.append(next(iter(trainer.make_batches(0))))
    plain, flipped = batches
    assert plain.sources == flipped.sources
    mirrored = 0
    for row, text in enumerate(plain.texts):
        stays = "left" in text.split() or "right" in text.split()
        expected = plain.images[row] if stays else plain.images[row].flip(2)
        assert torch.equal(flipped.images[row], expected)
        mirrored += not stays
    assert mirrored > 0


def words_of_classes(folder: Path) -> list[str]:
    """Twenty pictures of two classes, told apart by their brightness, as arrays."""
    generator = np.random.default_rng(0)
    labels = np.arange(20) % 2
    images = generator.integers(100, size=(20, 32, 32, 3)) + 150 * labels[:, None, None, None]
    file = folder / "classes.npz"
    names = np.array(["red circle", "blue square"])
    np.savez(file, images=images.astype(np.uint8), labels=labels, label_names=names)
    return [
        *("data.train.captions=", "data.train.images=", f"data.train.classes={file}"),
        *("data.val_captions.captions=", f"data.val_classes.classes={file}", "data.group_size=1"),
    ]


def test_classes_are_learned_by_their_names(data: SmallData, tmp_path: Path) -> None:
    words = [*words_of_classes(tmp_path), "train.steps=40", "train.eval_every=40"]
    trainer = build_contrastive_training(load(data, tmp_path, *words))
    batch = next(iter(trainer.make_batches(0)))
    same = batch.identities[:, None] == batch.identities
    assert batch.identities.unique().numel() == 2
    assert same.equal(torch.tensor([[a == b for b in batch.texts] for a in batch.texts]))
    assert trainer.fit().state.best == 1.0
    assert "zero_shot_top1" in lines_of(tmp_path / "clip", "eval")[40]


@pytest.mark.parametrize(
    "words",
    [
        ["loss.objective=siglip", "loss.chunk_size=3"],
        ["loss.objective=triplet", "loss.mining=semi_hard"],
        ["loss.simclr_weight=1", "train.accumulation=2"],
        ["loss.patch_dropout=0.5", "optim.optimizer=adamw8bit"],
        ["data.group_size=1", "data.length_window=3", "data.crop=true", "data.colour_jitter=0.5"],
    ],
    ids=lambda words: words[0],
)
def test_every_setting_trains_and_goes_on_where_it_stopped(
    data: SmallData, tmp_path: Path, words: list[str]
) -> None:
    words = [*words, "train.eval_every=4"]
    weights = []
    for run, stops in (("whole", [4]), ("halves", [2, 4])):
        for step in stops:
            config = load(data, tmp_path, f"name={run}", *words)
            trainer = build_contrastive_training(
                config.model_copy(update={"resume": step == 4 and len(stops) > 1})
            )
            if step < 4:
                trainer.train = trainer.train.model_copy(update={"steps": step})
            trainer.fit(resume=step == 4 and len(stops) > 1)
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_bias_of_siglip_starts_at_the_share_of_pairs(data: SmallData, tmp_path: Path) -> None:
    model = build_contrastive_training(load(data, tmp_path, "loss.objective=siglip")).model
    assert model.logit_bias.item() == pytest.approx(-math.log(7))  # batches of eight
    assert model.logit_scale.exp().item() == pytest.approx(10)
    words = ["loss.objective=siglip", "loss.logit_bias=-3", "loss.logit_scale=20", "name=other"]
    model = build_contrastive_training(load(data, tmp_path, *words)).model
    assert (model.logit_bias.item(), model.logit_scale.exp().item()) == pytest.approx((-3, 20))


def test_a_locked_tower_is_asked_once(
    data: SmallData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["optim.freeze=[image]", "data.flip=0", f"data.cache={tmp_path / 'vectors'}"]
    plain = build_contrastive_training(load(data, tmp_path, *words[:2], "name=plain"))
    plain.fit()
    cached = build_contrastive_training(load(data, tmp_path, *words, "name=cached"))
    before = copy.deepcopy(cached.model.vision.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(VisionTower, "forward", lambda *args, **kwargs: pytest.fail("asked again"))
        again = build_contrastive_training(load(data, tmp_path, *words, "name=again"))
        batch = next(iter(again.make_batches(0)))
        assert batch.images is None
        again.task(batch)["loss"].backward()
    cached.fit()
    after = cached.model.state_dict()
    assert all(torch.equal(value, after[f"vision.{name}"]) for name, value in before.items())
    # The pictures of the cache were prepared as in use, those of the training by OpenCV.
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=2e-3)


def test_shards_train_like_files(data: SmallData, tmp_path: Path) -> None:
    images = read_captioned_images(data.scenes / "captions_train.jsonl", data.scenes)
    write_shards(images, tmp_path / "shards", per_shard=20)
    words = [
        *("data.train.captions=", "data.train.images=", "data.group_size=1"),
        f"data.train.shards=['{tmp_path}/shards/shard-{{000000..000001}}.tar']",
        f"data.extra=[{{shards: ['{tmp_path}/shards/shard-000002.tar'], weight: 2}}]",
    ]
    trainer = build_contrastive_training(load(data, tmp_path, *words))
    texts = {text for image in images for text in image.captions}
    assert set(next(iter(trainer.make_batches(0))).texts) <= texts
    assert trainer.fit().state.step == 4


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("data.train.captions=", ConfigError, r"^data\.train: expected captions .*, classes or"),
        ("data.train.captions=/none/a.jsonl", DatasetError, r"^/none/a\.jsonl: no such file"),
        ("data.train.images=/none", DatasetError, "48 of 48 images are missing, first /none/tr"),
        (
            "data.train.images=$OWLKIT_TEST_UNSET",
            ConfigError,
            r"^data\.train\.images: \$OWLKIT_TEST_UNSET names",
        ),
        ("data.val_captions.captions=/none/a.jsonl", DatasetError, r"^/none/a\.jsonl: no such"),
        ("data.train.split=dev", DatasetError, "dev"),
        ("data.group_size=16 train.batch_size=16", ConfigError, "group_size is 16, but group"),
        ("train.batch_size=12", ConfigError, r"^train\.batch_size: .*data\.group_size \(8\)"),
        ("optim.clip=per_example", ConfigError, r"optim\.clip: expected global or none, found per"),
        ("train.accumulation=3", ConfigError, r"^train\.batch_size must be a multiple"),
        ("data.cache=x", ConfigError, r"set optim\.freeze: \[image\]"),
        ("data.cache=x optim.freeze=[image]", ConfigError, r"expected no data\.flip"),
        ("data.length_window=2", ConfigError, "tear the groups"),
        ("data.train.classes=x", ConfigError, r"one of captions, classes and shards"),
        ("loss.logit_bias=-1", ConfigError, "logit_bias belongs to siglip"),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else "",
)
def test_what_cannot_work_is_named(
    data: SmallData, tmp_path: Path, word: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_contrastive_training(load(data, tmp_path, *word.split()))
