"""Words and examples in the frames of an uploaded video."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owlkit.cli.progress import Show
from owlkit.cli.stream import StreamOptions, detect_in_video, frames_to_look_at
from owlkit.detections import Detections
from owlkit.errors import ImageError
from owlkit.queries import QuerySet
from owlkit.tracking import Tracker
from owlkit.video import Video
from owlkit.visualize import class_palette, draw_detections
from page.desk import Desk
from page.uploads import file_name


@dataclass(frozen=True)
class ClipAnswer:
    """What was found in a video.

    Attributes:
        video: The file with the boxes, H.264.
        lines: A file of JSON lines, one for each frame, as ``owlkit detect`` writes them.
        frames: How many frames were looked at.
        counts: For each class its name, how many boxes of it there are, in how many frames, and of
            how many objects; None where they were not tracked.
    """

    video: Path
    lines: Path
    frames: int
    counts: tuple[tuple[str, int, int, int | None], ...]


def detect_in_clip(
    desk: Desk,
    path: str,
    queries: QuerySet,
    *,
    every: int,
    track: bool,
    show: Show,
    **options: Any,
) -> ClipAnswer:
    """Looks at every so many frames of an uploaded video, and draws what it finds.

    Args:
        desk: Answers.
        path: Of the video.
        queries: What to look for.
        every: Of so many frames the first is looked at.
        track: Whether boxes of one object in several frames get one number.
        show: Called with the number of frames done, and about how many there are to look at.
        **options: Of :meth:`owlkit.Predictor.detect`.

    Raises:
        ImageError: If it is no video, is damaged, or has too many or too large frames.
        QueryError: If a query or an option cannot be used.
        MissingDependencyError: If PyAV is not installed, or the package that tracks.
    """
    limits, predictor = desk.limits, desk.model.predictor()
    stream = StreamOptions(
        every,
        max_frames=limits.frames,
        batch_size=predictor.batch_size,
        tracker=Tracker if track else None,
        max_pixels=limits.frame_pixels,
    )
    # First, because it is quick and may fail.
    predictor.embed(queries)

    def detect(images: list[NDArray[np.uint8]]) -> list[Detections]:
        found = predictor.detect(tuple(images), queries, **options)
        return [one.without_source() for one in found]

    palette = class_palette(one.colour for one in queries.classes)
    place = Path(tempfile.mkdtemp(dir=desk.folder, prefix="video-"))
    stem = Path(path).stem
    video, lines = place / f"{stem}.mp4", place / f"{stem}.jsonl"
    try:
        _check_length(path, stream)
        detect_in_video(
            path,
            (video, lines),
            detect=detect,
            draw=partial(draw_detections, palette=palette),
            options=stream,
            show=show,
        )
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, ImageError):
            raise ImageError(_without_folders(str(error), path, place)) from error
        raise
    return ClipAnswer(video, lines, *_counted(lines, queries.names, tracked=track))


def _check_length(path: str, stream: StreamOptions) -> None:
    """Raises ImageError if there are more frames to look at than allowed, as far as it says."""
    with Video(path, max_pixels=stream.max_pixels) as video:
        count = frames_to_look_at(video, replace(stream, max_frames=None))
    most = stream.max_frames
    if count is not None and most is not None and count > most:
        raise ImageError(
            f"expected at most {most} frames to look at, found about {count}; "
            f"look at one frame in {-(-count * stream.every // most)}, or at a shorter video"
        )


def _counted(
    lines: Path, names: Sequence[str], *, tracked: bool
) -> tuple[int, tuple[tuple[str, int, int, int | None], ...]]:
    """How many frames the lines tell of, and :attr:`ClipAnswer.counts`."""
    with lines.open(encoding="utf-8") as file:
        answers = [json.loads(line)["detections"] for line in file]
    boxes = Counter(one["label"] for found in answers for one in found)
    frames = Counter(label for found in answers for label in {one["label"] for one in found})
    objects: dict[str, set[int]] = {}
    for one in chain.from_iterable(answers):
        if one.get("track_id") is not None:
            objects.setdefault(one["label"], set()).add(one["track_id"])
    return len(answers), tuple(
        (name, boxes[name], frames[name], len(objects.get(name, ())) if tracked else None)
        for name in dict.fromkeys(names)
    )


def _without_folders(text: str, path: str, place: Path) -> str:
    return text.replace(path, file_name(path)).replace(f"{place}/", "")
