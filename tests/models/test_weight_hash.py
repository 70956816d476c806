"""Hashes of weights: the same for the same weights, another for any others."""

from collections.abc import Callable

import torch
from torch import nn

from owlkit.models.weight_hash import hash_tensors, hash_weights


def test_hash_of_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = hash_weights(model)
    assert hash_weights(model) == before
    copy = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    copy.load_state_dict(model.state_dict())
    assert hash_weights(copy) == before
    changes: list[Callable[[nn.Sequential], object]] = [
        lambda m: m[0].weight.data[0, 0].add_(1e-7),
        lambda m: m[1].running_mean.add_(1),
        lambda m: m.to(torch.bfloat16),
    ]
    for change in changes:
        copy.load_state_dict(model.state_dict())
        change(copy)
        assert hash_weights(copy) != before
    assert hash_weights(model, None) == before
    assert hash_weights(None, model) != before


def test_hash_of_tensors_knows_types_and_shapes() -> None:
    zeros = [
        torch.zeros(2, 3),
        torch.zeros(3, 2),
        torch.zeros(6),
        torch.zeros(6, dtype=torch.int32),
        torch.zeros(0),
        torch.tensor(0.0),
    ]
    assert len({hash_tensors({"a": tensor}) for tensor in zeros}) == len(zeros)
    table = torch.arange(6.0).reshape(2, 3)
    assert hash_tensors({"a": table.T}) == hash_tensors({"a": table.T.contiguous()})
    assert hash_tensors({"a": table.bfloat16()}) != hash_tensors({"a": table.half()})
