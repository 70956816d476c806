"""Checkpoints are whole at any moment and give back exactly what went in."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from owlkit.config import OptimSection
from owlkit.engine.checkpoint import (
    load_module_tensors,
    load_optimizer_tensors,
    module_tensors,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from owlkit.engine.parameter_groups import make_optimizer
from owlkit.errors import CheckpointError


def write(folder: Path, value: float, **changes: Any) -> None:
    write_checkpoint(
        folder,
        save_model=lambda new: (new / "model.txt").write_text(str(value)) and None,
        tensors={"task": {"weight": torch.tensor([value])}, **changes},
        state={"step": value},
    )


def value_of(folder: Path) -> float:
    """The value of a checkpoint, all of whose files must tell the same one."""
    tensors, state = read_checkpoint(folder)
    found = {
        float((folder / "model.txt").read_text()),
        tensors["task"]["weight"].item(),
        state["step"],
    }
    assert len(found) == 1
    return found.pop()


def test_a_failure_while_writing_leaves_the_old_one(tmp_path: Path) -> None:
    """The second file cannot be written, when the first and the model already are."""
    write(tmp_path / "last", 1.0)
    with pytest.raises(AttributeError):
        write(tmp_path / "last", 2.0, zzz={"broken": "no tensor"})
    assert value_of(tmp_path / "last") == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    write(tmp_path / "last", 3.0)
    assert value_of(tmp_path / "last") == 3.0


class Killed(BaseException):
    """Stands for a signal that no code can handle."""


@pytest.mark.parametrize("rename", [1, 2], ids=["before the first rename", "between the renames"])
def test_a_run_killed_while_swapping_finds_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int
) -> None:
    """Nothing runs after a kill: neither the swap back nor the tidying up."""
    write(tmp_path / "last", 1.0)
    real, calls = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls >= rename:
            raise Killed
        real(source, target)

    with monkeypatch.context() as context:
        context.setattr("owlkit.models.checkpoint.os.replace", replace)
        context.setattr("owlkit.models.checkpoint.shutil.rmtree", lambda *a, **k: None)
        with pytest.raises(Killed):
            write(tmp_path / "last", 2.0)
    assert (tmp_path / "last").exists() == (rename == 1)
    assert value_of(tmp_path / "last") == (1.0 if rename == 1 else 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_half_a_first_checkpoint_is_none(tmp_path: Path) -> None:
    half = tmp_path / ".last-abc" / "new" / "training"
    half.mkdir(parents=True)
    (half / "task.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"expected a checkpoint to resume, found no"):
        read_checkpoint(tmp_path / "last")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.json", "{", "cannot be read"),
        ("state.json", json.dumps({"format_version": 2}), "expected format_version 1, found 2"),
        ("task.safetensors", "not tensors", "cannot be read"),
    ],
)
def test_damage_is_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    write(tmp_path / "last", 1.0)
    (tmp_path / "last" / "training" / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "last")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.rand(3))
        self.register_buffer("derived", torch.rand(3), persistent=False)


def test_tied_weights_and_buffers_come_back(tmp_path: Path) -> None:
    """safetensors refuses to write one tensor under two names."""
    old, new = Tied(), Tied()
    saved = module_tensors(old)
    assert saved.keys() == {"first.weight", "table"}
    write(tmp_path / "last", 1.0, module=saved)
    load_module_tensors(new, read_checkpoint(tmp_path / "last")[0]["module"], source="last")
    assert torch.equal(new.second.weight, old.first.weight)
    assert new.second.weight is new.first.weight
    assert torch.equal(new.table, old.table)


def test_what_does_not_fit_is_listed() -> None:
    saved = {"weight": torch.zeros(1, 3), "other": torch.zeros(1)}
    with pytest.raises(
        CheckpointError,
        match=r"last does not fit.*bias is missing; other is not known; "
        r"weight must be \[1, 2\], found \[1, 3\]",
    ):
        load_module_tensors(nn.Linear(2, 1), saved, source="last")


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_an_optimiser_goes_on_in_another_order_of_groups(kind: type[torch.optim.Adam]) -> None:
    """Numbers by position, as torch stores them, would mix the weights up."""

    def make(names: list[str]) -> tuple[nn.Linear, torch.optim.Adam]:
        layer = nn.Linear(3, 3)
        layer.load_state_dict({"weight": torch.ones(3, 3), "bias": torch.ones(3)})
        return layer, kind([{"params": [(n, layer.get_parameter(n))]} for n in names], fused=True)

    def step(layer: nn.Linear, optimizer: torch.optim.Adam, number: int) -> None:
        layer(torch.full((1, 3), float(number))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    first, optimizer = make(["weight", "bias"])
    for number in range(3):
        step(first, optimizer, number)
    second, resumed = make(["bias", "weight"])
    second.load_state_dict(first.state_dict())
    # As a file would: torch takes the tensors themselves over.
    saved = {name: value.clone() for name, value in optimizer_tensors(optimizer).items()}
    load_optimizer_tensors(resumed, saved, source="last")
    for number in range(3, 6):
        step(first, optimizer, number)
        step(second, resumed, number)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_an_optimiser_of_other_weights_is_refused() -> None:
    optimizer = torch.optim.Adam([("bias", nn.Parameter(torch.zeros(1)))])
    with pytest.raises(CheckpointError, match=r"which does not train head\.weight"):
        load_optimizer_tensors(optimizer, {"head.weight/step": torch.zeros(1)}, source="last")


def test_moments_of_eight_bits_come_back_exactly(tmp_path: Path) -> None:
    """Rounding them anew would change them."""

    def make(kind: Any) -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        layer = nn.Linear(64, 64)
        return layer, make_optimizer(layer, OptimSection(optimizer=kind, lr=0.01))

    def learn(layer: nn.Module, optimizer: Any, step: int) -> None:
        torch.manual_seed(step)
        for parameter in layer.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    layer, optimizer = make("adamw8bit")
    for step in range(3):
        learn(layer, optimizer, step)
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    write(tmp_path / "last", 1.0, optimizer=optimizer_tensors(optimizer))
    learn(layer, optimizer, 3)
    resumed, other = make("adamw8bit")
    resumed.load_state_dict(weights)
    saved = read_checkpoint(tmp_path / "last")[0]["optimizer"]
    assert saved["weight/state1"].dtype == torch.uint8
    load_optimizer_tensors(other, saved, source="last")
    learn(resumed, other, 3)
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, layer.state_dict()[name], rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"^last does not fit .* optim\.optimizer"):
        load_optimizer_tensors(make("adamw")[1], saved, source="last")


@pytest.mark.parametrize("kind", ["adamw", "sgd", "adamw8bit"])
def test_moments_of_another_kind_of_optimiser_are_refused(kind: Any) -> None:
    """Otherwise they would be passed over in silence, or missed in the first step."""

    def make(kind: Any) -> tuple[nn.Module, Any]:
        layer = nn.Linear(64, 64)
        return layer, make_optimizer(layer, OptimSection(optimizer=kind))

    layer, optimizer = make(kind)
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    saved = optimizer_tensors(optimizer)
    load_optimizer_tensors(make(kind)[1], saved, source="last")
    for other in {"adamw", "sgd", "adamw8bit"} - {kind}:
        with pytest.raises(CheckpointError, match=r"optim\.optimizer"):
            load_optimizer_tensors(make(other)[1], saved, source="last")
