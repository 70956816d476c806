"""Frames of a video, decoded while they are asked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ConfigError, ImageError
from owlkit.video.libraries import import_av
from owlkit.video.sources import is_camera, is_stream, open_source

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

DEFAULT_FRAME_RATE = Fraction(30)
"""Frames a second of a source that does not say, as some cameras."""

# These keep the order in which frames are decoded, but not when each is shown.
_TIMELESS_FORMATS = ("avi", "h264", "hevc")


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    Attributes:
        index: Which frame of the source it is, from 0; skipped frames count.
        time_s: Seconds since the first frame.
        image: Upright RGB, uint8 [h, w, 3].
    """

    index: int
    time_s: float
    image: NDArray[np.uint8] = field(repr=False)


class Video:
    """An open video; a context manager that closes it.

    Args:
        source: A file, the number of a camera ("0"), or the address of a video or stream (http,
            rtsp and others).
        max_pixels: Most pixels of a frame, checked before it is decoded; None for what the decoder
            takes.

    Attributes:
        name: The source, as messages call it.
        frame_rate: Frames a second, on average; 30 if the source does not say.
        frame_count: About how many frames there are, or None if that is not known.
        live: Whether frames come as they happen, so that there is no end to wait for.

    Raises:
        ImageError: If the source cannot be opened or holds no video.
        MissingDependencyError: If PyAV is not installed.
    """

    def __init__(self, source: str | os.PathLike[str], *, max_pixels: int | None = None) -> None:
        word = os.fspath(source)
        self.name = f"camera {word}" if is_camera(word) else word
        self.live = is_camera(word) or is_stream(word)
        with _reading(self.name):
            self._container = open_source(word, max_pixels=max_pixels)
            try:
                self._stream = _video_stream(self._container, self.name, max_pixels)
            except BaseException:
                self._container.close()
                raise
        self.frame_rate = self._stream.average_rate or DEFAULT_FRAME_RATE
        self.frame_count = None if self.live else _frame_count(self._container, self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file or the camera back."""
        self._container.close()

    def frames(self, *, every: int = 1, max_frames: int | None = None) -> Iterator[Frame]:
        """Decodes frame by frame, once.

        Args:
            every: Of so many frames the first is taken, at least 1.
            max_frames: Stop after so many taken frames, at least 1; None for all.

        Raises:
            ConfigError: If a number is below 1.
            ImageError: If the video is damaged, in the end: what can be decoded, before the damage
                and after it, comes first. Lost frames do not count in ``Frame.index``.
        """
        for name, value in (("every", every), ("max_frames", max_frames)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"expected {name} of at least 1, found {value!r}")
        taken = (frame for frame in self._frames(every) if frame is not None)
        return islice(taken, max_frames)

    def _frames(self, every: int) -> Iterator[Frame | None]:
        """Every frame of the source, None for those that are not wanted."""
        start, index = 0.0, -1
        for index, found in enumerate(self._decoded()):
            time_s = self._time(found, index)
            # Some containers begin at an hour that means nothing.
            start = time_s if index == 0 else start
            if index % every:
                yield None
                continue
            with _reading(f"{self.name}, frame {index}"):
                frame = Frame(index, max(time_s - start, 0.0), _upright(found))
            yield frame
        if index < 0:
            raise ImageError(f"{self.name}: expected a video, found no frame in it")

    def _decoded(self) -> Iterator["VideoFrame"]:
        """All frames that can be decoded; then raises ImageError if there was damage."""
        damages: list[ImageError] = []
        count = 0
        for packet in self._packets(damages):
            try:
                with _reading(f"{self.name}, after {count} frames"):
                    frames = self._stream.decode(packet)
            except ImageError as error:
                # The decoder takes the next packet; one error stands for all.
                damages[:] = damages or [error]
                continue
            count += len(frames)
            yield from frames
        if damages:
            raise damages[0]

    def _packets(self, damages: list[ImageError]) -> Iterator["Packet[VideoStream] | None"]:
        """What the file holds, and at its end, expected or not, a sign that there is no more."""
        try:
            with _reading(self.name):
                # Ends with such a sign, an empty packet.
                yield from self._container.demux(self._stream)
        except ImageError as error:
            damages.append(error)
            yield None

    def _time(self, frame: "VideoFrame", index: int) -> float:
        if frame.time is None or self._container.format.name in _TIMELESS_FORMATS:
            return float(index / self.frame_rate)
        return frame.time


def read_frames(
    source: str | os.PathLike[str], *, every: int = 1, max_frames: int | None = None
) -> Iterator[Frame]:
    """The frames of a video, decoded while they are asked for.

    Args:
        source: See :class:`Video`.
        every: Of so many frames the first is taken, at least 1.
        max_frames: Stop after so many taken frames, at least 1; None for all.

    Raises:
        ImageError: If the source cannot be read.
        ConfigError: If a number is below 1.
        MissingDependencyError: If PyAV is not installed.
    """
    with Video(source) as video:
        yield from video.frames(every=every, max_frames=max_frames)


def _video_stream(container: "InputContainer", name: str, max_pixels: int | None) -> "VideoStream":
    if not container.streams.video:
        raise ImageError(f"{name}: expected a video, found no pictures in the file")
    stream = container.streams.video[0]
    # Threads that each decode a frame lose, without a word, what follows damage near the end.
    stream.thread_type = "SLICE"
    if max_pixels is not None:
        # For files that say one size and hold another.
        stream.codec_context.options = {"max_pixels": str(max_pixels)}
        if stream.width * stream.height > max_pixels:
            raise ImageError(
                f"{name}: expected frames of at most {max_pixels} pixels, found "
                f"{stream.width}x{stream.height}"
            )
    return stream


def _frame_count(container: "InputContainer", stream: "VideoStream") -> int | None:
    if stream.frames:
        return stream.frames
    if not container.duration or not stream.average_rate:
        return None
    # The container counts in microseconds.
    return max(1, round(container.duration / 1_000_000 * stream.average_rate))


def _upright(frame: "VideoFrame") -> NDArray[np.uint8]:
    """RGB as a player shows it, with the rotation that a telephone notes beside its frames."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


@contextmanager
def _reading(where: str) -> Iterator[None]:
    av = import_av()
    try:
        yield
    except (av.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{where}: expected a video that can be read, found: {reason}") from error
