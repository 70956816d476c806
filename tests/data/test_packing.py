"""Packed records are the records."""

import pickle

import numpy as np
import pytest

from owlkit.data.packing import PackedRecords
from tests.data.pictures import make_dataset


@pytest.mark.parametrize("copy", [lambda packed: packed, lambda p: pickle.loads(pickle.dumps(p))])
def test_every_record_comes_back(tmp_path, copy):
    records = make_dataset(
        tmp_path,
        [[0, 1], [], [2, 2, 0]],
        absent=[[], [1, 2], []],
        unknown=[[2], [], [1]],
    ).images
    packed = copy(PackedRecords(records))
    assert len(packed) == 3
    for found, wanted in zip(packed, records, strict=True):
        for name in ("id", "path", "width", "height", "absent", "unknown"):
            assert getattr(found, name) == getattr(wanted, name)
        for name in ("boxes", "labels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
            assert getattr(found, name).dtype == getattr(wanted, name).dtype
    assert [record.id for record in packed[1:]] == [101, 102]
    assert packed[-1].id == 102
    with pytest.raises(IndexError):
        packed[3]
