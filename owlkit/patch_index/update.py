"""Makes a patch index, or brings one up to date."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from owlkit.backend import PatchArrays
from owlkit.errors import ConfigError, DatasetError, ImageError
from owlkit.file_stamp import Stamp, file_stamp
from owlkit.images import load_image
from owlkit.patch_index.index import PatchIndex
from owlkit.patch_index.shards import (
    ImagePatches,
    IndexKind,
    Shard,
    read_shards,
    write_shard,
)

# Of the rows of one file: small enough to be held and copied, large enough to be few.
_SHARD_BYTES = 128 << 20

EncodeImages = Callable[
    [list[NDArray[np.uint8]]], Iterable[tuple[PatchArrays, NDArray[np.float32]]]
]
"""What a model makes of images, uint8 [h, w, 3]: its arrays, and its boxes in pixels [P, 4]."""


@dataclass(frozen=True)
class PatchIndexChanges:
    """What bringing an index up to date came to.

    Attributes:
        kept: Images that were there.
        encoded: Images that are new or have changed.
        dropped: Images that were in the index and are not in the folder.
        unreadable: Files that could not be read, and are not in the index.
    """

    kept: int
    encoded: int
    dropped: int
    unreadable: tuple[str, ...]


def update_patch_index(
    folder: str | Path,
    images: Mapping[str, Path],
    encode: EncodeImages,
    *,
    identity: str,
    batch_size: int = 8,
    patches_per_image: int | None = None,
    stamp: Callable[[Path], Stamp | None] = file_stamp,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[PatchIndex, PatchIndexChanges]:
    """Makes an index, or brings a saved one up to date; only what is new or changed is encoded.

    When it is interrupted, whatever was encoded is kept. A patch of width E takes 5 E + 32 bytes:
    10,000 images of 576 patches of width 512 take 15 GB, a fifth of which a search reads.

    Args:
        folder: Of the index; made if needed.
        images: Files by the names they get in the index, for example their paths below a folder,
            with slashes.
        encode: Runs the model.
        identity: Of the model, see :class:`owlkit.backend.Backend`.
        batch_size: How many images are encoded at a time.
        patches_per_image: Keep the best so many patches of an image, by objectness. None keeps as
            many as the index has, and all in a new one.
        stamp: Two numbers of a file that change when its image does, None if there is none.
        show: Called with the number of images done, and of those to do.

    Returns:
        The index, and what changed.

    Raises:
        DatasetError: If a file of the index is damaged, or it is of another model, another number
            of patches per image or other images altogether; or if what the model makes of an image
            is not finite.
        ConfigError: If a number is below 1, or the folder cannot be made.
        QueryError: If patches are to be chosen, and the model does not predict objectness.
    """
    folder = Path(folder)
    _check_options(folder, batch_size, patches_per_image)
    shards = read_shards(folder, identity)
    kind = _kind(shards, IndexKind(identity, patches_per_image))
    names = sorted(images)
    stamps = {name: stamp(images[name]) or (-1, -1) for name in names}
    current = _current(shards, stamps)
    fresh = [name for name in names if name not in current]
    known = {path for shard in shards for path in shard.paths}
    if known and names and known.isdisjoint(names):
        raise DatasetError(
            f"{folder}: expected an index of these images, found one of {len(known)} others, which "
            f"would all be dropped, such as {min(known)}; choose another folder for the index"
        )
    writer = _Writer(folder, kind)
    unreadable = writer.encode(
        fresh, images, stamps, encode=encode, batch_size=batch_size, show=show
    )
    if len(fresh) > len(unreadable) or len(current) < sum(len(shard.paths) for shard in shards):
        _rewrite(shards, current, writer)
    changes = PatchIndexChanges(
        kept=len(current),
        encoded=len(fresh) - len(unreadable),
        dropped=len(known - set(names)),
        unreadable=tuple(str(images[name]) for name in unreadable),
    )
    return PatchIndex(read_shards(folder, identity)), changes


class _Writer:
    """Gathers images until they fill a file."""

    def __init__(self, folder: Path, kind: IndexKind) -> None:
        self.folder = folder
        self.kind = kind
        self._images: list[tuple[str, Stamp, ImagePatches]] = []
        self._bytes = 0

    def add(self, name: str, stamp: Stamp, patches: ImagePatches) -> None:
        """Takes an image; writes a file if it is full."""
        if not np.isfinite(patches.rows).all():
            raise DatasetError(
                f"{name}: expected finite numbers of the model, found NaN or infinity"
            )
        self._images.append((name, stamp, patches))
        self._bytes += patches.rows.nbytes
        if self._bytes >= _SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what has been gathered."""
        if self._images:
            write_shard(self.folder, self.kind, self._images)
        self._images, self._bytes = [], 0

    def encode(
        self,
        names: Sequence[str],
        images: Mapping[str, Path],
        stamps: Mapping[str, Stamp],
        *,
        encode: EncodeImages,
        batch_size: int,
        show: Callable[[int, int], None],
    ) -> list[str]:
        """Encodes and takes images, written if it fails; returns the names of unreadable ones."""
        unreadable: list[str] = []
        try:
            for start in range(0, len(names), batch_size):
                batch = names[start : start + batch_size]
                show(start, len(names))
                pixels = dict(_readable(batch, images))
                unreadable += [name for name in batch if name not in pixels]
                if pixels:
                    encoded = encode(list(pixels.values()))
                    for name, (arrays, boxes) in zip(pixels, encoded, strict=True):
                        height, width = pixels[name].shape[:2]
                        most = self.kind.patches_per_image
                        patches = ImagePatches.of(arrays, boxes, (height, width), most=most)
                        self.add(name, stamps[name], patches)
            show(len(names), len(names))
        except BaseException:
            # Also when it is interrupted: what took a network is kept.
            self.flush()
            raise
        return unreadable


def _readable(
    names: Iterable[str], images: Mapping[str, Path]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for name in names:
        try:
            yield name, load_image(images[name])
        except ImageError:
            continue


def _current(shards: Sequence[Shard], stamps: Mapping[str, Stamp]) -> dict[str, tuple[int, int]]:
    """File and place in it of the images that are as they were; of several the last counts."""
    return {
        name: (number, place)
        for number, shard in enumerate(shards)
        for place, (name, stamp) in enumerate(zip(shard.paths, shard.stamps.tolist(), strict=True))
        if stamps.get(name) == tuple(stamp)
    }


def _rewrite(
    shards: Sequence[Shard], current: Mapping[str, tuple[int, int]], writer: _Writer
) -> None:
    """Replaces files that are small or hold images that no longer count; runs no network."""
    places = [set[int]() for _ in shards]
    for number, place in current.values():
        places[number].add(place)
    replaced = [
        (shard, found)
        for shard, found in zip(shards, places, strict=True)
        if len(found) < len(shard.paths) or 2 * shard.rows.nbytes < _SHARD_BYTES
    ]
    for shard, found in replaced:
        for place in sorted(found):
            size, time = shard.stamps[place].tolist()
            writer.add(shard.paths[place], (size, time), shard.patches(place))
    writer.flush()
    # Last, so that a process that is killed leaves images twice and not at all.
    for shard, _ in replaced:
        shard.file.unlink(missing_ok=True)


def _kind(shards: Sequence[Shard], asked: IndexKind) -> IndexKind:
    """What the index is, or becomes."""
    if not shards:
        return asked
    found, most = shards[0].kind, asked.patches_per_image
    if most is not None and most != found.patches_per_image:
        there = found.patches_per_image or "all"
        raise DatasetError(
            f"{shards[0].file.parent}: expected an index of {most} patches per image, found one of "
            f"{there}; choose another folder for the index"
        )
    return found


def _check_options(folder: Path, batch_size: int, patches_per_image: int | None) -> None:
    for name, value in (
        ("batch_size", batch_size),
        ("patches_per_image", 1 if patches_per_image is None else patches_per_image),
    ):
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name}: expected an integer of at least 1, found {value!r}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"expected a folder for the index, found that {folder} is none: {error.strerror}"
        ) from error
