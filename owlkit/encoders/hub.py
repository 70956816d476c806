"""Model folders: on disk or from the Hugging Face hub; weights as safetensors."""

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
from owlkit.json_file import read_json

# What the readers raise for a file that is cut off or holds something else.
_DAMAGE = (SafetensorError, pickle.UnpicklingError, OSError, KeyError, RuntimeError, ValueError)
MANIFEST = "owlkit.json"
FORMAT_VERSION = 1
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
    weights = ["model*.safetensors", "text/model*.safetensors"]
    folder = snapshot_download(name, allow_patterns=[*_SMALL_FILES, *weights])
    if not any(Path(folder).glob("model*.safetensors")):
        folder = snapshot_download(name, allow_patterns=[*_SMALL_FILES, "pytorch_model*.bin"])
    return folder


def read_manifest(folder: Path, *, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Reads and checks the ``owlkit.json`` of owlkit's own model folder.

    Args:
        folder: The model folder.
        kinds: Kinds of model that are welcome: ``detector``, ``dual_encoder``, ``backbone``.

    Raises:
        CheckpointError: If it is damaged, of a newer format, or of another kind of model.
    """
    path = folder / MANIFEST
    manifest = read_json(path)
    version = manifest.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version: expected 1 to {FORMAT_VERSION}, found {version!r}; a newer "
            "owlkit may have written it"
        )
    if manifest.get("kind") not in kinds:
        expected = " or ".join(kinds)
        raise CheckpointError(f"{path}: kind: expected {expected}, found {manifest.get('kind')!r}")
    for key in ("architecture", "preprocessing"):
        if not isinstance(manifest.get(key), dict):
            raise CheckpointError(f"{path}: {key}: expected an object, found {manifest.get(key)!r}")
    return manifest


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Reads all weights of a folder: ``model.safetensors`` or ``pytorch_model.bin``, or shards.

    Pickled files are read with ``weights_only``, so loading runs no code.

    Raises:
        CheckpointError: If there are no weights or they cannot be read.
    """
    for name, read in (("model.safetensors", load_file), ("pytorch_model.bin", _read_pickled)):
        files = [folder / name] if (folder / name).is_file() else []
        if (index := folder / f"{name}.index.json").is_file() and not files:
            shards = read_json(index).get("weight_map", {}).values()
            files = [folder / shard for shard in sorted(set(shards))]
        if files:
            try:
                return {key: value for file in files for key, value in read(file).items()}
            except _DAMAGE as error:
                raise CheckpointError(f"{folder}: weights are damaged: {error}") from error
    raise CheckpointError(
        f"{folder}: expected model.safetensors or pytorch_model.bin, whole or with an index of "
        "shards; found neither"
    )


def _read_pickled(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


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
