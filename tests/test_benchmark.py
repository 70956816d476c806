"""The benchmark measures what it says: medians of pairs, memory, equal numbers on all sides."""

import json
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def test_ratio_is_the_median_of_the_pairs_own_ratios(capsys):
    from benchmarks.comparison import summarise

    row = summarise([(1.0, 2.0), (2.0, 2.0), (1.0, 4.0)], path="p", peer="q", settings="s")
    assert (row.ratio, row.owlkit_s, row.peer_s, row.spread) == (2.0, 1.0, 2.0, 1.5)
    assert "| p | s | q | 2.00 | 1.000 | 2.000 | 150% |" in capsys.readouterr().out


def test_meter_sees_what_lives_at_once():
    from benchmarks.memory import MemoryMeter

    with MemoryMeter() as meter:
        kept = torch.ones(1000) + 1  # two at once
        small = (torch.ones(10) + kept[:10]).sum()
    assert meter.largest == 1000
    assert meter.peak == 2 * kept.nbytes
    assert meter.held == kept.nbytes + small.nbytes


def test_evaluation_problem_is_the_same_to_all(monkeypatch, tmp_path, capsys):
    import benchmarks.evaluate as subject

    for name, value in {"IMAGES": 60, "OBJECTS": 400, "DETECTIONS": 2000}.items():
        monkeypatch.setattr(subject, name, value)
    rows = list(subject.evaluate(1, tmp_path))  # raises where any of the 12 numbers differs
    assert [row.peer for row in rows] == ["pycocotools", "faster-coco-eval"]
    assert len(json.loads((tmp_path / "results.json").read_text())) == 2000


def test_training_batch_asks_for_all_classes_in_every_picture(monkeypatch):
    import benchmarks.train as subject

    monkeypatch.setattr(subject, "SIZE", 32)
    shared, drawn = subject._make_batch(draws=1), subject._make_batch(draws=subject.BATCH)
    assert shared.queries.shape == drawn.queries.shape == (subject.BATCH, 80)
    assert len(shared.texts) == 80 < 300 < len(drawn.texts)
    assert shared.targets.box_mask.sum() == subject.BATCH * subject.BOXES


def test_both_dino_steps_learn_the_same(monkeypatch):
    import benchmarks.selfsup as subject

    sizes = {"NAME": "vit_tiny_patch16_224", "PROTOTYPES": 64, "GLOBAL": 64, "LOCAL": 32}
    for name, value in sizes.items():
        monkeypatch.setattr(subject, name, value)
    losses = []
    for step in (subject.OwlkitStep, subject.OriginalStep):
        one = step(subject.make_parts(), subject.make_batch(), precision="float32")
        torch.manual_seed(0)  # of the paths that are dropped
        losses.append([one() for _ in range(3)])
    # Apart from the first step, so do optimiser, clipping, teacher and center.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] != pytest.approx(losses[0][2], rel=1e-4)
