"""The progress of a job on the disk."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owlkit.annotation.loading import Group, read_ahead
from owlkit.annotation.results import Place, Results, damaged
from owlkit.annotation.settings import FORMAT, SETTINGS_FILE, check_equal, read_settings
from owlkit.annotation.shard import Shard
from owlkit.detections import Detections
from owlkit.errors import DatasetError
from owlkit.file_stamp import file_stamp
from owlkit.whole_file import written_whole

Detect = Callable[[list[NDArray[np.uint8]]], list[Detections]]
"""Finds the classes of a job in RGB images, uint8 [h, w, 3]."""

_SHOWN = 5
# Read at a time to find the end of the last whole line.
_BLOCK_BYTES = 1 << 16


class AnnotationJob:
    """The progress of a job, in a folder that its processes share.

    Args:
        folder: For the progress.
        settings: Everything that results depend on, ready for JSON. ``classes`` are the names of
            the classes by label.
        begin: Whether a job that has not begun begins; then the settings must be complete.

    Raises:
        ConfigError: If the job there has other settings, or none has begun.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, begin: bool = True) -> None:
        self.folder = folder
        path = folder / SETTINGS_FILE
        if begin and not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as scratch:
                scratch.write_text(json.dumps({"format": FORMAT, **settings}, indent=1))
        # Read back in any case: another process may have begun the job in the meantime.
        self.settings = read_settings(path)
        check_equal(folder, self.settings, json.loads(json.dumps(settings)))
        canonical = json.dumps(self.settings, sort_keys=True)
        self._digest = blake2b(canonical.encode(), digest_size=16).hexdigest()

    def groups(self, images: Mapping[str, Path], shard: Shard, batch_size: int) -> list[Group]:
        """What a process has to do: of every ``count`` groups of images one, less what is done.

        Args:
            images: All images of the job by name, in ascending order.
            shard: The process.
            batch_size: Images of a group.

        Raises:
            DatasetError: If the progress is damaged, or belongs to a job with other settings.
        """
        places = self._places(images)
        names = list(images)
        starts = range(0, len(names), batch_size)[shard.number - 1 :: shard.count]
        parts = (names[start : start + batch_size] for start in starts)
        groups = (
            Group({name: images[name] for name in part}, frozenset(part) - places.keys())
            for part in parts
        )
        return [group for group in groups if group.wanted]

    def label(self, groups: Sequence[Group], detect: Detect, shard: Shard) -> Iterator[str]:
        """Detects, and writes a line for each image; what is interrupted goes on with the next one.

        Args:
            groups: See :meth:`groups`.
            detect: Called with the readable images of a group.
            shard: The process.

        Yields:
            The name of each image that is done.
        """
        with self._lines(shard) as write:
            for group, loaded in read_ahead(groups):
                images = [image for _, image in loaded if not isinstance(image, str)]
                found = iter(detect(images) if images else [])
                for name, (stamp, image) in zip(group.images, loaded, strict=True):
                    line: dict[str, Any] = {"image": name, "stamp": stamp}
                    if isinstance(image, str):
                        line["error"] = image
                    else:
                        line.update(_rounded(next(found), image.shape[:2]))
                    if name in group.wanted:
                        write(line)
                        yield name

    def missing(self, images: Mapping[str, Path]) -> list[str]:
        """Images that no process has done yet, or that changed since."""
        places = self._places(images)
        return [name for name in images if name not in places]

    def results(self, images: Mapping[str, Path]) -> Results:
        """What was found in all images.

        Raises:
            DatasetError: If some are not done, or the progress is damaged.
        """
        places = self._places(images)
        missing = [name for name in images if name not in places]
        if missing:
            raise DatasetError(
                f"{self.folder}: expected results of {len(images)} images, found none of "
                f"{len(missing)}: {', '.join(missing[:_SHOWN])}; run the shards that are missing"
            )
        return Results(images, places, self.settings["classes"])

    def _places(self, images: Mapping[str, Path]) -> dict[str, Place]:
        """The last line of each image, if that is of the file as it is now."""
        places: dict[str, Place] = {}
        for file in sorted(self.folder.glob("shard-*.jsonl")):
            for start, line in self._read(file):
                try:
                    name, stamp = line["image"], line["stamp"]
                    path = images.get(name)
                    scores = line.get("scores")
                    least = min(scores) if scores else None
                except (KeyError, TypeError, AttributeError) as error:
                    raise damaged(file, start, repr(error)) from error
                # JSON has no tuples.
                if path is not None and stamp == list(file_stamp(path) or ()):
                    places[name] = Place(file, start, least, line.get("error"))
        return places

    def _read(self, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """The whole lines of a file after its head, with the byte at which they start."""
        start = 0
        with file.open("rb") as lines:
            for text in lines:
                # What an interrupt or a full disk left of the last line.
                if not text.endswith(b"\n"):
                    return
                try:
                    line = json.loads(text)
                except ValueError as error:
                    raise damaged(file, start, str(error)) from error
                if start:
                    yield start, line
                elif line != self._head:
                    raise DatasetError(
                        f"{file}: expected progress of the job in {self.folder / SETTINGS_FILE}, "
                        "found that of a job with other settings; choose another folder"
                    )
                start += len(text)

    @property
    def _head(self) -> dict[str, str]:
        return {"settings": self._digest}

    @contextmanager
    def _lines(self, shard: Shard) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Gives a function that appends a line to the file of a process."""
        path = self.folder / shard.file_name
        # Unbuffered, so that a line is there as a whole or, at worst, in part at the end.
        with path.open("ab", buffering=0) as file:
            _cut_half_line(path)

            def write(line: dict[str, Any]) -> None:
                file.write(json.dumps(line).encode() + b"\n")

            if path.stat().st_size == 0:
                write(self._head)
            yield write


def _cut_half_line(path: Path) -> None:
    """Removes what stands after the last line break."""
    with path.open("r+b") as file:
        end, break_at = file.seek(0, os.SEEK_END), -1
        while end and break_at < 0:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            break_at = file.read(end - start).rfind(b"\n")
            end = start + break_at + 1 if break_at >= 0 else start
        file.truncate(end)


def _rounded(found: Detections, size: tuple[int, ...]) -> dict[str, Any]:
    """Detections as a line holds them: hundredths of pixels, millionths of scores.

    A box thinner than that cannot be a label, and is left out.
    """
    boxes = found.boxes.astype(np.float64).round(2)
    kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    return {
        "size": [int(side) for side in size],
        "boxes": boxes[kept].tolist(),
        "scores": found.scores[kept].astype(np.float64).round(6).tolist(),
        "labels": found.labels[kept].tolist(),
    }
