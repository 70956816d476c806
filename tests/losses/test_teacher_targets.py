"""When the center moves, when it does not, and what is kept of it."""

import pytest
import torch
from torch import Tensor

from owlkit.errors import ConfigError, QueryError
from owlkit.losses import TeacherTargets


def logits(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator, dtype=torch.float64)


def test_parts_of_a_batch_share_one_center_and_move_it_once():
    """The second part sees the center that the first one saw; the rows count, not the parts."""
    whole, parts = TeacherTargets(6).double(), TeacherTargets(6).double()
    for step in range(3):
        rows = logits(9, step)
        expected = whole(rows, 0.05)
        found = torch.cat([parts(rows[:2], 0.05), parts(rows[2:], 0.05)])
        torch.testing.assert_close(found, expected)
        whole.update_center()
        parts.update_center()
        torch.testing.assert_close(parts.center, whole.center)
    assert whole.center.abs().min() > 0


def test_center_is_a_running_mean():
    targets = TeacherTargets(6, momentum=0.75).double()
    first, second = logits(4, 1), logits(5, 2)
    for rows in (first, second):
        targets(rows, 0.05)
        targets.update_center()
    expected = 0.75 * 0.25 * first.mean(dim=0) + 0.25 * second.mean(dim=0)
    torch.testing.assert_close(targets.center[0], expected)


def test_center_stays_where_nothing_was_noted():
    """Nothing seen, no rows, or seen in evaluation."""
    targets = TeacherTargets(6).double()
    targets(logits(4), 0.05)
    targets.update_center()
    before = targets.center.clone()
    targets.update_center()
    targets(logits(0), 0.05)
    targets.update_center()
    targets.eval()(logits(4, 3), 0.05)
    targets.update_center()
    assert torch.equal(targets.center, before)


def test_state_is_the_center_and_no_gradient_passes():
    targets = TeacherTargets(6)
    rows = logits(4).float().requires_grad_()
    probs = targets(rows, 0.05)
    assert not probs.requires_grad
    targets.update_center()
    assert list(targets.state_dict()) == ["center"]
    restored = TeacherTargets(6)
    restored.load_state_dict(targets.state_dict())
    assert torch.equal(restored(rows, 0.05), targets(rows, 0.05))


def test_faults_are_named():
    with pytest.raises(ConfigError, match=r"momentum of 0 to 1, found 6, 3 and 1\.5"):
        TeacherTargets(6, momentum=1.5)
    with pytest.raises(ConfigError, match="temperature above 0, found 0"):
        TeacherTargets(6)(logits(4), 0)
    for centering in ("centering", "sinkhorn_knopp"):
        with pytest.raises(QueryError, match=r"\[N, 5\], found \[4, 6\]"):
            TeacherTargets(5, centering=centering)(logits(4), 0.05)
