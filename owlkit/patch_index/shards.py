"""The files of a patch index: each holds the patches of some images, and stands alone.

A file is written as a whole and never changed. Of an image that is in several files, as after an
interrupted update, the file with the higher number counts.

Shapes: I images, N patches of all of them, E embedding width.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from owlkit.backend import PatchArrays
from owlkit.errors import DatasetError, QueryError
from owlkit.file_stamp import Stamp
from owlkit.patch_index.codes import encode_rows
from owlkit.whole_file import written_whole

_FORMAT = "owlkit patch index 1"
_SUFFIX = ".patches.safetensors"
_SMALL = ("counts", "stamps", "paths")
_LARGE = {"rows": np.float32, "boxes": np.float32, "codes": np.int8, "terms": np.float32}
_TYPES = {"F32": np.float32, "I8": np.int8}
# What the readers raise for a file that is cut off or holds something else.
_DAMAGE = (SafetensorError, OSError, ValueError, TypeError, RuntimeError, KeyError, IndexError)
# As in owlkit.models.heads, so that logits are the model's own.
_EPSILON = 1e-6


@dataclass(frozen=True)
class IndexKind:
    """What all files of an index have in common.

    Attributes:
        identity: Of the model, see :class:`owlkit.backend.Backend`.
        patches_per_image: Most patches kept of an image, the best by objectness; None for all.
    """

    identity: str
    patches_per_image: int | None = None


@dataclass(frozen=True, eq=False)
class ImagePatches:
    """The patches of one image as an index keeps them.

    Attributes:
        rows: What times ``[q, 1]``, q a unit query, is the logit, float32 [P, E + 1].
        boxes: xyxy in pixels of the original image, inside it, float32 [P, 4].
    """

    rows: NDArray[np.float32] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)

    @classmethod
    def of(
        cls,
        arrays: PatchArrays,
        boxes: NDArray[np.float32],
        image_size: tuple[int, int],
        *,
        most: int | None = None,
    ) -> "ImagePatches":
        """Prepares the patches of an encoded image.

        Those that predict a box outside the image, as in the padding, are left out.

        Args:
            arrays: What the model made of the image.
            boxes: Of its patches, xyxy in pixels of the original image [P, 4].
            image_size: Height and width of the original image.
            most: How many to keep, the best by objectness (ties: lower index); None for all.

        Raises:
            QueryError: If patches are to be left out, and the model does not predict objectness.
        """
        height, width = image_size
        clipped = np.clip(boxes, 0, np.array([width, height] * 2, dtype=np.float32))
        kept = np.flatnonzero((clipped[:, :2] != clipped[:, 2:]).all(axis=1))
        if most is not None:
            if arrays.objectness is None:
                raise QueryError(
                    f"expected a model that predicts objectness, by which the best {most} patches "
                    "of an image are chosen; found one that does not: keep all patches"
                )
            best = np.argsort(-arrays.objectness[kept], kind="stable")[:most]
            kept = np.sort(kept[best])
        embeds = arrays.class_embeds[kept].astype(np.float32)
        scale, shift = arrays.logit_scale[kept], arrays.logit_shift[kept]
        norms = np.linalg.norm(embeds, axis=-1) + np.float32(_EPSILON)
        rows = np.empty((len(kept), embeds.shape[1] + 1), dtype=np.float32)
        rows[:, :-1] = embeds * (scale / norms)[:, None]
        rows[:, -1] = scale * shift
        return cls(rows=rows, boxes=clipped[kept].astype(np.float32))


@dataclass(frozen=True, eq=False)
class Shard:
    """One file, its large arrays mapped into memory.

    Attributes:
        file: Where it is.
        kind: Of the index.
        paths: Of the images, below their folder, with slashes (I).
        stamps: Size in bytes and time of change in nanoseconds of each image file, int64 [I, 2].
        counts: Patches of each image, int64 [I]; those of an image lie together, in its order.
        rows: See :class:`ImagePatches`, float32 [N, E + 1].
        boxes: See :class:`ImagePatches`, float32 [N, 4].
        codes: The rows as eight-bit numbers, see :func:`owlkit.patch_index.codes.encode_rows`.
        terms: What belongs to them.
    """

    file: Path
    kind: IndexKind
    paths: tuple[str, ...] = field(repr=False)
    stamps: NDArray[np.int64] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    rows: NDArray[np.float32] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)
    codes: NDArray[np.int8] = field(repr=False)
    terms: NDArray[np.float32] = field(repr=False)

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each image, int64 [I]."""
        return np.cumsum(self.counts) - self.counts

    def patches(self, image: int) -> ImagePatches:
        """What the file holds of one of its images."""
        start, count = int(self.starts[image]), int(self.counts[image])
        span = slice(start, start + count)
        return ImagePatches(rows=self.rows[span], boxes=self.boxes[span])


def read_shards(folder: Path, identity: str) -> list[Shard]:
    """The files of an index, in the order of their numbers.

    Args:
        folder: Of the index; none or an empty one holds no files.
        identity: Of the model that queries will be made with.

    Raises:
        DatasetError: If a file is damaged, no part of an index, or of another model; or if files
            do not belong together.
    """
    files = sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []
    shards = [_read_shard(file) for file in files]
    for shard in shards:
        _check_model(shard, identity)
        first = shards[0]
        if (shard.kind, shard.rows.shape[1]) != (first.kind, first.rows.shape[1]):
            raise DatasetError(
                f"{shard.file}: expected a part of the same index as {first.file.name}, found "
                "another number of patches per image or width; choose another folder"
            )
    return shards


def write_shard(
    folder: Path,
    kind: IndexKind,
    images: Sequence[tuple[str, Stamp, ImagePatches]],
) -> Path:
    """Writes a file with a number above all others; returns its path.

    Args:
        folder: Of the index; must be there.
        kind: Of the index.
        images: Path, stamp and patches of one or more images.
    """
    numbers = [int(file.name[:8]) for file in folder.glob(f"*{_SUFFIX}") if file.name[:8].isdigit()]
    # The token keeps two processes that update at the same time from replacing each other's files.
    file = folder / f"{max(numbers, default=0) + 1:08d}-{token_hex(4)}{_SUFFIX}"
    coded = [encode_rows(patches.rows) for _, _, patches in images]
    arrays = {
        "rows": np.concatenate([patches.rows for _, _, patches in images]),
        "boxes": np.concatenate([patches.boxes for _, _, patches in images]),
        "codes": np.concatenate([codes for codes, _ in coded]),
        "terms": np.concatenate([terms for _, terms in coded]),
        "counts": np.array([len(patches.rows) for _, _, patches in images], dtype=np.int64),
        "stamps": np.array([stamp for _, stamp, _ in images], dtype=np.int64),
        # Names may be no text, and a header is too small for many.
        "paths": np.frombuffer(os.fsencode("\0".join(path for path, _, _ in images)), np.uint8),
    }
    notes = {"format": _FORMAT, "kind": json.dumps(vars(kind))}
    content = save(arrays, metadata=notes)
    with written_whole(file) as scratch:
        scratch.write_bytes(content)
    return file


def _read_shard(file: Path) -> Shard:
    try:
        # Sees to it that the header is true and that the file is as long as it says.
        with safe_open(file, framework="np") as opened:
            notes = dict(opened.metadata() or {})
            small = {name: np.array(opened.get_tensor(name)) for name in _SMALL}
        if notes.get("format") != _FORMAT:
            raise ValueError(f"expected {_FORMAT!r} inside, found {notes.get('format')!r}")
        found = IndexKind(**json.loads(notes["kind"]))
        paths = os.fsdecode(small["paths"].tobytes()).split("\0")
        shard = Shard(
            file=file,
            kind=found,
            paths=tuple(paths),
            stamps=small["stamps"],
            counts=small["counts"],
            **_mapped(file),
        )
        _check(shard)
        return shard
    except _DAMAGE as error:
        raise DatasetError(
            f"{file}: expected a part of a patch index, found that it is damaged or none: {error}; "
            "delete it, or choose another folder for the index"
        ) from error


def _mapped(file: Path) -> dict[str, NDArray[Any]]:
    """The large arrays of a file that :func:`safe_open` has taken, read where they are used."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    mapped: dict[str, NDArray[Any]] = {}
    for name, dtype in _LARGE.items():
        entry = header[name]
        if _TYPES.get(entry["dtype"]) is not dtype:
            raise ValueError(f"{name}: expected {dtype.__name__}, found {entry['dtype']}")
        shape = tuple(entry["shape"])
        if 0 in shape:
            # An empty range cannot be mapped.
            mapped[name] = np.empty(shape, dtype=dtype)
            continue
        offset = 8 + length + entry["data_offsets"][0]
        # As a plain array, whose slices cost less; it keeps the map.
        mapped[name] = np.asarray(np.memmap(file, dtype, mode="r", offset=offset, shape=shape))
    return mapped


def _check(shard: Shard) -> None:
    """Raises ValueError if the arrays of a file do not fit together."""
    images, rows = len(shard.paths), shard.rows
    whole = all(array.dtype == np.int64 for array in (shard.counts, shard.stamps))
    if not whole or shard.counts.shape != (images,) or shard.stamps.shape != (images, 2):
        raise ValueError(f"expected counts [{images}] and stamps [{images}, 2] of type int64")
    fits = (shard.counts >= 0).all() and (shard.counts <= len(rows)).all()
    if not fits or rows.ndim != 2 or rows.shape[1] < 2 or shard.counts.sum() != len(rows):
        raise ValueError(f"expected rows of {images} images, found shape {list(rows.shape)}")
    shapes = {"boxes": (len(rows), 4), "codes": (len(rows), rows.shape[1] - 1)}
    for name, shape in {**shapes, "terms": (len(rows), 3)}.items():
        found = getattr(shard, name).shape
        if found != shape:
            raise ValueError(f"{name}: expected {list(shape)}, found {list(found)}")


def _check_model(shard: Shard, identity: str) -> None:
    """Refuses vectors that cannot be compared with this model's."""
    if shard.kind.identity != identity:
        raise DatasetError(
            f"{shard.file}: expected an index of this model ({identity}), found one of another "
            f"model or preprocessing ({shard.kind.identity}); use the model it was made with, or "
            "choose another folder for the index"
        )
