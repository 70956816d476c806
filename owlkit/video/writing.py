"""H.264 files that every player and browser shows."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import ConfigError, ImageError
from owlkit.video.libraries import import_av
from owlkit.whole_file import written_whole

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

# A frame's time is kept to a tenth of a millisecond, also where frames come irregularly.
_LEAST_TICKS = 10_000
# ITU-T H.264, tables E-3 to E-5: BT.709 and the narrow range, what players expect without a word.
_BT709, _NARROW_RANGE = 1, 1


class VideoWriter:
    """Writes an mp4 file (H.264, yuv420p) that every player and browser shows.

    A context manager: the file appears when it ends, and not at all if it ends by an exception or
    no frame came. An odd width or height, which this form of H.264 does not have, gets one more
    line of pixels, equal to its neighbour.

    Args:
        path: The file to write.
        frame_rate: Frames a second, for frames that come without their time.
        quality: Constant rate factor of x264 (https://trac.ffmpeg.org/wiki/Encode/H.264), from 0
            (lossless) to 51; lower is better and larger.

    Raises:
        ConfigError: If a number is out of its range.
        MissingDependencyError: If PyAV is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        frame_rate: Fraction | float = 30,
        *,
        quality: int = 23,
    ) -> None:
        if not 0 < frame_rate < float("inf"):
            raise ConfigError(f"expected a frame_rate above 0, found {frame_rate!r}")
        if not 0 <= quality <= 51:
            raise ConfigError(f"expected a quality in [0, 51], found {quality!r}")
        self._av = import_av()
        self.path = Path(path)
        self.frame_rate = Fraction(frame_rate).limit_denominator(1001)
        self.frame_count = 0
        self._quality = quality
        ticks = self.frame_rate.numerator
        self._time_base = Fraction(1, ticks * -(-_LEAST_TICKS // ticks))
        self._last_tick = -1
        self._size: tuple[int, ...] = ()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        # Filled when the first frame tells the size.
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.__exit__(kind, error, trace)

    def write(self, image: NDArray[np.uint8], time_s: float | None = None) -> None:
        """Appends a frame.

        Args:
            image: RGB, uint8 [h, w, 3]; all of one size.
            time_s: When it is shown, in seconds since the first frame; None for the next moment of
                the frame rate. One that does not lie after the frame before is moved behind it.

        Raises:
            ImageError: If the image is none or of another size, or the file cannot be written.
        """
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError(
                f"expected a frame of uint8 [h, w, 3], found {image.dtype} {list(image.shape)}"
            )
        if image.shape[:2] != (self._size or image.shape[:2]):
            raise ImageError(
                f"{self.path}: expected frames of {self._size} (height, width), found "
                f"{image.shape[:2]} at frame {self.frame_count}"
            )
        height, width = self._size = image.shape[:2]
        even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        with _writing(self.path):
            if self._stream is None:
                self._open(even.shape[0], even.shape[1])
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range=_NARROW_RANGE
            )
            frame.pts, frame.time_base = self._tick(time_s), self._time_base
            self._encode(frame)
        self.frame_count += 1

    def _tick(self, time_s: float | None) -> int:
        time = self.frame_count / self.frame_rate if time_s is None else time_s
        self._last_tick = max(round(time / self._time_base), self._last_tick + 1)
        return self._last_tick

    def _open(self, height: int, width: int) -> None:
        scratch = self._exits.enter_context(written_whole(self.path))
        # The scratch file's name does not tell the format.
        container = self._container = self._av.open(str(scratch), "w", format="mp4")
        self._exits.push(self._end)
        stream = self._stream = container.add_stream(
            "libx264", rate=self.frame_rate, options={"crf": str(self._quality)}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _NARROW_RANGE

    def _end(self, _: object, error: BaseException | None, __: object) -> None:
        """Writes what the encoder still holds, unless an exception makes the file worthless."""
        assert self._container is not None
        try:
            if error is None:
                with _writing(self.path):
                    self._encode(None)
                    self._container.close()
        finally:
            # After an error it may be unable to end what it began.
            with suppress(self._av.FFmpegError):
                self._container.close()

    def _encode(self, frame: "VideoFrame | None") -> None:
        assert self._container is not None
        assert self._stream is not None
        self._container.mux(self._stream.encode(frame))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    av = import_av()
    try:
        yield
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: expected to write an H.264 video, found: {reason}") from error
