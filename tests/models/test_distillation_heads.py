"""DINO's heads against the original's outputs and gradients; what is frozen gets no gradient."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from owlkit.errors import ConfigError
from owlkit.models.distillation_heads import DistillationHead, ProjectionHead

HEADS = ("h3", "h3_free", "h1", "h2_bn")


@pytest.fixture(params=HEADS)
def case(request: Any, golden: Callable[[str], Path]) -> tuple[str, DistillationHead]:
    """A head with the original's weights."""
    folder, name = golden("05_dino"), request.param
    settings = json.loads((folder / "heads.json").read_text())[name]
    head = DistillationHead(
        settings["in_dim"],
        settings["out_dim"],
        hidden_width=settings["hidden_dim"],
        bottleneck_width=settings["bottleneck_dim"],
        layers=settings["nlayers"],
        batch_norm=settings.get("use_bn", False),
        free_gain=not settings.get("norm_last_layer", True),
    )
    state: dict[str, Tensor] = {}
    for key, value in load_file(folder / "heads.safetensors").items():
        if not key.startswith(f"{name}."):
            continue
        key = key.removeprefix(f"{name}.")
        if key == "last_layer.weight_v":
            state["prototypes.weight"] = value
        elif key == "last_layer.weight_g":
            if head.prototypes.gain is not None:
                state["prototypes.gain"] = value[:, 0]
            else:
                assert (value == 1).all()
        else:
            state[key] = value
    head.load_state_dict(state)
    return name, head


def test_values_and_gradients_match_the_original(
    case: tuple[str, DistillationHead], golden: Callable[[str], Path]
) -> None:
    name, head = case
    inputs = np.load(golden("05_dino") / "inputs.npz")
    expected = np.load(golden("05_dino") / "outputs.npz")

    def check(found: Tensor | None, key: str) -> None:
        assert found is not None
        wanted = expected[f"{name}_{key}"]
        values = found.detach().numpy().reshape(wanted.shape)
        np.testing.assert_allclose(values, wanted, atol=1e-5, err_msg=key)

    features = torch.from_numpy(inputs["head_input"]).requires_grad_()
    output = head.train()(features)
    check(output, "train_output")
    output.backward(torch.from_numpy(inputs["head_cotangent"]))
    check(features.grad, "grad_input")
    check(head.prototypes.weight.grad, "grad_weight_v")
    if head.prototypes.gain is not None:
        check(head.prototypes.gain.grad, "grad_weight_g")
    check(head.eval()(features), "eval_output")


def test_frozen_prototypes_pass_gradients_on_but_get_none() -> None:
    torch.manual_seed(0)
    head = DistillationHead(8, 16, hidden_width=8, bottleneck_width=4, free_gain=True)
    features = torch.randn(3, 8)
    cotangent = torch.randn(3, 16)
    gradients = {}
    for frozen in (False, True):
        head.zero_grad()
        head(features, freeze_prototypes=frozen).backward(cotangent)
        gradients[frozen] = {name: p.grad for name, p in head.named_parameters()}
    for name, gradient in gradients[False].items():
        if name.startswith("prototypes."):
            assert gradient.abs().sum() > 0
            assert gradients[True][name] is None
        else:
            torch.testing.assert_close(gradients[True][name], gradient, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_vector_of_zeros_has_finite_logits_in_half_precision(dtype: torch.dtype) -> None:
    head = DistillationHead(8, 16, hidden_width=8, bottleneck_width=4)  # without biases at first
    with torch.autocast("cpu", dtype=dtype):
        assert not head(torch.zeros(2, 8)).any()
    assert not head.to(dtype)(torch.zeros(2, 8, dtype=dtype)).any()


def test_starts_as_published() -> None:
    torch.manual_seed(0)
    head = DistillationHead(384, 4096)
    for index in (0, 2, 4):
        layer = head.mlp[index]  # type: ignore[index]
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.01)
        assert not layer.bias.any()
    # nn.Linear's start: uniform up to fan_in^-1/2.
    assert head.prototypes.weight.abs().max().item() == pytest.approx(256**-0.5, rel=1e-3)
    assert [name for name, _ in head.prototypes.named_parameters()] == ["weight"]


def test_head_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="found 0"):
        DistillationHead(8, 16, layers=0)


def test_byol_heads_have_the_published_sizes() -> None:
    head = ProjectionHead(2048)
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(4096, 2048), (4096,), (4096,), (256, 4096), (256,)]
    assert head(torch.randn(4, 2048)).shape == (4, 256)
