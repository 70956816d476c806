"""Batch norms whose statistics are those of the batch of all processes, on any device.

Torch's work on GPUs only, and its conversion drops the activation in which timm's norms end.

Weights, buffers and their names stay what they were.

Shapes: N values of a channel on this process, C channels.
"""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from owlkit.losses.processes import process_count

# Subclasses do more than normalise, and nobody knows what.
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# What timm's BatchNormAct2d, whose class this layer does not know, does after normalising.
_AFTERWARDS = ("drop", "act")


def synchronise_batch_norms(task: nn.Module, device: torch.device) -> None:
    """Replaces the batch norms in training mode below a module; frozen ones stay as they are.

    Args:
        task: Module whose plain batch norms, and those of timm with an activation, change.
        device: Where it will run.
    """
    kind = GpuSyncBatchNorm if device.type == "cuda" else PlainSyncBatchNorm
    for module in list(task.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm) and child.training and _is_known(child):
                setattr(module, name, _replaced(child, kind))


def _is_known(norm: _BatchNorm) -> bool:
    children = tuple(name for name, _ in norm.named_children())
    return type(norm) in _PLAIN or (isinstance(norm, nn.BatchNorm2d) and children == _AFTERWARDS)


def _replaced(norm: _BatchNorm, kind: type[_BatchNorm]) -> _BatchNorm:
    new = kind(norm.num_features, norm.eps, norm.momentum, affine=False)
    new.affine, new.track_running_stats = norm.affine, norm.track_running_stats
    # The very tensors, which an optimiser may know already, and what happens afterwards.
    new._parameters, new._buffers, new._modules = norm._parameters, norm._buffers, norm._modules
    return new.train(norm.training)


def _finish(norm: nn.Module, output: Tensor) -> Tensor:
    for module in norm.children():
        output = module(output)
    return output


class GpuSyncBatchNorm(nn.SyncBatchNorm):
    """Torch's synchronised batch norm, with the activation of the norm that it replaces."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises [B, C, ...], in training with the statistics of all processes."""
        return _finish(self, super().forward(input))


class PlainSyncBatchNorm(_BatchNorm):
    """The same in plain operations, for devices other than GPUs.

    The gradient passes through the statistics to all processes, so that averaging gradients over
    processes, as data-parallel training does, gives that of one process with the whole batch.
    From Batch Normalization, 2015, https://arxiv.org/abs/1502.03167.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises [B, C, ...], in training with the statistics of all processes."""
        shared = self.training and process_count() > 1
        return _finish(self, self._normalise(input) if shared else super().forward(input))

    def _check_input_dim(self, input: Tensor) -> None:
        """Torch wants one; the norm that is replaced has seen the same input."""

    def _normalise(self, values: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (values.ndim - 2)
        others = [dim for dim in range(values.ndim) if dim != 1]
        # bfloat16 has too few digits for sums.
        exact = values.to(torch.promote_types(values.dtype, torch.float32))
        here = exact.new_tensor([exact.numel() / exact.shape[1]])  # N
        total = all_reduce(torch.cat([exact.sum(others), here]))  # type: ignore[no-untyped-call]
        mean, count = total[:-1] / total[-1], total[-1].detach()
        centred = exact - mean.view(shape)
        # A second exchange, since the difference of two large sums would lose digits.
        variance = all_reduce(centred.square().sum(others)) / count  # type: ignore[no-untyped-call]
        self._take_note(mean.detach(), variance.detach() * (count / (count - 1)))
        output = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        normalised: Tensor = output.to(values.dtype)
        return normalised

    @torch.no_grad()
    def _take_note(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics towards those of a batch, both [C]."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # the mean of all batches
            share = 1.0 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)
