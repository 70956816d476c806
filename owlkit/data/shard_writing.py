"""Writing images and captions to tar shards as webdataset lays them out."""

import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from secrets import token_hex

import numpy as np

from owlkit.data.captions import CaptionedImage
from owlkit.data.reading import read_rgb
from owlkit.data.shard_reading import IMAGE_EXTENSIONS
from owlkit.errors import DatasetError, ImageError

_LISTED = 5


@dataclass(frozen=True)
class WrittenShards:
    """What was written.

    Attributes:
        sizes: Name of each shard and number of its images, as in ``sizes.json``.
        left_out: Why images are missing in them, one message each.
    """

    sizes: dict[str, int]
    left_out: tuple[str, ...]


def write_shards(
    images: Sequence[CaptionedImage],
    out: Path,
    *,
    per_shard: int = 1000,
    seed: int = 0,
    skip_unreadable: bool = False,
) -> WrittenShards:
    """Writes ``shard-000000.tar``, ... and ``sizes.json``, all of them or nothing.

    Files of images are copied as they are, after a look whether they can be decoded. An image with
    one caption gets it as ``txt``, one with several as ``captions`` in a ``json``. Equal arguments
    give equal bytes.

    Args:
        images: At least one.
        out: Folder to make; it may be there if it is empty, also as a link or a mount point.
        per_shard: Images in a shard; the last one may have fewer.
        seed: Of the order of the images, which is random.
        skip_unreadable: Leave out images that cannot be read, instead of refusing.

    Returns:
        What was written.

    Raises:
        DatasetError: If images cannot be read or are of another format than JPEG, PNG or WebP, and
            this is not to be skipped; if there is nothing to write, or ``out`` is not empty.
    """
    if not images or per_shard < 1:
        raise DatasetError(
            f"expected images and a positive number of them per shard; found {len(images)} images "
            f"and {per_shard}"
        )
    out = out.resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DatasetError(f"{out}: expected a folder to make, found something there")
    # A folder that is there may be a mount point, which nothing can be put in the place of.
    inside = out.is_dir()
    scratch = (out if inside else out.parent) / f".{out.name}.{os.getpid()}.{token_hex(4)}.part"
    scratch.mkdir(parents=True)
    try:
        written = _write(images, scratch, per_shard, seed, skip_unreadable)
        sizes = json.dumps(written.sizes, indent=1) + "\n"
        (scratch / "sizes.json").write_text(sizes, encoding="utf-8")
        if inside:
            for name in (*written.sizes, "sizes.json"):
                (scratch / name).replace(out / name)
        else:
            scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return written


def _write(
    images: Sequence[CaptionedImage], folder: Path, per_shard: int, seed: int, skip: bool
) -> WrittenShards:
    sizes: dict[str, int] = {}
    left_out: list[str] = []
    contents: list[tuple[CaptionedImage, bytes]] = []
    for number in np.random.default_rng(seed).permutation(len(images)).tolist():
        try:
            contents.append((images[number], _checked_bytes(images[number].path)))
        except ImageError as error:
            left_out.append(str(error))
        if len(contents) == per_shard:
            _write_shard(contents, folder, sizes)
            contents = []
    if contents:
        _write_shard(contents, folder, sizes)
    if left_out and not (skip and sizes):
        raise DatasetError(
            f"expected images that can be read, found {len(left_out)} of {len(images)} that "
            "cannot; nothing was written:\n  " + "\n  ".join(left_out[:_LISTED])
        )
    return WrittenShards(sizes, tuple(left_out))


def _checked_bytes(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        ImageError: If it cannot be decoded, or shards do not hold such files.
    """
    if path.suffix.lower().removeprefix(".") not in IMAGE_EXTENSIONS:
        raise ImageError(f"{path}: expected .{', .'.join(IMAGE_EXTENSIONS)}, found {path.suffix!r}")
    read_rgb(path)
    return path.read_bytes()


def _write_shard(
    contents: Sequence[tuple[CaptionedImage, bytes]], folder: Path, sizes: dict[str, int]
) -> None:
    """Writes one shard and notes its size; its examples are numbered through all shards."""
    name = f"shard-{len(sizes):06d}.tar"
    first = sum(sizes.values())
    with tarfile.open(folder / name, "w") as archive:
        for key, (image, content) in enumerate(contents, start=first):
            _add(archive, f"{key:09d}{image.path.suffix.lower()}", content)
            if len(image.captions) == 1:
                _add(archive, f"{key:09d}.txt", image.captions[0].encode("utf-8"))
            else:
                captions = json.dumps({"captions": image.captions}, ensure_ascii=False)
                _add(archive, f"{key:09d}.json", captions.encode("utf-8"))
    sizes[name] = len(contents)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # Without time and owner, so that equal contents give equal archives.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, BytesIO(content))
