"""Both trainers of a detector learn the same; what is measured of them is what is said."""

from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[1] / "tools"
SIZE = 64


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A model and pictures of which a step takes no time."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import benchmarks.train_peers
    import benchmarks.train_step as subject
    from owlkit.config import TextSection, VisionSection

    vision = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    text = {"width": 32, "depth": 2, "heads": 2, "embed_width": 32, "vocab_size": 3000}
    monkeypatch.setattr(subject, "SIZE", SIZE)
    monkeypatch.setattr(benchmarks.train_peers, "SIZE", SIZE)
    monkeypatch.setattr(subject, "VISION", VisionSection(image_size=SIZE, overrides=vision))
    monkeypatch.setattr(subject, "TEXT", TextSection(**text))


def test_batch_asks_for_all_classes_in_every_picture():
    from benchmarks.train_step import BATCH, BOXES, make_batch

    shared, drawn = make_batch(draws=1), make_batch(draws=BATCH)
    assert shared.queries.shape == drawn.queries.shape == (BATCH, 80)
    assert len(shared.texts) == 80 < 300 < len(drawn.texts)
    assert shared.targets.box_mask.sum() == BATCH * BOXES


def test_transformers_step_learns_the_same(tmp_path):
    from benchmarks.train import Case
    from benchmarks.train_step import BATCH, make_batch

    case, batch = Case.make(tmp_path), make_batch(draws=BATCH)
    sides = case.step(batch, precision="float32"), case.peer(batch, precision="float32")
    losses = [[side() for _ in range(3)] for side in sides]
    # Weight decay spares biases on one side only; after so few steps that is far below 1e-4.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][2] < losses[0][0]


def test_parts_of_a_batch_add_up_to_its_loss(tmp_path):
    from benchmarks.train import Case
    from benchmarks.train_step import make_batch

    case, batch = Case.make(tmp_path), make_batch(draws=1)
    whole, in_parts = (case.step(batch, precision="float32", accumulation=n) for n in (1, 4))
    for _ in range(2):
        assert in_parts() == pytest.approx(whole(), rel=1e-5)


def test_work_counts_the_towers_products_three_times(tmp_path):
    """Of both towers on paper: linear layers and attention, forward once and backward twice."""
    from benchmarks.train import Case, count_work
    from benchmarks.train_step import BATCH, make_batch

    step = Case.make(tmp_path).step(make_batch(draws=1), precision="float32")
    work, _ = count_work(step, "float32")
    width, depth = 32, 2
    patches, texts = BATCH * (SIZE // 16) ** 2, 80
    tokens = patches + BATCH
    longest = step.bare._tokens(step.batch.texts).ids.shape[1]
    layers = 12 * width**2 * (tokens + texts * longest)
    attention = 2 * width * (tokens**2 / BATCH + texts * longest**2)
    embedding = 3 * 16**2 * width * patches
    towers = 3 * 2 * (depth * (layers + attention) + embedding) / 1e9
    assert towers < work.gflop < 1.2 * towers  # and heads


def test_fresh_process_has_a_peak_of_its_own():
    from benchmarks.resident import in_fresh_process, peak_gib

    if torch.cuda.is_available():
        pytest.skip("the peak is that of the GPU")
    held = torch.ones(2**27)  # half a GiB
    assert peak_gib() > held.nbytes / 2**30
    assert in_fresh_process(peak_gib) < peak_gib()
