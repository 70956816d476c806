"""What a run needs to go on as if it had never stopped.

```
last/                      the model's own folder, as its save_pretrained writes it, and
last/training/
  task.safetensors         every weight and buffer of the task, the model's included
  optimizer.safetensors    moments and step counts, by name of the weight
  average.safetensors      the moving average, if there is one
  state.json               counters, best value, random number generators; written last
```

The folder is written beside its place and renamed, so a run killed at any moment finds the old
checkpoint or the new one, whole. There is nothing in it that could run code.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from owlkit.errors import CheckpointError
from owlkit.models.checkpoint import replaced_folder

FORMAT_VERSION = 1
_TRAINING = "training"
_STATE = f"{_TRAINING}/state.json"

Tensors = dict[str, Tensor]


def write_checkpoint(
    folder: Path,
    *,
    save_model: Callable[[Path], None],
    tensors: Mapping[str, Tensors],
    state: Mapping[str, Any],
) -> None:
    """Writes a checkpoint, complete or not at all.

    Args:
        folder: A free place, or one that holds a checkpoint, which is replaced.
        save_model: Writes the model's own files into an empty folder.
        tensors: What goes into one file each, by the file's name without its suffix.
        state: Everything else, ready for JSON.

    Raises:
        CheckpointError: If the place holds something else.
    """
    with replaced_folder(folder, marker=_STATE) as new:
        save_model(new)
        (new / _TRAINING).mkdir()
        for name, values in tensors.items():
            save_file(_separate(values), new / _TRAINING / f"{name}.safetensors")
        text = json.dumps({"format_version": FORMAT_VERSION, **state})
        (new / _STATE).write_text(text + "\n", encoding="utf-8")


def _separate(tensors: Tensors) -> Tensors:
    """Contiguous tensors of which no two share memory, as the file format wants them."""
    separate: Tensors = {}
    taken: set[int] = set()
    for name, value in tensors.items():
        value = value.contiguous()
        separate[name] = value.clone() if value.data_ptr() in taken else value
        taken.add(value.data_ptr())
    return separate


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Reads what :func:`write_checkpoint` wrote: tensors by file name, and the state.

    Raises:
        CheckpointError: If there is no checkpoint, or it is damaged or of a newer format.
    """
    finish_interrupted_swap(folder, whole=[f"new/{_STATE}", f"old/{_STATE}"])
    if not (folder / _STATE).is_file():
        raise CheckpointError(f"{folder}: expected a checkpoint to resume, found no {_STATE}")
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        files = sorted((folder / _TRAINING).glob("*.safetensors"))
        tensors = {file.stem: load_file(file) for file in files}
    except (ValueError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / _TRAINING}: cannot be read: {error}") from error
    version = state.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / _STATE}: expected format_version {FORMAT_VERSION}, found {version}"
        )
    return tensors, state


def update_state(folder: Path, **changes: Any) -> None:
    """Replaces entries of a checkpoint's state, all or none of them.

    Args:
        folder: Holds a checkpoint.
        changes: Entries, ready for JSON.
    """
    path = folder / _STATE
    state = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    new = path.with_suffix(".json.new")
    new.write_text(json.dumps(state) + "\n", encoding="utf-8")
    new.replace(path)


def has_checkpoint(folder: Path) -> bool:
    """Whether :func:`read_checkpoint` will find one, even if a run died while replacing it."""
    remains = folder.parent.glob(f".{folder.name}-*/*/{_STATE}")
    return (folder / _STATE).is_file() or any(remains)


def finish_interrupted_swap(folder: Path, *, whole: Sequence[str]) -> None:
    """Puts a folder in its place if a run died between the two renames that do so.

    At that moment the old and the new folder both are whole and the place is free. Remains of
    older interruptions go.

    Args:
        folder: The place, which may be taken.
        whole: A file in ``new`` or ``old`` that is there only if that folder is whole: a folder
            that was still being written has it not yet. The first that is found decides.
    """
    remains = sorted(folder.parent.glob(f".{folder.name}-*"))
    for marker in whole:
        for work in remains:
            if not folder.exists() and (work / marker).is_file():
                os.replace(work / Path(marker).parts[0], folder)
    for work in remains:
        shutil.rmtree(work, ignore_errors=True)


def module_tensors(module: nn.Module) -> Tensors:
    """Weights and persistent buffers by name; those with several names appear once."""
    distinct: dict[int, tuple[str, Tensor]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        distinct.setdefault(id(value), (name, value.detach()))
    return dict(distinct.values())


@torch.no_grad()
def load_module_tensors(module: nn.Module, saved: Tensors, *, source: str) -> None:
    """Copies what :func:`module_tensors` gave back into a module of the same make.

    Args:
        module: On any device; keeps its tensors, whose values change.
        saved: The values.
        source: Where they come from, for messages.

    Raises:
        CheckpointError: If names or shapes differ.
    """
    own = module_tensors(module)
    faults = [f"{name} is missing" for name in own.keys() - saved.keys()]
    faults += [f"{name} is not known" for name in saved.keys() - own.keys()]
    for name in own.keys() & saved.keys():
        if own[name].shape != saved[name].shape:
            expected, found = list(own[name].shape), list(saved[name].shape)
            faults.append(f"{name} must be {expected}, found {found}")
    if faults:
        raise CheckpointError(f"{source} does not fit this run: {'; '.join(sorted(faults))}")
    for name, value in own.items():
        value.copy_(saved[name])


def optimizer_tensors(optimizer: Optimizer) -> Tensors:
    """The optimiser's memory as ``<weight>/<slot>``, for example ``class_head.bias/exp_avg``."""
    return {
        # bitsandbytes counts steps in a plain number, which loads as one again.
        f"{name}/{slot}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in _named_parameters(optimizer).items()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: Optimizer, saved: Tensors, *, source: str) -> None:
    """Gives an optimiser back its memory; rates and decays stay those of the present settings.

    Args:
        optimizer: Over groups of named weights.
        saved: As :func:`optimizer_tensors` gave it.
        source: Where it comes from, for messages.

    Raises:
        CheckpointError: If it belongs to weights that this run does not train, or to another kind
            of optimiser.
    """
    index = {name: number for number, name in enumerate(_named_parameters(optimizer))}
    state: dict[int, dict[str, Tensor | int]] = {}
    unknown = set()
    for key, value in saved.items():
        name, _, slot = key.rpartition("/")
        if name in index:
            counts = value.dtype == torch.int64
            state.setdefault(index[name], {})[slot] = int(value) if counts else value
        else:
            unknown.add(name)
    if unknown:
        raise CheckpointError(
            f"{source} does not fit this run, which does not train {', '.join(sorted(unknown))}"
        )
    moment = _moment(getattr(optimizer, "optimizer", optimizer))
    if any(moment not in slots for slots in state.values()):
        raise CheckpointError(
            f"{source} does not fit this run: expected the moments of its kind of optimiser, found "
            "those of another; set optim.optimizer to what the run began with"
        )
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _moment(optimizer: Optimizer) -> str:
    """A slot that an optimiser of this kind has, and the others have not."""
    if isinstance(optimizer, SGD):
        return "momentum_buffer"
    return "exp_avg" if isinstance(optimizer, Adam | AdamW) else "state1"


def _named_parameters(optimizer: Optimizer) -> dict[str, Tensor]:
    """Weights by name, in the order in which torch numbers them."""
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }
