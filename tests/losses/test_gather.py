"""One, two and four processes agree: real gloo processes, and the numbers of open_clip."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from owlkit.losses import clip_loss, nt_xent_loss, siglip_loss, triplet_loss
from owlkit.losses.gather import gather_rows, row_positions
from tests.losses.worlds import WORLDS, run_in_worlds

COUNT = 12

Loss = Callable[[dict[str, Tensor], Tensor | None], Tensor]

LOSSES: Mapping[str, Loss] = {
    "clip": lambda leaf, identities: clip_loss(
        leaf["image"], leaf["text"], leaf["scale"], identities=identities
    ),
    "siglip": lambda leaf, identities: siglip_loss(
        leaf["image"],
        leaf["text"],
        leaf["scale"],
        leaf["bias"],
        identities=identities,
        chunk_size=5,
    ),
    "hard": lambda leaf, identities: triplet_loss(
        leaf["image"], leaf["text"], identities=identities
    ),
    "semi_hard": lambda leaf, identities: triplet_loss(
        leaf["image"], leaf["text"], mining="semi_hard", identities=identities
    ),
    "all": lambda leaf, identities: triplet_loss(
        leaf["image"], leaf["text"], mining="all", identities=identities
    ),
    "nt_xent": lambda leaf, identities: nt_xent_loss(leaf["image"], leaf["text"]),
}
FEATURES = ("random", "aligned", "repeated")


def features(name: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images, texts [12, 8] and identities: unrelated, nearly equal, or repeated across ranks."""
    generator = torch.Generator().manual_seed(0)
    images, other = torch.randn(2, COUNT, 8, generator=generator, dtype=torch.float64)
    texts = images + 0.05 * other if name == "aligned" else images + other
    identities = torch.arange(COUNT) % 5 if name == "repeated" else None
    return F.normalize(images, dim=1), F.normalize(texts, dim=1), identities


def evaluate(loss: Loss, name: str, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """The loss of one process and the gradients on its own leaves."""
    images, texts, identities = features(name)
    share = slice(rank * COUNT // world, (rank + 1) * COUNT // world)
    leaves = {
        "image": images[share].clone().requires_grad_(),
        "text": texts[share].clone().requires_grad_(),
        "scale": torch.tensor(9.0, dtype=torch.float64, requires_grad=True),
        "bias": torch.tensor(-2.0, dtype=torch.float64, requires_grad=True),
    }
    value = loss(leaves, None if identities is None else identities[share])
    value.backward()
    return {"loss": value.detach()} | {
        key: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for key, leaf in leaves.items()
    }


def evaluate_golden(loss: Loss, folder: Path, rank: int, world: int) -> dict[str, Tensor]:
    """The same for the rows of the fixture, in float32."""
    share = slice(rank * COUNT // world, (rank + 1) * COUNT // world)
    with np.load(folder / "inputs.npz") as inputs:
        leaves = {
            "image": torch.tensor(inputs["image_features"][share], requires_grad=True),
            "text": torch.tensor(inputs["text_features"][share], requires_grad=True),
            "scale": torch.tensor(inputs["logit_scale"], requires_grad=True),
            "bias": torch.tensor(inputs["logit_bias"], requires_grad=True),
        }
    value = loss(leaves, None)
    value.backward()
    return {"loss": value.detach()} | {
        key: leaf.grad for key, leaf in leaves.items() if leaf.grad is not None
    }


def gather_halves(rank: int) -> dict[str, Tensor]:
    """Rows in bfloat16 and as a transposed view, whose memory is not in order."""
    rows = (torch.arange(6.0).view(3, 2).T + 10 * rank).bfloat16().requires_grad_()
    gathered = gather_rows(rows)
    weights = (rank + 1) * torch.arange(gathered.numel()).view_as(gathered)
    (gathered.mT.contiguous().mT * weights).sum().backward()
    return {"rows": gathered.detach(), "grad": rows.grad, "own": row_positions(rows)}


def run_cases(golden: Path, rank: int, world: int) -> dict[tuple[str, str], dict[str, Tensor]]:
    """What one process of a world finds."""
    results = {
        (kind, name): evaluate(loss, name, rank, world)
        for kind, loss in LOSSES.items()
        for name in FEATURES
    }
    for kind in ("clip", "siglip"):
        results[kind, "golden"] = evaluate_golden(LOSSES[kind], golden, rank, world)
    results["gather", "halves"] = gather_halves(rank)
    return results


@pytest.fixture(scope="module")
def runs(golden, tmp_path_factory) -> Mapping[int, list[dict]]:
    """By number of processes, what each of them found."""
    scratch = tmp_path_factory.mktemp("processes")
    return run_in_worlds(__name__, golden("04_contrastive"), scratch)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", FEATURES)
def test_processes_agree_with_one(runs, world, kind, name):
    """The mean loss is the loss; data-parallel averaging gives the gradient of the whole batch."""
    expected = evaluate(LOSSES[kind], name)
    parts = [run[kind, name] for run in runs[world]]
    found = {
        key: torch.stack([part[key] for part in parts]).mean() for key in ("loss", "scale", "bias")
    }
    for key in ("image", "text"):
        found[key] = torch.cat([part[key] for part in parts]) / world
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("kind", "peer"), [("clip", "clip_local1_grad1"), ("siglip", "siglip_gather")]
)
def test_each_process_has_the_numbers_of_open_clip(runs, golden, world, kind, peer):
    with np.load(golden("04_contrastive") / "outputs.npz") as outputs:
        for rank, run in enumerate(runs[world]):
            found = run[kind, "golden"]
            expected = outputs[f"w{world}_{peer}_loss"][rank]
            assert found.pop("loss").item() == pytest.approx(expected, rel=1e-5)
            assert {"image", "text", "scale"} <= set(found)
            for key, gradient in found.items():
                difference = gradient.numpy() - outputs[f"w{world}_{peer}_grad_{key}"][rank]
                assert np.abs(difference).max() < 1e-5


@pytest.mark.parametrize("world", WORLDS)
def test_mean_loss_and_scaled_gradients_are_those_of_one_process(runs, golden, world):
    with np.load(golden("04_contrastive") / "outputs.npz") as outputs:
        for kind in ("clip", "siglip"):
            parts = [run[kind, "golden"] for run in runs[world]]
            image = torch.cat([part["image"] for part in parts]).numpy() / world
            scale = np.mean([part["scale"].item() for part in parts])
            assert np.abs(image - outputs[f"w1_{kind}_grad_image"]).max() < 1e-5
            assert abs(scale - outputs[f"w1_{kind}_grad_scale"]) < 1e-5


@pytest.mark.parametrize("world", WORLDS)
def test_rows_keep_their_order_and_receive_the_sum_of_all_gradients(runs, world):
    halves = [run["gather", "halves"] for run in runs[world]]
    rows = [torch.arange(6.0).view(3, 2).T + 10 * rank for rank in range(world)]
    weights = torch.arange(world * 6.0).view(world, 2, 3) * sum(range(1, world + 1))
    for rank, half in enumerate(halves):
        assert torch.equal(half["rows"], torch.cat(rows).bfloat16())
        assert torch.equal(half["grad"], weights[rank].bfloat16())
        assert half["own"].tolist() == [2 * rank, 2 * rank + 1]


def test_one_process_needs_no_group():
    rows = torch.ones(3, 2)
    assert gather_rows(rows) is rows
    assert row_positions(rows).tolist() == [0, 1, 2]
