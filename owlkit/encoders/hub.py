"""Model folders: on disk or from the Hugging Face hub; weights as safetensors."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from owlkit.errors import CheckpointError

# What the readers raise for a file that is cut off or holds something else.
_DAMAGE = (SafetensorError, pickle.UnpicklingError, OSError, KeyError, RuntimeError, ValueError)
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.md", "*.jinja"]


def resolve_folder(folder_or_id: str | Path) -> Path:
    """Finds a model folder: a local path, else a hub id, downloaded or taken from the cache.

    Args:
        folder_or_id: Path of a folder, or an id such as ``google/owlv2-base-patch16-ensemble``.

    Raises:
        CheckpointError: If it is neither a folder nor a model that the hub (or, offline, the
            cache) has.
    """
    path = Path(folder_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path}: expected a model folder, found a file")
    name = str(folder_or_id)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{name}: no such folder, and not a hub id of the form owner/name")
    try:
        snapshot = _download(name)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{name}: no such folder, and the hub did not give a model of that name: {error}"
        ) from error
    return Path(snapshot)


def _download(name: str) -> str:
    """Small files and safetensors weights; pickled weights only for repositories without them."""
    folder = snapshot_download(name, allow_patterns=[*_SMALL_FILES, "*.safetensors"])
    if not any(Path(folder).glob("**/*.safetensors")):
        folder = snapshot_download(name, allow_patterns=[*_SMALL_FILES, "*.bin"])
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: If the file is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Reads all weights of a folder: ``model.safetensors``, its shards, or ``pytorch_model.bin``.

    Pickled files are read with ``weights_only``, so loading runs no code.

    Raises:
        CheckpointError: If there are no weights or they cannot be read.
    """
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    pickled = folder / "pytorch_model.bin"
    try:
        if single.is_file():
            return load_file(single)
        if index.is_file():
            shards = sorted(set(read_json(index)["weight_map"].values()))
            return {
                key: value for shard in shards for key, value in load_file(folder / shard).items()
            }
        if pickled.is_file():
            state: dict[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
            return state
    except _DAMAGE as error:
        raise CheckpointError(f"{folder}: weights are damaged: {error}") from error
    raise CheckpointError(f"{folder}: expected model.safetensors, found no weights")


def load_exactly(module: torch.nn.Module, state: dict[str, Tensor], *, source: str | Path) -> None:
    """Loads a state dict whose keys and shapes must all fit.

    Raises:
        CheckpointError: Lists every missing and unexpected key and every shape that differs; the
            module is unchanged then.
    """
    own = module.state_dict()
    faults = [f"missing: {key} {list(own[key].shape)}" for key in own if key not in state]
    faults += [f"unexpected: {key} {list(state[key].shape)}" for key in state if key not in own]
    faults += [
        f"shape of {key}: expected {list(own[key].shape)}, found {list(state[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if faults:
        listing = "\n  ".join(faults)
        raise CheckpointError(f"{source}: weights do not fit the model:\n  {listing}")
    module.load_state_dict(state)
