"""The state of all global random number generators: saved, restored, left alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state() -> dict[str, Any]:
    """The state of python's, numpy's, torch's and CUDA's generators, ready for JSON."""
    numpy_state: Any = np.random.get_state(legacy=False)
    key = numpy_state["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}},
        "torch": _to_hex(torch.get_rng_state()),
        "cuda": [_to_hex(state) for state in _cuda_states()],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets all generators to a state of :func:`random_state`, before or after JSON."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy_state = state["numpy"]
    key = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
    torch.set_rng_state(_from_hex(state["torch"]))
    # Fewer devices than there were need fewer states.
    for device in range(min(len(state["cuda"]), torch.cuda.device_count())):
        torch.cuda.set_rng_state(_from_hex(state["cuda"][device]), device)


@contextmanager
def undisturbed_random_state() -> Iterator[None]:
    """Whatever is drawn inside, the generators go on as if it had not been."""
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)


@dataclass(frozen=True)
class TorchRandomState:
    """The state of torch's generators that a pass through a model draws from.

    Attributes:
        cpu: Of the CPU's generator, uint8.
        device: Of the current accelerator's, uint8; None on the CPU.
    """

    cpu: Tensor
    device: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "TorchRandomState":
        """The present state.

        Args:
            device: Where the model is: the current device of its kind.
        """
        own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()
        return cls(torch.get_rng_state(), own)

    def restore(self, device: torch.device) -> None:
        """Sets the generators to this state, on the kind of device that it was taken on."""
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.get_device_module(device).set_rng_state(self.device)


def _cuda_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _to_hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _from_hex(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
