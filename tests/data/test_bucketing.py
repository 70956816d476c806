"""Bucketed batches against the plain plan they are made of."""

from itertools import chain

import numpy as np
import pytest

from owlkit.data.bucketing import BucketedPlan
from owlkit.data.loader import BatchPlan

LENGTHS = np.random.default_rng(0).integers(5, 40, size=10_000).tolist()


def bucketed(window: int, **plan: int) -> list[list[int]]:
    settings = {"batch_size": 8, "total_steps": 24, **plan}
    return list(BucketedPlan(BatchPlan(**settings), LENGTHS.__getitem__, window, seed=3))


def padding(batches: list[list[int]]) -> int:
    """Tokens that are computed although no caption has them."""
    rows = [[LENGTHS[index] for index in batch] for batch in batches]
    return sum(max(row) * len(row) - sum(row) for row in rows)


def test_windows_hold_what_they_held_in_batches_of_like_lengths() -> None:
    plain, sorted_ = list(BatchPlan(batch_size=8, total_steps=24)), bucketed(6)
    assert len(sorted_) == 24
    assert all(len(batch) == 8 for batch in sorted_)
    for start in range(0, 24, 6):
        before, after = plain[start : start + 6], sorted_[start : start + 6]
        assert sorted(chain(*before)) == sorted(chain(*after))
        assert before != after
    assert padding(sorted_) < padding(plain) / 3
    longest = [max(LENGTHS[index] for index in batch) for batch in sorted_[:6]]
    assert longest != sorted(longest), "no trend from short to long"


def test_a_window_of_one_changes_only_the_order_inside() -> None:
    plain = BatchPlan(batch_size=8, total_steps=24)
    assert [sorted(batch) for batch in bucketed(1)] == list(plain)


@pytest.mark.parametrize("start", [1, 5, 6, 13])
def test_a_run_that_resumes_sees_the_same(start: int) -> None:
    assert bucketed(6, start_step=start) == bucketed(6)[start:]


def test_processes_and_parts_share_a_batch() -> None:
    whole = bucketed(6)
    shares = [bucketed(6, rank=rank, world_size=2, accumulation=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        parts = [part for share in shares for part in share[2 * step : 2 * step + 2]]
        assert list(chain(*parts)) == batch
