"""A folder of images as vectors on disk, ranked by a sentence or by an image.

Shapes: N images, E embedding width.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from owlkit.errors import DatasetError
from owlkit.evaluation.feature_cache import read_tensors, write_tensors
from owlkit.evaluation.features import Encoder, ImageFiles
from owlkit.file_stamp import file_stamp

_FORMAT = "owlkit image index 1"
# What the reader raises for a file that is cut off or holds something else.
_DAMAGE = (SafetensorError, OSError, ValueError, RuntimeError, KeyError)


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """The images of a folder and their vectors.

    Attributes:
        paths: Below the folder, with slashes, ascending (N).
        features: Unit vectors, float32 [N, E].
        stamps: Size in bytes and time of change in nanoseconds of each file, int64 [N, 2].
    """

    paths: tuple[str, ...]
    features: Tensor
    stamps: Tensor

    def rank(self, query: Tensor, *, top: int | None = None) -> list[tuple[str, float]]:
        """The images most alike to a vector, best first; of equals the lower path first.

        Args:
            query: Unit vector [E].
            top: How many at most; None for all.

        Returns:
            Paths with their cosine similarities, in [-1, 1].
        """
        # Rounded from float64, because copies of an image need not come out equal in float32.
        scores = (self.features.double() @ query.cpu().double()).float()
        # Stable, and the paths are in order.
        order = torch.argsort(scores, descending=True, stable=True)[:top].tolist()
        return [(self.paths[row], float(scores[row])) for row in order]


@dataclass(frozen=True)
class IndexChanges:
    """What bringing an index up to date came to.

    Attributes:
        kept: Images whose vectors were there.
        encoded: Images that are new or have changed.
        dropped: Images that are in the index and not in the folder.
        unreadable: Files that could not be read, and are not in the index.
    """

    kept: int
    encoded: int
    dropped: int
    unreadable: tuple[str, ...]


def update_index(
    encoder: Encoder, folder: Path, paths: Iterable[Path], file: Path | None
) -> tuple[ImageIndex, IndexChanges]:
    """Makes an index, or brings a saved one up to date; only what is new or changed is encoded.

    Args:
        encoder: The model. Its image side and preprocessing must be those of the saved index.
        folder: What paths in the index are relative to.
        paths: The images, all below the folder.
        file: Where the index is kept; None keeps it nowhere.

    Returns:
        The index, and what changed.

    Raises:
        DatasetError: If the file is damaged, no index, or of another model or preprocessing.
    """
    identity = encoder.image_identity()
    old = None if file is None or not file.exists() else read_index(file, identity)
    found = {path.relative_to(folder).as_posix(): path for path in paths}
    names = sorted(found)
    stamps = {name: file_stamp(found[name]) or (-1, -1) for name in names}
    kept = _unchanged(old, stamps)
    fresh = [name for name in names if name not in kept]
    encoded = encoder.images(ImageFiles(tuple(found[name] for name in fresh)))
    vectors = kept | {
        fresh[row]: vector
        for row, vector in zip(encoded.rows.tolist(), encoded.features, strict=True)
    }
    present = [name for name in names if name in vectors]
    index = ImageIndex(
        paths=tuple(present),
        features=torch.stack([vectors[name] for name in present]) if present else encoded.features,
        stamps=torch.tensor([stamps[name] for name in present], dtype=torch.int64).reshape(-1, 2),
    )
    known = set() if old is None else set(old.paths)
    changes = IndexChanges(
        kept=len(kept),
        encoded=len(encoded.rows),
        dropped=len(known - set(names)),
        unreadable=encoded.unreadable,
    )
    if file is not None and (len(kept) < len(known) or changes.encoded or old is None):
        _write_index(file, index, identity)
    return index, changes


def read_index(file: Path, identity: dict[str, Any]) -> ImageIndex:
    """Reads a saved index.

    Args:
        file: What :func:`update_index` wrote.
        identity: Of the encoder that queries will be made with, see ``Encoder.image_identity``.

    Raises:
        DatasetError: If the file is damaged, no index, or of another model or preprocessing.
    """
    try:
        tensors, notes = read_tensors(file)
        if notes.get("format") != _FORMAT:
            raise ValueError(f"expected {_FORMAT!r} inside, found {notes.get('format')!r}")
        made_by = json.loads(notes["made_by"])
        paths = _unpacked(tensors["paths"])
        index = ImageIndex(paths, tensors["features"], tensors["stamps"])
        if not len(paths) == len(index.features) == len(index.stamps):
            raise ValueError(f"{len(paths)} paths, {len(index.features)} vectors")
    except _DAMAGE as error:
        raise DatasetError(
            f"{file}: expected an image index, found that it is damaged or none: {error}; delete "
            "it or choose another file"
        ) from error
    _check_identity(file, made_by, identity)
    return index


def _check_identity(file: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuses vectors that cannot be compared with this model's."""
    # As JSON, because a tuple comes back as a list.
    expected = json.loads(json.dumps(expected))
    for key, what in (("weights", "other weights"), ("preprocessing", "another preprocessing")):
        if found.get(key) != expected[key]:
            raise DatasetError(
                f"{file}: expected an index of this model, found one made with {what} ({key} "
                f"{found.get(key)}, now {expected[key]}); use the model it was made with, or "
                "choose another file"
            )
    if found != expected:
        raise DatasetError(
            f"{file}: expected an index of this model, found one of another architecture or of "
            "another version of owlkit; delete it or choose another file"
        )


def _unchanged(old: ImageIndex | None, stamps: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    """Vectors of the files that are as they were."""
    if old is None:
        return {}
    return {
        name: old.features[row]
        for row, (name, stamp) in enumerate(zip(old.paths, old.stamps.tolist(), strict=True))
        if stamps.get(name) == tuple(stamp)
    }


def _write_index(file: Path, index: ImageIndex, identity: dict[str, Any]) -> None:
    tensors = {
        "features": index.features,
        "stamps": index.stamps,
        "paths": _packed(index.paths),
    }
    write_tensors(file, tensors, {"format": _FORMAT, "made_by": json.dumps(identity)})


def _packed(paths: Sequence[str]) -> Tensor:
    """Names as bytes, uint8: the header of the file is too small for many, and they may be any."""
    return torch.frombuffer(bytearray(os.fsencode("\0".join(paths)) + b"\0"), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> tuple[str, ...]:
    text = os.fsdecode(packed.numpy().tobytes())
    return tuple(text.removesuffix("\0").split("\0")) if text != "\0" else ()
