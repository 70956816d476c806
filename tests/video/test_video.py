"""Videos made by PyAV alone are read, and what is written is read back by PyAV alone."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from owlkit.errors import ConfigError, ImageError
from owlkit.video import Video, VideoWriter, is_video, read_frames

Picture = NDArray[np.uint8]


def picture(index: int = 0, size: tuple[int, int] = (120, 160)) -> Picture:
    """Four coloured fields and a square that moves."""
    image = np.zeros((*size, 3), dtype=np.uint8)
    image[: size[0] // 2, :, 0] = 200
    image[:, size[1] // 2 :, 1] = 150
    image[20:50, 4 * index : 4 * index + 30] = (20, 40, 230)
    return image


def save_video(path: Path, count: int = 10, rate: Fraction | int = 25, rotation: int = 0) -> Path:
    """A video as a telephone saves it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> tuple[list[Picture], list[float], Fraction | None]:
    """Frames, their times and the frame rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        frames = list(container.decode(stream))
        return (
            [frame.to_ndarray(format="rgb24") for frame in frames],
            [frame.time for frame in frames],
            stream.average_rate,
        )


def assert_alike(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    """Equal but for what compression takes from edges of colours; fields keep their colour."""
    difference = np.abs(found.astype(int) - expected)
    assert found.shape == expected.shape
    assert difference.mean() < 3
    assert np.percentile(difference, 80) <= 2


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi", ".mkv"])
def test_frames_of_common_files(tmp_path: Path, suffix: str) -> None:
    path = save_video(tmp_path / f"a{suffix}", rate=Fraction(30000, 1001))
    frames = list(read_frames(path))
    assert [frame.index for frame in frames] == list(range(10))
    times = [frame.time_s for frame in frames]
    assert times == pytest.approx([index * 1001 / 30000 for index in range(10)], abs=1.1e-3)
    for frame in frames:
        assert_alike(frame.image, picture(frame.index))
    with Video(path) as video:
        assert float(video.frame_rate) == pytest.approx(30000 / 1001, rel=1e-3)
        assert video.frame_count == pytest.approx(10, abs=1)
        assert not video.live


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_frames_are_upright(tmp_path: Path, degrees: int) -> None:
    path = save_video(tmp_path / "a.mp4", count=1, rotation=degrees)
    assert_alike(next(read_frames(path)).image, np.rot90(picture(), degrees // 90))


def test_some_of_the_frames(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.mp4")
    frames = list(read_frames(path, every=4))
    assert [(frame.index, frame.time_s) for frame in frames] == [(0, 0), (4, 0.16), (8, 0.32)]
    assert [frame.index for frame in read_frames(path, every=3, max_frames=2)] == [0, 3]
    for wrong in ({"every": 0}, {"max_frames": 0}, {"every": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            list(read_frames(path, **wrong))


@pytest.mark.parametrize("lost", [[5], [11], [3, 8]])
def test_frames_that_can_be_decoded_come_before_the_error(tmp_path: Path, lost: list[int]) -> None:
    path = save_video(tmp_path / "a.mp4", count=12)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in lost:
        start, size = packets[number].pos, packets[number].size
        assert start is not None
        data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    times = []
    with pytest.raises(ImageError, match=r"a\.mp4, after \d+ frames: expected"):  # noqa: PT012
        for frame in read_frames(path):
            times.append(round(frame.time_s / 0.04))
    assert len(times) == 12 - len(lost)
    assert set(times) < set(range(12))
    assert times == sorted(times)


def test_damage_anywhere_gives_frames_or_an_error(tmp_path: Path) -> None:
    whole = save_video(tmp_path / "whole.mp4").read_bytes()
    path, random = tmp_path / "damaged.mp4", np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(random.integers(1, 30)):
            data[random.integers(len(data))] = random.integers(256)
        path.write_bytes(data[: random.integers(1, len(data))] if random.random() < 0.2 else data)
        count = 0
        try:
            for frame in read_frames(path):
                assert frame.image.shape[2] == 3
                count += 1
        except ImageError:
            outcomes.add("some" if count else "none")
        else:
            outcomes.add("all")
    assert outcomes == {"all", "some", "none"}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello\n" * 1000, id="text"),
        pytest.param(b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n", id="playlist of a server"),
        pytest.param(None, id="no file"),
    ],
)
def test_what_is_no_video(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "a.mp4"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ImageError, match="expected a video"):
        next(read_frames(path))


def test_a_playlist_shows_no_other_file(tmp_path: Path) -> None:
    private, path = save_video(tmp_path / "private.ts"), tmp_path / "a.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{private}\n#EXT-X-ENDLIST\n")
    with pytest.raises(ImageError, match="expected a video"):
        next(read_frames(path))


def test_frames_that_are_too_large(tmp_path: Path) -> None:
    small = save_video(tmp_path / "small.h264")
    with pytest.raises(ImageError, match=r"at most 19199 pixels, found 160x120"):
        Video(small, max_pixels=160 * 120 - 1)
    # A raw stream may go on with larger frames than it began with.
    large = tmp_path / "large.h264"
    with VideoWriter(tmp_path / "large.mp4") as writer:
        writer.write(picture(size=(240, 320)))
    with av.open(str(tmp_path / "large.mp4")) as source, av.open(str(large), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with Video(both, max_pixels=160 * 120) as video, pytest.raises(ImageError, match="both"):
        list(video.frames())
    assert [frame.image.shape for frame in read_frames(both)][-1] == (240, 320, 3)


def test_a_sound_file_has_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        samples = np.zeros((1, 800), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ImageError, match="found no pictures"):
        next(read_frames(path))


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(ImageError, match="camera 987"):
        Video("987")


@pytest.mark.parametrize("size", [(120, 160), (121, 161), (1, 1), (37, 2)])
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(24000, 1001), 12.5, 60])
def test_written_frames_are_read_back(
    tmp_path: Path, size: tuple[int, int], rate: Fraction | float
) -> None:
    with VideoWriter(tmp_path / "a.mp4", rate, quality=10) as writer:
        for index in range(5):
            writer.write(picture(index, size))
        assert not (tmp_path / "a.mp4").exists(), "only when it is complete"
    images, times, average = decoded(tmp_path / "a.mp4")
    assert average == Fraction(rate)
    assert times == pytest.approx([index / float(rate) for index in range(5)], abs=1e-4)
    assert [image.shape[:2] for image in images] == [tuple(side + side % 2 for side in size)] * 5
    if min(size) > 100:
        for index, image in enumerate(images):
            assert_alike(image[: size[0], : size[1]], picture(index, size))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 0.0401, 0.2, 0.9], [0, 0.0401, 0.2, 0.9]),
        ([0, 0, 0.1, 0.05], [0, 1e-4, 0.1, 0.1001]),
    ],
)
def test_frames_may_come_irregularly(
    tmp_path: Path, times: Sequence[float], expected: Sequence[float]
) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        for index, time_s in enumerate(times):
            writer.write(picture(index), time_s)
    assert decoded(tmp_path / "a.mp4")[1] == pytest.approx(expected, abs=1e-4)


def test_a_video_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4") as writer:  # noqa: PT012
        writer.write(picture())
        raise RuntimeError
    with VideoWriter(tmp_path / "b.mp4"):
        pass
    with pytest.raises(ImageError, match="frames of"), VideoWriter(tmp_path / "c.mp4") as writer:  # noqa: PT012
        writer.write(picture())
        writer.write(picture(size=(60, 60)))
    with pytest.raises(ImageError, match="uint8"), VideoWriter(tmp_path / "c.mp4") as writer:
        writer.write(picture().astype(np.float32))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"before"


def test_words_that_mean_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").mkdir()
    videos = ("a.MP4", "b/c.mov", "0", "12", "rtsp://host/live", "https://host/a.webm?token=x.jpg")
    others = ("a.jpg", "7", "https://host/a.jpg?video=b.mp4", "https://host/0", "a.gif", "mp4", "²")
    assert [is_video(word) for word in (*videos, *others)] == [True] * 6 + [False] * 7
