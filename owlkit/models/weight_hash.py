"""Hashes of weights, by which what was made with a model is known again."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def hash_weights(*modules: nn.Module | None) -> str:
    """A hash of all parameters and buffers: names, types, shapes and content.

    The same weights have the same hash on every device; compiled or not.
    """
    state = {
        f"{place}.{key.replace('_orig_mod.', '')}": value
        for place, module in enumerate(modules)
        if module is not None
        for key, value in module.state_dict().items()
    }
    return hash_tensors(state)


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors by name: types, shapes and content."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
