"""Images, with captions or without, in tar files as webdataset lays them out.

The members of an example have one name and differ in what follows its first dot: an image (``jpg``,
``jpeg``, ``png``, ``webp``) and its caption, as ``txt`` or under ``caption`` or ``captions`` in a
``json``.
"""

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from webdataset.gopen import gopen  # type: ignore[import-untyped]
from webdataset.shardlists import expand_urls  # type: ignore[import-untyped]
from webdataset.tariterators import group_by_keys  # type: ignore[import-untyped]

from owlkit.data.reading import decode_rgb
from owlkit.errors import DatasetError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""What follows the dot of an image in a shard, in the order of preference."""

_CHUNK = 1 << 20
_PIPE = "pipe:"
_NUMBERS = re.compile(r"(\{\d+\.\.\d+\})")


@dataclass(frozen=True)
class Sample:
    """One example as it lies in a shard, not decoded.

    Attributes:
        where: Shard and name, for messages.
        image: The bytes of the image's file.
        texts: Its captions; at least one, unless they were not asked for.
        faults: Places of what could not be read since the sample before.
    """

    where: str
    image: bytes
    texts: tuple[str, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """What could not be read: a shard from some point on, or one example; and why."""

    where: str
    reason: str


def find_shards(urls: Iterable[str]) -> tuple[str, ...]:
    """Lists shards.

    Args:
        urls: Paths, ``pipe:`` and a command that writes a tar file to its output, or what else
            webdataset opens. Braces (``shard-{000..013}.tar``) are expanded; in paths, so are
            ``*``, ``?`` and ``[...]``, unless there is a file of this very name. A command is given
            to the shell as it is, but for braces with two numbers: only take it from whom you would
            let run commands.

    Returns:
        At least one; what a pattern stands for is sorted.

    Raises:
        DatasetError: If files are missing or a pattern fits nothing.
    """
    shards: list[str] = []
    missing: list[str] = []
    for url in urls:
        try:
            expanded = _expand(url)
        except (AssertionError, ValueError) as error:  # a variable or braces, says webdataset
            raise DatasetError(f"{url}: expected shards, found: {error}") from error
        for shard in expanded:
            found = _matches(shard)
            shards += found
            missing += [] if found else [shard]
    if missing or not shards:
        raise DatasetError(
            f"expected shards, found none at {len(missing)} of {len(missing) + len(shards)} "
            f"places{': ' if missing else ''}{', '.join(missing[:5])}"
        )
    return tuple(shards)


def _expand(url: str) -> list[str]:
    """What braces stand for."""
    if os.path.isfile(url):
        return [url]
    if not url.startswith(_PIPE):
        expanded: list[str] = expand_urls(url)
        return expanded
    # Every second part is a range; the rest means something to the shell, not to webdataset.
    parts = _NUMBERS.split(url)
    choices = [expand_urls(part) if row % 2 else [part] for row, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def _matches(shard: str) -> list[str]:
    if shard.startswith(_PIPE) or "://" in shard or os.path.isfile(shard):
        return [shard]
    return sorted(path for path in glob.glob(shard, recursive=True) if os.path.isfile(path))


def read_shard(shard: str, *, captions: bool = True) -> Iterator[Sample | Fault]:
    """Reads a shard from its beginning to its end, or to where it is damaged.

    What cannot be used comes as a fault in the place where it was met: an example without an image
    or, if it needs one, a caption; and a shard that cannot be opened, is cut off, or whose command
    fails, once.

    Args:
        shard: One of :func:`find_shards`.
        captions: Whether an example needs a caption; else captions are not read.
    """
    broken: list[Fault] = []
    repeated: list[Fault] = []

    def note(error: Exception) -> bool:
        repeated.append(Fault(shard, str(error.args[0])))
        return True

    for members in group_by_keys(_members(shard, broken), handler=note):
        while repeated:
            yield repeated.pop(0)
        found = _parse(members, where=f"{shard}:{members['__key__']}", captions=captions)
        # Where a shard is cut off, the example there is, too; that is one fault.
        if isinstance(found, Sample) or not broken:
            yield found
    yield from (*repeated, *broken)


class _StrictInfo(tarfile.TarInfo):
    """Reports damage that tarfile takes for the end of an archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Reads a header; raises ReadError where there is neither one nor the mark of the end."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(f"expected a member or the end, found: {error}") from error


def _members(shard: str, broken: list[Fault]) -> Iterator[dict[str, Any]]:
    """The files in a shard, in the form of webdataset; appends what ends it early."""
    try:
        with closing(gopen(shard)) as opened:
            # The output of a command itself: webdataset's wrapper may complain of the command's
            # end before all of its output has been taken.
            stream = getattr(opened, "stream", opened)
            with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_StrictInfo) as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isreg() else None
                    if file is not None:
                        yield {"fname": member.name, "data": file.read(), "__url__": shard}
                    archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
            # What fills up the last block, so that a command can end by itself.
            while stream.read(_CHUNK):
                pass
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        broken.append(Fault(shard, str(error)))


def _parse(members: Mapping[str, Any], *, where: str, captions: bool) -> Sample | Fault:
    image = next((members[name] for name in IMAGE_EXTENSIONS if name in members), None)
    if image is None:
        return Fault(where, f"expected an image, .{', .'.join(IMAGE_EXTENSIONS)}, found none")
    if not captions:
        return Sample(where, image, ())
    try:
        texts = _texts(members)
    except ValueError as error:
        return Fault(where, f"expected a caption in UTF-8 or JSON, found: {error}")
    if not texts:
        return Fault(where, "expected .txt, or .json with `caption` or `captions`, found no text")
    return Sample(where, image, texts)


def _texts(members: Mapping[str, Any]) -> tuple[str, ...]:
    """The captions of an example; none if there is no text; raises ValueError if it is damaged."""
    if "txt" in members:
        found: Any = members["txt"].decode("utf-8")
    else:
        content = json.loads(members.get("json", b"null"))
        fields = content if isinstance(content, dict) else {}
        found = fields.get("captions", fields.get("caption"))
    texts = found if isinstance(found, list) else [found]
    whole = tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
    "".join(whole).encode()  # JSON can hold halves of characters, which no tokenizer takes
    return whole


def decode_image(sample: Sample) -> NDArray[np.uint8]:
    """Decodes the image of a sample to upright RGB, uint8 [H, W, 3], as files are.

    Raises:
        ImageError: If it cannot be read; names its place.
    """
    return decode_rgb(sample.image, sample.where)
