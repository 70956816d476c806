"""Two processes normalise like one that has the whole batch, and learn the same."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from owlkit.engine.sync_batch_norm import (
    GpuSyncBatchNorm,
    PlainSyncBatchNorm,
    synchronise_batch_norms,
)
from tests.engine.toy import run_two_processes

# The processes have shares of different sizes of a batch of 8.
SHARES = (slice(0, 3), slice(3, 8))

PROGRAM = """
import sys

import torch
from safetensors.torch import save_file

from owlkit.config import TrainSection
from owlkit.engine import create_accelerator
from owlkit.engine.accelerator import prepare_task
from tests.engine.test_sync_batch_norm import SHARES, learn, make_task

accelerator = create_accelerator(TrainSection(batch_size=8), cpu=True)
rank = accelerator.process_index
task = make_task()
joined = prepare_task(task, accelerator)
save_file(learn(joined, task, SHARES[rank], weight=2.0), f"{sys.argv[1]}/{rank}.safetensors")
accelerator.end_training()
"""


def make_task() -> nn.Module:
    """Plain norms, one with an activation, one that takes the mean of all batches."""
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, momentum=0.3),
            nn.Conv2d(4, 4, 3),
            BatchNormAct2d(4, act_layer=nn.ReLU),
            nn.Flatten(),
            nn.Linear(4 * 4, 5),
            nn.BatchNorm1d(5, affine=False, momentum=None),
        )
        .double()
        .train()
    )


def learn(
    module: nn.Module, task: nn.Module, share: slice, *, weight: float = 1.0
) -> dict[str, Tensor]:
    """Two batches; outputs, gradients of inputs and weights, and statistics.

    Args:
        module: What is called.
        task: Holds the weights.
        share: Examples of this process.
        weight: Of the sum over them: two processes average what one sums up.
    """
    generator = torch.Generator().manual_seed(1)
    found: dict[str, Tensor] = {}
    for step in range(2):
        images = 5 + torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64)
        target = torch.randn(8, 5, generator=generator, dtype=torch.float64)
        mine = images[share].clone().requires_grad_()
        output = module(mine)
        (weight * (output * target[share]).sum()).backward()
        assert mine.grad is not None
        found |= {f"output.{step}": output.detach(), f"input.{step}": mine.grad / weight}
    found |= {f"gradient.{name}": p.grad for name, p in task.named_parameters()}
    return found | {name: value.clone() for name, value in task.state_dict().items()}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("norms")
    run_two_processes(PROGRAM, str(folder))
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def test_two_processes_are_one_batch(two_processes: list[dict[str, Tensor]]) -> None:
    """Values, gradients and running statistics; float64 sums in another order differ by 1e-13."""
    task = make_task()
    expected = learn(task, task, slice(0, 8))
    for found, share in zip(two_processes, SHARES, strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            of_examples = name.startswith(("output", "input"))
            torch.testing.assert_close(
                found[name], value[share] if of_examples else value, rtol=1e-9, atol=1e-10
            )


@pytest.mark.parametrize(
    ("device", "kind"), [("cpu", PlainSyncBatchNorm), ("cuda", GpuSyncBatchNorm)]
)
def test_without_other_processes_nothing_changes(device: str, kind: type[nn.Module]) -> None:
    task = make_task()
    before = deepcopy(task)
    weights, names = dict(task.named_parameters()), list(task.state_dict())
    task[1].eval()  # a frozen norm
    before[1].eval()
    synchronise_batch_norms(task, torch.device(device))
    assert [isinstance(module, kind) for module in task] == [0, 0, 0, 1, 0, 0, 1]
    assert list(task.state_dict()) == names
    assert all(parameter is weights[name] for name, parameter in task.named_parameters())
    images = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    for mode in (True, False):
        task[3].train(mode), before[3].train(mode)
        assert torch.equal(task(images), before(images))
    for name, value in before.state_dict().items():
        assert torch.equal(task.state_dict()[name], value), name


def test_norms_that_may_do_more_are_left_alone() -> None:
    class Scaled(nn.BatchNorm1d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    task = nn.Sequential(Scaled(2))
    synchronise_batch_norms(task, torch.device("cpu"))
    assert type(task[0]) is Scaled
