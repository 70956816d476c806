"""Small tar shards whose pictures and captions say their numbers."""

import tarfile
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

Members = dict[str, bytes]


def picture(number: int) -> bytes:
    """A PNG that is ``number`` red."""
    return cv2.imencode(".png", np.full((4, 4, 3), [0, 0, number], np.uint8))[1].tobytes()


def write_tar(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return path


def members_of(*numbers: int) -> Members:
    return {
        f"{n:04d}.{end}": content
        for n in numbers
        for end, content in (("png", picture(n)), ("txt", f"number {n}".encode()))
    }


def make_shards(folder: Path, *sizes: int, name: str = "s", first: int = 0) -> str:
    """Shards of examples that are numbered through all of them; returns a pattern."""
    for shard, size in enumerate(sizes):
        write_tar(folder / f"{name}-{shard}.tar", members_of(*range(first, first + size)))
        first += size
    return str(folder / f"{name}-*.tar")
