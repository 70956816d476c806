"""owlkit's model folder: ``owlkit.json``, weights, text tower, tokenizer, model card.

```
owlkit.json         format version, kind, architecture, preprocessing; calibration and threshold of
                    a detector that has them
model.safetensors   all weights but the text encoder's
text/               the text encoder, as transformers saves it
tokenizer/          the tokenizer, as transformers saves it
README.md           model card
```

A backbone has neither text encoder nor tokenizer.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from huggingface_hub import HfApi
from safetensors.torch import save_file
from torch import Tensor, nn

from owlkit import __version__
from owlkit.calibration import Calibration
from owlkit.encoders.hub import FORMAT_VERSION, MANIFEST, read_weights
from owlkit.encoders.text import TextTower
from owlkit.encoders.tokenizer import Tokenizer
from owlkit.errors import CheckpointError
from owlkit.geometry import Preprocessing

_TEXT_PREFIX = "text.model."


class Savable(Protocol):
    """What a model must show to be saved: its preprocessing and how to rebuild it.

    A model that answers texts also has ``text``, its text tower, and ``tokenizer``.
    """

    preprocessing: Preprocessing

    @property
    def architecture(self) -> dict[str, Any]:
        """What rebuilds the model, ready for JSON."""


def save_folder(folder: str | Path, *, kind: str, model: Savable) -> None:
    """Writes a model folder, complete or not at all.

    Args:
        folder: A path that is free, an empty folder, or an owlkit model to replace.
        kind: ``detector``, ``dual_encoder`` or ``backbone``.
        model: The model, an ``nn.Module`` with towers, preprocessing and architecture.

    Raises:
        CheckpointError: If the folder holds something else.
    """
    with replaced_folder(Path(folder), marker=MANIFEST) as new:
        manifest = {
            "format_version": FORMAT_VERSION,
            "owlkit_version": __version__,
            "kind": kind,
            "architecture": model.architecture,
            "preprocessing": model.preprocessing.to_dict(),
            **_measured(model),
        }
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        save_file(own_weights(model), new / "model.safetensors", metadata={"format": "pt"})
        _save_text(model, new)
        (new / "README.md").write_text(_model_card(kind, manifest), encoding="utf-8")


def _measured(model: Any) -> dict[str, Any]:
    """What a detector knows of its scores."""
    calibration: Calibration | None = getattr(model, "calibration", None)
    threshold: float | None = getattr(model, "threshold", None)
    found = {
        "calibration": None if calibration is None else calibration.to_dict(),
        "threshold": threshold,
    }
    return {key: value for key, value in found.items() if value is not None}


def _save_text(model: Any, folder: Path) -> None:
    text: TextTower | None = getattr(model, "text", None)
    tokenizer: Tokenizer | None = getattr(model, "tokenizer", None)
    if text is not None:
        text.save_model(folder / "text")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "tokenizer")


def own_weights(model: Any) -> dict[str, Tensor]:
    """The weights that go into model.safetensors: everything but the text encoder."""
    module: nn.Module = model
    return {
        key: value.contiguous()
        for key, value in plain_state(module).items()
        if not key.startswith(_TEXT_PREFIX)
    }


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights under its own names, also where parts of it are compiled."""
    return {key.replace("_orig_mod.", ""): value for key, value in module.state_dict().items()}


def read_own_weights(folder: Path, text: TextTower) -> dict[str, Tensor]:
    """All weights of a folder, the already loaded text encoder's included, by module key."""
    state = read_weights(folder)
    text_state = text.model.state_dict()
    return state | {f"{_TEXT_PREFIX}{key}": value for key, value in text_state.items()}


@contextmanager
def replaced_folder(folder: Path, *, marker: str | None) -> Iterator[Path]:
    """Gives a new folder beside ``folder`` and puts it in its place when all went well.

    Whatever interrupts it, the place holds the old folder or the new one, whole.

    Args:
        folder: The place; free, empty, or holding a file named ``marker``. A link is followed.
        marker: Name of the file that shows that the old folder may be replaced; None if it must not
            be.

    Raises:
        CheckpointError: If the place holds anything else or cannot be replaced.
    """
    folder = folder.expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a folder, found a file")
    if folder.is_dir() and any(folder.iterdir()):
        if marker is None:
            raise CheckpointError(f"{folder}: is not empty; choose a new folder")
        if not (folder / marker).is_file():
            raise CheckpointError(f"{folder}: holds files but no {marker}; choose a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        new = work / "new"
        new.mkdir()
        yield new
        _make_readable(new)
        _swap(folder, new=new, old=work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make_readable(folder: Path) -> None:
    """Gives files the permissions that the user's files usually have; safetensors' are private."""
    usual = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(usual)


def _swap(folder: Path, *, new: Path, old: Path) -> None:
    """Moves ``folder`` to ``old`` and ``new`` to its place, or leaves both as they were."""
    try:
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    except BaseException as error:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        if isinstance(error, OSError):
            raise CheckpointError(f"{folder}: cannot be replaced: {error}") from error
        raise


def push_folder(save: Callable[[str | Path], None], repo_id: str, *, private: bool) -> str:
    """Saves to a temporary folder and uploads it in one commit.

    Args:
        save: Writes a model folder.
        repo_id: ``owner/name``; created if it does not exist.
        private: Whether a new repository is private.

    Returns:
        Address of the commit.
    """
    api = HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        save(folder)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder)
    return str(commit.commit_url)


class _Card(NamedTuple):
    """What a model card says of one kind of model."""

    title: str
    task: str
    use: str


_CARDS = {
    "detector": _Card(
        "OwlDetector",
        "zero-shot-object-detection",
        'predictor = owlkit.Predictor.from_pretrained("this/folder")\n'
        'detections = predictor.detect("photo.jpg", ["cat", "remote control"])',
    ),
    "dual_encoder": _Card(
        "DualEncoder",
        "zero-shot-image-classification",
        'model = owlkit.DualEncoder.from_pretrained("this/folder")',
    ),
    "backbone": _Card(
        "ImageBackbone",
        "image-feature-extraction",
        'model = owlkit.ImageBackbone.from_pretrained("this/folder")\n'
        'pixels, _ = model.preprocessing(owlkit.images.load_image("photo.jpg"))\n'
        "features = model(torch.from_numpy(pixels)[None])  # tokens, pooled, grid",
    ),
}


def _model_card(kind: str, manifest: dict[str, Any]) -> str:
    architecture, preprocessing = manifest["architecture"], manifest["preprocessing"]
    card = _CARDS[kind]
    return f"""---
library_name: owlkit
pipeline_tag: {card.task}
---
# {card.title} on {architecture["vision"]["name"]}

An owlkit model. Input {preprocessing["size"][0]}x{preprocessing["size"][1]} pixels,
{preprocessing["fit"]} fit; the preprocessing is stored with the weights.

```python
import owlkit

{card.use}
```
"""
