"""Features on disk, found again by what they were made of: weights, preprocessing and data.

Files are safetensors, so that reading them runs no code. Each holds a checksum of its content: one
that was damaged is taken for one that is not there.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from owlkit.errors import ConfigError, ImageError
from owlkit.file_stamp import file_stamp
from owlkit.models.weight_hash import hash_tensors
from owlkit.whole_file import written_whole

_SUFFIX = ".safetensors"
_CHECKSUM = "checksum"
# What the reader raises for a file that is cut off or holds something else.
_DAMAGE = (SafetensorError, OSError, ValueError, RuntimeError)

_logger = logging.getLogger(__name__)


class Images(Protocol):
    """Pictures that can be read one by one, such as class images or the pairs of a training."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """One of them, uint8 [h, w, 3], RGB; raises ImageError if that cannot be."""

    def where(self, index: int) -> str:
        """Where it comes from: the path of its file if it has one of its own."""


class FeatureCache:
    """A folder of features; several processes may use it at the same time.

    Args:
        folder: Made if needed.

    Raises:
        ConfigError: If the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"expected a folder for cached features, found that {folder} is none: "
                f"{error.strerror}"
            ) from error

    def get(
        self,
        made_of: Mapping[str, Any],
        compute: Callable[[], dict[str, Tensor]],
        *,
        is_current: Callable[[dict[str, Tensor]], bool] = lambda tensors: True,
    ) -> dict[str, Tensor]:
        """What was computed of these things before, or is computed and kept now.

        Args:
            made_of: All that the result depends on, ready for JSON.
            compute: Makes tensors on the CPU, by name.
            is_current: Whether what was read still holds; else it is computed again.

        Returns:
            The tensors, equal to the last bit whether they were computed or read. If they cannot
            be written, that is logged.
        """
        path = self.folder / f"{_name(made_of)}{_SUFFIX}"
        kept = _read(path)
        if kept is not None and is_current(kept):
            return kept
        tensors = compute()
        try:
            write_tensors(path, tensors)
        except (SafetensorError, OSError) as error:
            _logger.warning("going on without keeping features in %s: %s", path, error)
        return tensors


def _read(path: Path) -> dict[str, Tensor] | None:
    """What a file holds; None if there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        return read_tensors(path)[0]
    except _DAMAGE as error:
        _logger.warning("computing again what a damaged file held: %s: %s", path, error)
        return None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads what :func:`write_tensors` wrote: tensors, and notes.

    Raises:
        ValueError: If the content is not what was written; damage of other kinds raises
            SafetensorError, OSError or RuntimeError.
    """
    with safe_open(path, framework="pt") as file:
        notes = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if notes.pop(_CHECKSUM, None) != hash_tensors(tensors):
        raise ValueError("the content does not fit its checksum")
    return tensors, notes


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None
) -> None:
    """Writes a file as a whole or not at all.

    Args:
        path: Replaced if it is there; its folder must be.
        tensors: By name, on the CPU.
        notes: Short texts that go with them, by name.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = save(whole, metadata={**(notes or {}), _CHECKSUM: hash_tensors(whole)})
    # Not by `save_file`, whose files nobody but the user may read.
    with written_whole(path) as scratch:
        scratch.write_bytes(content)


def hash_images(images: Images) -> str:
    """A hash of pictures and their order.

    A picture with a file of its own is known by the file's path, size and time of change, which
    takes no reading; any other by its pixels.
    """
    digest = hashlib.blake2b(digest_size=16)
    for index in range(len(images)):
        stamp = file_stamp(images.where(index))
        if stamp is not None:
            path = os.path.abspath(images.where(index))
            digest.update(f"file {stamp[0]} {stamp[1]} ".encode() + os.fsencode(path) + b"\0")
        else:
            digest.update(_pixels(images, index))
    return digest.hexdigest()


def _pixels(images: Images, index: int) -> bytes:
    try:
        pixels = images.read(index)
    except ImageError:
        return f"unreadable {images.where(index)}\0".encode("utf-8", "backslashreplace")
    return f"pixels {list(pixels.shape)} ".encode() + pixels.tobytes()


def _name(made_of: Mapping[str, Any]) -> str:
    text = json.dumps(made_of, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
