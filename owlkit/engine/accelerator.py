"""The devices and processes of a run, as accelerate sees them."""

from datetime import timedelta

from accelerate import (  # type: ignore[import-untyped]
    Accelerator,
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
)
from torch import nn

from owlkit.config import TrainSection
from owlkit.encoders.fast_linear import quicken_linears
from owlkit.encoders.quick_gelu import slim_quick_gelus
from owlkit.engine.sync_batch_norm import synchronise_batch_norms
from owlkit.errors import ConfigError

_MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
# While the first process alone measures a model or computes what a locked tower says of all images,
# the others wait. The 10 minutes that NCCL grants by default are too few for large data.
_PATIENCE = timedelta(hours=6)


def create_accelerator(train: TrainSection, *, cpu: bool = False) -> Accelerator:
    """What runs the training on the devices that there are, in the precision that was asked for.

    Args:
        train: Its ``precision``, and a ``batch_size`` that the processes can share.
        cpu: Stay on the CPU although there is a GPU.

    Raises:
        ConfigError: If the devices do not have that precision, or a batch cannot be shared.
    """
    try:
        accelerator = Accelerator(
            mixed_precision=_MIXED_PRECISION[train.precision],
            cpu=cpu,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
    except ValueError as error:
        raise ConfigError(f"train.precision {train.precision}: {error}") from error
    if train.precision != "float32" and not accelerator.native_amp:
        # Accelerate would go on in float32 without a word.
        raise ConfigError(
            f"train.precision {train.precision} is not for this device ({accelerator.device}); "
            "use float32 or bfloat16"
        )
    share_of_batch(train, accelerator)
    return accelerator


def share_of_batch(train: TrainSection, accelerator: Accelerator) -> int:
    """Examples of each process at each step.

    Raises:
        ConfigError: If processes and their parts do not divide ``train.batch_size``.
    """
    pieces = accelerator.num_processes * train.accumulation
    if train.batch_size % pieces:
        raise ConfigError(
            f"train.batch_size must be a multiple of the number of processes times "
            f"train.accumulation ({accelerator.num_processes} x {train.accumulation}), "
            f"found {train.batch_size}"
        )
    share: int = train.batch_size // accelerator.num_processes
    return share


def prepare_task(task: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The task on its device, in its precision, and joined with its copies elsewhere.

    In a distributed run batch norms that learn take their statistics over all processes. Linear
    layers run at the full rate of the processor, see :mod:`owlkit.encoders.fast_linear`, and
    activations keep what they must, see :mod:`owlkit.encoders.quick_gelu`.
    """
    quicken_linears(task)
    slim_quick_gelus(task)
    if accelerator.num_processes > 1:
        synchronise_batch_norms(task, accelerator.device)
    unused = bool(getattr(task, "find_unused_parameters", False))
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=unused)
    prepared: nn.Module = accelerator.prepare_model(task)
    return prepared
