"""Detection in videos and camera streams, frame by frame, in bounded memory."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from owlkit.cli.files import picture_names
from owlkit.cli.progress import Show
from owlkit.detections import Detections
from owlkit.errors import ImageError
from owlkit.tracking import Tracker
from owlkit.video import VIDEO_SUFFIXES, Frame, Video, VideoWriter, is_camera, is_video

DetectFrames = Callable[[list[NDArray[np.uint8]]], list[Detections]]
Draw = Callable[[NDArray[np.uint8], Detections], Image]


@dataclass(frozen=True)
class StreamOptions:
    """How a video is gone through.

    Attributes:
        every: Of so many frames the first is looked at.
        max_frames: Most frames to look at; None for all.
        batch_size: Frames that are detected in together; of live sources it is always one.
        tracker: Makes the tracker of one video from its frame rate; None for no tracking.
        max_pixels: Most pixels of a frame; None for what the decoder takes.
    """

    every: int = 1
    max_frames: int | None = None
    batch_size: int = 1
    tracker: Callable[[float], Tracker] | None = None
    max_pixels: int | None = None


def find_videos(words: Iterable[str], out: Path) -> list[str]:
    """Lists the videos, cameras and streams that a command line names, each once.

    Args:
        words: As for :func:`owlkit.cli.files.find_sources`; a folder stands for the videos in it.
        out: Folder of the results; what lies in it is left out of other folders.
    """
    found: dict[str, str] = {}
    for word in words:
        for source in _in_folder(Path(word), out.resolve()) if os.path.isdir(word) else [word]:
            if is_video(source):
                plain = is_camera(source) or "://" in source
                found.setdefault(source if plain else os.path.abspath(source), source)
    return list(found.values())


def _in_folder(folder: Path, out: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            if not path.resolve().is_relative_to(out):
                yield str(path)


def video_targets(videos: Iterable[str], out: Path) -> dict[str, tuple[Path, Path]]:
    """For each video, the annotated video and the file of lines to write."""
    names = {f"camera-{video}" if is_camera(video) else video: video for video in videos}
    targets = {}
    for name, picture in picture_names(names).items():
        path = out / picture
        targets[names[name]] = path.with_suffix(".mp4"), path.with_suffix(".jsonl")
    return targets


def detect_in_video(
    source: str,
    targets: tuple[Path, Path],
    *,
    detect: DetectFrames,
    draw: Draw,
    options: StreamOptions,
    show: Show = lambda done, total: None,
) -> str:
    """Detects in a video; writes an annotated one and, line by line, what was found.

    Each line is an object: ``frame`` (number, from 0), ``time_s`` (seconds since the first frame),
    ``detections`` (as :meth:`Detections.to_list` gives them; with tracking each with ``track_id``,
    or null while there is none).

    If it is interrupted or the video is damaged, both files hold the frames until then.

    Args:
        source: See :class:`owlkit.video.Video`.
        targets: The annotated video and the lines.
        detect: Finds the queries in frames.
        draw: Draws what was found in one.
        options: Which frames, and whether to track.
        show: Called with the number of frames done, and about how many there are to look at.

    Returns:
        What was found, in words.

    Raises:
        ImageError: If the video cannot be read, or a result not be written.
        KeyboardInterrupt: If it is interrupted; that is the way to end a live source, which then
            returns as usual.
    """
    annotated, lines = targets
    summary = _Summary()
    stop: ImageError | KeyboardInterrupt | None = None
    with Video(source, max_pixels=options.max_pixels) as video:
        rate = video.frame_rate / options.every
        tracker = None if options.tracker is None else options.tracker(float(rate))
        frames = video.frames(every=options.every, max_frames=options.max_frames)
        size = 1 if video.live else options.batch_size
        total = frames_to_look_at(video, options)
        show(0, total)
        with _lines(lines) as file, VideoWriter(annotated, rate) as writer:
            try:
                for frame, found in _answers(frames, detect, size):
                    detections = found if tracker is None else tracker.update(found)
                    writer.write(np.asarray(draw(frame.image, detections)), frame.time_s)
                    file.write(_line(frame, detections))
                    # Whoever follows the file sees each frame at once.
                    file.flush()
                    summary.add(detections)
                    show(summary.frames, total)
            except (ImageError, KeyboardInterrupt) as error:
                # Raised again when the files are complete.
                stop = error
    if stop is not None and not (video.live and isinstance(stop, KeyboardInterrupt)):
        raise stop
    return summary.text(tracker)


class _Summary:
    """How much was found in the frames so far."""

    def __init__(self) -> None:
        self.frames = 0
        self.names: Counter[str] = Counter()

    def add(self, detections: Detections) -> None:
        self.frames += 1
        self.names.update(detections.names)

    def text(self, tracker: Tracker | None) -> str:
        boxes = ", ".join(f"{count} {name}" for name, count in self.names.most_common())
        objects = "" if tracker is None else f" ({tracker.count} objects)"
        return f"{self.frames} frames, {boxes or 'nothing found'}{objects}"


def _answers(
    frames: Iterator[Frame], detect: DetectFrames, size: int
) -> Iterator[tuple[Frame, Detections]]:
    for batch in _batches(frames, size):
        yield from zip(batch, detect([frame.image for frame in batch]), strict=True)


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == size:
                yield batch
                batch = []
    except ImageError:
        # The frames before the damage are good.
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _line(frame: Frame, detections: Detections) -> str:
    found = detections.to_list()
    if detections.track_ids is not None:
        # In the order of the list.
        best_first = np.argsort(-detections.scores, kind="stable")
        for entry, track in zip(found, detections.track_ids[best_first].tolist(), strict=True):
            entry["track_id"] = track if track >= 0 else None
    line = {"frame": frame.index, "time_s": round(frame.time_s, 6), "detections": found}
    return json.dumps(line, ensure_ascii=False) + "\n"


@contextmanager
def _lines(path: Path) -> Iterator[IO[str]]:
    """A file of lines, which does not stay if none was written."""
    file = path.open("w", encoding="utf-8", errors="backslashreplace")
    try:
        with file:
            yield file
    finally:
        if not path.stat().st_size:
            path.unlink()


def frames_to_look_at(video: Video, options: StreamOptions) -> int | None:
    """About how many frames that will be; None if it is not known."""
    known = video.frame_count
    total = None if known is None else -(-known // options.every)
    return min((most for most in (total, options.max_frames) if most is not None), default=None)
