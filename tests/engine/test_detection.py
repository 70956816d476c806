"""The detection task on a tiny detector: what it feeds, what it returns, that it learns."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from owlkit.build import build_detector
from owlkit.config import OptimSection, TrainSection, load_config
from owlkit.engine import ContrastiveTask, DetectionTask, RunOutput, Trainer, clip_objective
from owlkit.errors import ConfigError
from owlkit.losses import DetectionLoss
from owlkit.models import DualEncoder, OwlDetector
from owlkit.structures import DetectionBatch, DetectionTargets
from tests.engine.toy import ToyLog

CONFIG = Path(__file__).parents[2] / "configs" / "owl_tiny.yaml"
TEXTS = ("a cat", "a dog on a table", "an owl near a river", "a boat")


def make_detector(tokenizer_folder: Path, *overrides: str) -> OwlDetector:
    text = [f"model.text.tokenizer={tokenizer_folder}", "model.text.vocab_size=300"]
    return build_detector(load_config(CONFIG, [*text, *overrides]).model, seed=1)


def make_batch(size: int = 2) -> DetectionBatch:
    """Coloured rectangles on grey; image i has one box of its query i, and a masked query."""
    images = torch.full((size, 3, 64, 64), 127, dtype=torch.uint8)
    boxes = torch.zeros(size, 2, 4)
    labels = torch.zeros(size, 2, 3)
    for index in range(size):
        images[index, index % 3, 16:48, 16:48] = 255
        boxes[index, 0] = torch.tensor([0.5, 0.5, 0.5, 0.5])
        labels[index, 0, index % 2] = 1
    query_mask = torch.tensor([True, True, False]).expand(size, 3)
    box_mask = torch.tensor([True, False]).expand(size, 2)
    return DetectionBatch(
        images=images,
        texts=TEXTS,
        queries=torch.tensor([[1, 2, 0], [3, 1, 0]])[torch.arange(size) % 2],
        targets=DetectionTargets(boxes, labels, box_mask, query_mask),
        sources=tuple(f"{index}.jpg" for index in range(size)),
        images_read=size,
    )


def test_the_loss_is_that_of_the_detector_called_by_hand(tokenizer_folder: Path) -> None:
    """Through preprocessing as the predictor does it, and the detector's own encoding of texts."""
    detector = make_detector(tokenizer_folder, "model.heads.objectness=true")
    batch, loss = make_batch(), DetectionLoss(l1_weight=2.0)
    terms = DetectionTask(detector, loss)(batch)
    pixels = torch.stack(
        [
            torch.from_numpy(detector.preprocessing(image.permute(1, 2, 0).numpy())[0])
            for image in batch.images
        ]
    )
    queries = torch.stack([detector.encode_strings([TEXTS[i] for i in q]) for q in batch.queries])
    features = detector.encode_images(pixels)
    expected = loss(
        detector.score(features, queries, batch.targets.query_mask),
        features.boxes,
        batch.targets,
        objectness=features.objectness,
    )
    assert terms.keys() == {"loss", "classes", "l1", "giou", "objectness"}
    torch.testing.assert_close(terms["loss"], expected.total, rtol=1e-5, atol=1e-5)
    for name in ("classes", "l1", "giou", "objectness"):
        torch.testing.assert_close(terms[name], getattr(expected, name), rtol=1e-5, atol=1e-5)


def test_parts_of_a_batch_encode_only_what_they_ask_for(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = DetectionTask(make_detector(tokenizer_folder), DetectionLoss())
    batch = make_batch()
    encoded: list[int] = []
    real = task.model.encode_text
    monkeypatch.setattr(
        task.model, "encode_text", lambda ids, mask: encoded.append(len(ids)) or real(ids, mask)
    )
    parts = [task(batch[:1])["loss"], task(batch[1:])["loss"]]
    whole = task(batch)["loss"]
    assert encoded == [3, 3, 4]
    torch.testing.assert_close(sum(parts) / 2, whole, rtol=1e-5, atol=1e-5)


def test_texts_are_tokenised_once(tokenizer_folder: Path) -> None:
    detector = make_detector(tokenizer_folder)
    task = DetectionTask(detector, DetectionLoss())
    assert detector.tokenizer is not None
    calls: list[list[str]] = []

    def counting(texts: list[str]) -> Any:
        calls.append(list(texts))
        assert detector.tokenizer is not None
        return detector.tokenizer(texts)

    task._tokens._tokenizer = type(  # the cache asks for nothing else
        "Counting",
        (),
        {
            "__call__": staticmethod(counting),
            "pad_token_id": detector.tokenizer.pad_token_id,
            "context_length": detector.tokenizer.context_length,
        },
    )()
    for texts in (TEXTS[:2], TEXTS[:2], TEXTS, TEXTS[3:], TEXTS[::-1]):
        tokens = task._tokens(texts)
        ids, mask = detector.tokenizer(texts)
        assert torch.equal(tokens.ids, ids)
        assert torch.equal(tokens.mask, mask)
    assert calls == [list(TEXTS[:2]), list(TEXTS[2:])]


@pytest.mark.parametrize("training", [True, False])
def test_patches_are_dropped_in_training_only(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    detector = make_detector(tokenizer_folder, "model.heads.objectness=true")
    task = DetectionTask(detector, DetectionLoss(), drop_patches=0.5, objectness_top_k=3)
    seen: dict[str, Any] = {}
    real = detector.encode_images

    def encode(pixels: torch.Tensor, **how: Any) -> Any:
        seen.update(how)
        seen["features"] = real(pixels, **how)
        return seen["features"]

    monkeypatch.setattr(detector, "encode_images", encode)
    task.train(training)(make_batch())
    if training:
        # A rectangle's corner lies in each inner patch's edge; flat patches go first.
        assert seen["keep"].shape == (2, 8)
        assert seen["features"].boxes.shape == (2, 3, 4)
    else:
        assert seen["keep"] is None
        assert seen["features"].boxes.shape == (2, 16, 4)


def test_every_weight_that_learns_gets_a_gradient(tokenizer_folder: Path) -> None:
    """Otherwise processes would wait for one another's gradients; also without any box."""
    detector = make_detector(tokenizer_folder, "model.heads.objectness=true")
    task = DetectionTask(detector, DetectionLoss())
    batch = make_batch()
    empty = replace(
        batch.targets,
        boxes=torch.zeros(2, 0, 4),
        labels=torch.zeros(2, 0, 3),
        box_mask=torch.zeros(2, 0, dtype=torch.bool),
        query_mask=torch.zeros(2, 3, dtype=torch.bool),
    )
    assert not task.find_unused_parameters
    for targets in (batch.targets, empty):
        task.zero_grad()
        task(replace(batch, targets=targets))["loss"].backward()
        missing = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []


def test_weights_without_a_gradient_are_announced(tokenizer_folder: Path) -> None:
    """A pooled vector that is not merged into the patches leaves its own weights unused."""
    detector = make_detector(tokenizer_folder, "model.heads.merge=none")
    assert DetectionTask(detector, DetectionLoss()).find_unused_parameters


def test_what_the_detector_lacks_is_refused(tokenizer_folder: Path) -> None:
    detector = make_detector(tokenizer_folder)
    with pytest.raises(ConfigError, match="objectness head"):
        DetectionTask(detector, DetectionLoss(), objectness_top_k=3)
    detector.tokenizer = None
    with pytest.raises(ConfigError, match=r"^model\.text\.tokenizer: expected the folder"):
        DetectionTask(detector, DetectionLoss())
    pair = DualEncoder(detector.vision, detector.text, preprocessing=detector.preprocessing)
    with pytest.raises(ConfigError, match=r"^model\.text\.tokenizer: expected the folder"):
        ContrastiveTask(pair, clip_objective())


@pytest.mark.parametrize("normalization", ["per_example", "global"])
def test_parts_of_a_batch_add_up_to_it(
    tmp_path: Path, tokenizer_folder: Path, normalization: Any
) -> None:
    """One step on images with 3, 3, 1 and no boxes, passed together, in halves, one by one."""
    counts = torch.tensor([3, 3, 1, 0])
    batch = make_batch(4)
    boxes = torch.rand(4, 3, 4, generator=torch.Generator().manual_seed(0)) / 2 + 0.2
    labels = torch.zeros(4, 3, 3)
    labels[:, torch.arange(3), torch.tensor([0, 1, 0])] = 1
    box_mask = torch.arange(3) < counts[:, None]
    targets = DetectionTargets(
        boxes * box_mask[..., None],
        labels * box_mask[..., None],
        box_mask,
        batch.targets.query_mask,
    )
    batch = replace(batch, targets=targets)
    loss = DetectionLoss(normalization=normalization)

    def gradients(task: DetectionTask) -> dict[str, torch.Tensor]:
        named = task.named_parameters()
        return {name: value.grad.clone() for name, value in named if value.grad is not None}

    def make_task() -> DetectionTask:
        return DetectionTask(make_detector(tokenizer_folder, "model.heads.objectness=true"), loss)

    whole = make_task()
    terms = whole(batch)
    terms["loss"].backward()
    expected = gradients(whole)
    for accumulation in (1, 2, 4):
        task, log, found = make_task(), ToyLog(), []
        trainer = Trainer(
            task,
            optim=OptimSection(clip="none", warmup_steps=0),
            train=TrainSection(steps=1, batch_size=4, accumulation=accumulation),
            make_batches=lambda start: iter([batch]),
            output=RunOutput(tmp_path / str(accumulation), OwlDetector.save_pretrained, log),
        )
        trainer.optimizer.step = lambda task=task, found=found: found.append(gradients(task))
        trainer.fit()
        for name, value in terms.items():
            assert log.of("train")[1][name] == pytest.approx(value.item(), rel=1e-5), name
        assert found[0].keys() == expected.keys()
        for name, gradient in expected.items():
            difference = (found[0][name] - gradient).norm()
            assert difference <= 1e-3 * gradient.norm() + 1e-4, (accumulation, name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_tiny_detector_learns_its_batch(
    tmp_path: Path, tokenizer_folder: Path, precision: str
) -> None:
    detector, batch, log = make_detector(tokenizer_folder), make_batch(), ToyLog()

    def batches(start: int) -> Iterator[DetectionBatch]:
        while True:
            yield batch

    trainer = Trainer(
        DetectionTask(detector, DetectionLoss()),
        optim=OptimSection(lr=2e-3, warmup_steps=5, clip="per_example"),
        train=TrainSection(steps=40, batch_size=2, log_every=10, precision=precision),
        make_batches=batches,
        output=RunOutput(tmp_path, OwlDetector.save_pretrained, log),
    )
    trainer.fit()
    losses = [values["loss"] for values in log.of("train").values()]
    assert losses[-1] < 0.5 * losses[0]
    loaded = OwlDetector.from_pretrained(tmp_path / "last")
    assert OwlDetector.from_pretrained(tmp_path / "best").architecture == loaded.architecture
    with torch.no_grad():
        pixels = torch.rand(1, 3, 64, 64)
        found = loaded.encode_images(pixels).boxes
        torch.testing.assert_close(found, detector.eval().encode_images(pixels).boxes)
