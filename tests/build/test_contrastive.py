"""Contrastive pretraining on a few synthetic scenes."""

import json
from pathlib import Path

import pytest
import torch

from owlkit import DualEncoder
from owlkit.build import build_contrastive_training
from owlkit.config import ContrastiveConfig, load_config
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
    models = [DualEncoder.from_pretrained(tmp_path / "clip" / place) for place in ("best", "last")]
    trained = trainer.model.state_dict()
    for model in models:
        assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
        assert model.encode_strings(["a red circle"]).shape == (1, 32)


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


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("data.captions=", ConfigError, r"^data\.captions: expected a file of JSON lines"),
        ("data.captions=/none/a.jsonl", DatasetError, r"^/none/a\.jsonl: no such file; data\.capt"),
        ("data.images=/none", DatasetError, "48 of 48 images are missing, first /none/train/"),
        (
            "data.images=$OWLKIT_TEST_UNSET",
            ConfigError,
            r"\.images: \$OWLKIT_TEST_UNSET names",
        ),
        ("data.group_size=16 train.batch_size=16", ConfigError, "group_size is 16, but group"),
        ("train.batch_size=12", ConfigError, r"^train\.batch_size: .*data\.group_size \(8\)"),
        ("train.accumulation=2", ConfigError, r"^train\.accumulation: expected 1 .*, found 2"),
        ("optim.clip=per_example", ConfigError, r"^optim\.clip per_example: expected global"),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else "",
)
def test_what_cannot_work_is_named(
    data: SmallData, tmp_path: Path, word: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_contrastive_training(load(data, tmp_path, *word.split()))
