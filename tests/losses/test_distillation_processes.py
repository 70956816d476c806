"""DINO's, DINOv2's and iBOT's losses on 2 and 4 gloo processes: the numbers of one, and the peers'.

Each process has the same share of the images of every view, as in the fixture.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from owlkit.losses import DinoLoss, TeacherTargets, ibot_loss, sinkhorn_knopp
from tests.losses.worlds import WORLDS, run_in_worlds

IMAGES = 4
EPOCHS = (0, 1, 2, 7)


def share_of_views(rows: Tensor, rank: int, world: int) -> Tensor:
    """The images of one process of view-major rows."""
    views = rows.unflatten(0, (-1, IMAGES))
    return views[:, rank * IMAGES // world : (rank + 1) * IMAGES // world].flatten(0, 1)


def dino_steps(inputs: Mapping, outputs: Mapping, rank: int, world: int) -> list[dict]:
    loss, steps = DinoLoss(16).double(), []
    for step, epoch in enumerate(EPOCHS):
        student, teacher = (
            share_of_views(torch.tensor(inputs[key][step]).double(), rank, world)
            for key in ("student", "teacher")
        )
        student.requires_grad_()
        temperature = outputs["w1_dino1_teacher_temp_schedule"][epoch]
        value = loss(student, teacher, temperature=temperature)
        value.backward()
        loss.update_center()
        center = loss.center.clone()
        steps.append({"loss": value.detach(), "grad": student.grad, "center": center})
    return steps


def ibot_steps(inputs: Mapping, rank: int, world: int) -> list[dict]:
    """Images differ in their numbers of hidden patches, and so do the processes."""
    share = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
    mask = torch.tensor(inputs["ibot_mask"])[share]
    logits = torch.tensor(inputs["ibot_teacher"]).double()[share][mask]
    targets, steps = TeacherTargets(16).double(), []
    for step in range(2):
        student = torch.tensor(inputs["ibot_student"]).double()[share][mask].requires_grad_()
        noted = logits * (1 + 0.3 * step)
        value = ibot_loss(student, targets(noted, 0.07), mask)
        value.backward()
        targets.update_center()
        center = targets.center.clone()
        mean = noted.mean(dim=0)
        steps.append({"loss": value.detach(), "grad": student.grad, "center": center, "mean": mean})
    return steps


def uneven_rows(inputs: Mapping, rank: int) -> dict[str, Tensor]:
    """The first process has no rows; the others have as many as their rank."""
    rows = torch.tensor(inputs["teacher"][1]).double()[:rank]
    targets = TeacherTargets(16).double()
    targets(rows, 0.07)
    targets.update_center()
    return {"center": targets.center, "balanced": sinkhorn_knopp(rows, 0.07)}


def run_cases(golden: Path, rank: int, world: int) -> dict:
    with np.load(golden / "inputs.npz") as inputs, np.load(golden / "outputs.npz") as outputs:
        share = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
        tokens = torch.tensor(inputs["ibot_teacher"])[share]
        hidden = tokens[torch.tensor(inputs["ibot_mask"])[share]]
        teacher = share_of_views(torch.tensor(inputs["teacher"][0]), rank, world)
        return {
            "dino": dino_steps(inputs, outputs, rank, world),
            "ibot": ibot_steps(inputs, rank, world),
            "sinkhorn": {n: sinkhorn_knopp(teacher, 0.07, n) for n in (1, 3, 10)},
            "ibot sinkhorn": sinkhorn_knopp(hidden, 0.07),
            "uneven": uneven_rows(inputs, rank),
        }


@pytest.fixture(scope="module")
def runs(golden, tmp_path_factory) -> Mapping[int, list[dict]]:
    """By number of processes, what each of them found."""
    scratch = tmp_path_factory.mktemp("processes")
    return run_in_worlds(__name__, golden("05_dino"), scratch)


@pytest.fixture(scope="module")
def peer(golden) -> dict[str, np.ndarray]:
    with np.load(golden("05_dino") / "outputs.npz") as outputs:
        return dict(outputs)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("step", range(4))
def test_steps_of_dino_are_those_of_one_process(runs, peer, world, step):
    """Mean loss, gradients averaged over processes, and everywhere the center of all rows."""
    parts = [run["dino"][step] for run in runs[world]]
    loss = np.mean([part["loss"].item() for part in parts])
    assert loss == pytest.approx(peer[f"w1_dino1_loss_{step}"].item(), rel=1e-10)
    whole = torch.tensor(peer[f"w1_dino1_grad_student_{step}"])
    for rank, part in enumerate(parts):
        expected = share_of_views(whole, rank, world)
        torch.testing.assert_close(part["grad"] / world, expected, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(part["center"], peer[f"w1_dino1_center_{step}"], atol=1e-13)


@pytest.mark.parametrize("step", range(4))
def test_two_processes_have_the_numbers_of_dino(runs, peer, step):
    for rank, run in enumerate(runs[2]):
        found = run["dino"][step]
        for key, name in (("loss", "loss"), ("grad", "grad_student"), ("center", "center")):
            expected = peer[f"w2_dino1_{name}_{step}"][rank]
            np.testing.assert_allclose(found[key], expected, rtol=1e-9, atol=1e-13)


def test_two_processes_have_the_numbers_of_ibot(runs, peer):
    for rank, run in enumerate(runs[2]):
        first, second = run["ibot"]
        for step, found in enumerate((first, second)):
            expected = peer[f"w2_ibot_loss_{step}"][rank]
            # The peer's weights of the images are float32.
            assert found["loss"].item() == pytest.approx(expected, rel=1e-7)
            gradient = peer[f"w2_r{rank}_ibot_grad_student_masked_{step}"]
            np.testing.assert_allclose(found["grad"], gradient, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(first["center"], peer["w2_ibot_center_used_1"][rank, 0])
        np.testing.assert_allclose(second["center"], peer["w2_ibot_center_final"][rank, 0])


@pytest.mark.parametrize("world", WORLDS)
def test_processes_count_alike_in_the_center_of_patches(runs, world):
    """The mean of their means, whatever their numbers of hidden patches: as DINOv2."""
    parts = [run["ibot"] for run in runs[world]]
    center = torch.zeros(1, 16, dtype=torch.float64)
    for step in range(2):
        mean = torch.stack([part[step]["mean"] for part in parts]).mean(dim=0)
        center = 0.9 * center + 0.1 * mean
        for part in parts:
            torch.testing.assert_close(part[step]["center"], center)


@pytest.mark.parametrize("world", WORLDS)
def test_assignments_balance_the_rows_of_all_processes(runs, peer, world):
    for iterations in (1, 3, 10):
        whole = torch.tensor(peer[f"w1_sk_probs_iter{iterations}"])
        for rank, run in enumerate(runs[world]):
            found = run["sinkhorn"][iterations]
            expected = share_of_views(whole, rank, world)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            if world == 2:
                golden = torch.tensor(peer[f"w2_sk_probs_iter{iterations}"][rank])
                torch.testing.assert_close(found, golden, rtol=0, atol=1e-6)
    patches = torch.cat([run["ibot sinkhorn"] for run in runs[world]])
    np.testing.assert_allclose(patches, peer["w1_ibot_sk_probs"], atol=1e-6)


@pytest.mark.parametrize("world", WORLDS)
def test_a_process_without_rows_takes_part(runs, golden, world):
    with np.load(golden("05_dino") / "inputs.npz") as inputs:
        rows = torch.tensor(inputs["teacher"][1]).double()
    means = torch.stack([rows[:rank].mean(dim=0) for rank in range(1, world)])
    balanced = sinkhorn_knopp(torch.cat([rows[:rank] for rank in range(world)]), 0.07)
    for run in runs[world]:
        torch.testing.assert_close(run["uneven"]["center"][0], 0.1 * means.mean(dim=0))
    found = torch.cat([run["uneven"]["balanced"] for run in runs[world]])
    torch.testing.assert_close(found, balanced)
