"""`owlkit detect` on videos, folders of them, and cameras."""

import json
import sys
from pathlib import Path
from typing import Any
from weakref import WeakSet

import av
import numpy as np
import pytest
from PIL import Image

from owlkit import Predictor
from owlkit.cli import main, stream
from owlkit.detections import Detections
from owlkit.video import Frame, Video, sources
from tests.video.test_video import decoded, save_video

THRESHOLD = 0.35  # of which the small random model exceeds some in every frame


class DetectCommand:
    """`owlkit detect` with a small model, and what it wrote."""

    def __init__(self, model: Path, out: Path) -> None:
        self.model, self.out = model, out

    def __call__(self, *words: str | Path) -> int:
        options = ["--queries", "a dog, a red mug", "--model", self.model, "--out", self.out]
        options += ["--threshold", THRESHOLD, "--device", "cpu"]
        return main(["detect", *map(str, words), *map(str, options)])

    def lines(self, name: str = "a") -> list[dict[str, Any]]:
        """The frames of a file of lines."""
        text = (self.out / f"{name}.jsonl").read_text()
        assert text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]

    @property
    def files(self) -> list[str]:
        """Everything in the folder of the results."""
        return sorted(path.name for path in self.out.iterdir())


@pytest.fixture
def detect(owlv2_folder: Path, tmp_path: Path) -> DetectCommand:
    return DetectCommand(owlv2_folder, tmp_path / "out")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save_video(tmp_path / "a.mp4", count=12)


def test_an_annotated_video_and_a_line_a_frame(
    detect: DetectCommand, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect(clip) == 0
    predictor = Predictor.from_pretrained(detect.model, device="cpu")
    frames, times, rate = decoded(clip)
    expected = [
        found.to_list()
        for found in predictor.detect(
            tuple(frames), ["a dog", "a red mug"], threshold=THRESHOLD, nms_iou=0.5, top_k=300
        )
    ]
    assert [line["detections"] for line in detect.lines()] == expected
    assert sum(map(len, expected)) > 0
    assert [line["frame"] for line in detect.lines()] == list(range(12))
    assert [line["time_s"] for line in detect.lines()] == pytest.approx(times)
    drawn, drawn_times, drawn_rate = decoded(detect.out / "a.mp4")
    assert (drawn_times, drawn_rate) == (pytest.approx(times), rate)
    assert all(
        np.abs(one.astype(int) - plain).max() > 50 for one, plain in zip(drawn, frames, strict=True)
    )
    captured = capsys.readouterr()
    assert "12 frames" in captured.out
    assert "1 videos, 0 skipped" in captured.out
    assert captured.err == "", "no bar where there is no terminal"
    assert detect.files == ["a.jsonl", "a.mp4"]


def test_some_frames_of_a_rotated_video(detect: DetectCommand, tmp_path: Path) -> None:
    clip = save_video(tmp_path / "a.mov", count=12, rotation=90)
    assert detect(clip, "--every", "3", "--max-frames", "3") == 0
    assert [line["frame"] for line in detect.lines()] == [0, 3, 6]
    frames, times, rate = decoded(detect.out / "a.mp4")
    assert [frame.shape for frame in frames] == [(160, 120, 3)] * 3
    assert times == pytest.approx([0, 0.12, 0.24])
    assert float(rate or 0) == pytest.approx(25 / 3)


def test_objects_are_numbered(detect: DetectCommand, clip: Path) -> None:
    pytest.importorskip("trackers", reason="pip install 'owlkit[track]'")
    assert detect(clip, "--track") == 0
    lines = detect.lines()
    assert {box["track_id"] for box in lines[0]["detections"]} == {None}
    numbers = [{box["track_id"] for box in line["detections"]} - {None} for line in lines[2:]]
    assert all(numbers)
    assert min(set.union(*numbers)) == 1
    assert set.intersection(*numbers), "what stays in its place keeps its number"


def test_images_and_videos_of_a_folder(detect: DetectCommand, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    (folder / "more").mkdir(parents=True)
    save_video(folder / "a.mp4", count=2)
    save_video(folder / "more" / "A.mkv", count=1)
    Image.new("RGB", (64, 48), "red").save(folder / "photo.png")
    detect.out = folder / "found"
    for _ in range(2):
        assert detect(folder, folder / "a.mp4") == 0
        assert detect.files == [
            "A-2.jsonl",
            "A-2.mp4",
            "a.jsonl",
            "a.mp4",
            "detections.json",
            "photo.jpg",
        ]
    assert list(json.loads((detect.out / "detections.json").read_bytes())) == [
        str(folder / "photo.png")
    ]


def test_what_is_no_video_is_reported_and_the_others_go_on(
    detect: DetectCommand, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    assert detect(tmp_path / "text.mp4", tmp_path / "none.mov", "987", clip) == 1
    captured = capsys.readouterr()
    assert captured.err.count("skipped") == 3
    assert "text.mp4" in captured.err
    assert "1 videos, 3 skipped" in captured.out
    assert detect.files == ["a.jsonl", "a.mp4"], "nothing half-written"


def test_of_a_damaged_video_the_good_frames_are_kept(
    detect: DetectCommand, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(clip.read_bytes())
    for packet in packets[5:7]:
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    clip.write_bytes(data)
    assert detect(clip) == 1
    assert "expected a video that can be read" in capsys.readouterr().err
    assert len(detect.lines()) == 10, "before the damage and after it"
    assert len(decoded(detect.out / "a.mp4")[0]) == 10


def interrupt_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """A Ctrl-C during a later call of the model, each of which takes four frames."""
    answer, count = Predictor.detect, iter(range(calls))

    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        if next(count, None) is None:
            raise KeyboardInterrupt
        return answer(*arguments, **keywords)

    monkeypatch.setattr(Predictor, "detect", interrupted)


def test_an_interrupt_leaves_a_video_and_its_lines(
    detect: DetectCommand, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, calls=2)
    assert detect(clip, "--batch-size", "4") == 130
    assert len(detect.lines()) == 8
    assert len(decoded(detect.out / "a.mp4")[0]) == 8
    assert detect.files == ["a.jsonl", "a.mp4"]


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch, clip: Path) -> str:
    """A number under which the system has a camera that shows the clip."""
    monkeypatch.setitem(sources._CAMERAS, sys.platform, ("mov", str(clip)))
    return "3"


def test_a_camera(detect: DetectCommand, camera: str) -> None:
    assert detect(camera, "--max-frames", "2") == 0
    assert detect.files == ["camera-3.jsonl", "camera-3.mp4"]
    assert len(detect.lines("camera-3")) == 2


def test_a_camera_ends_by_an_interrupt(
    detect: DetectCommand,
    camera: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupt_after(monkeypatch, calls=3)
    assert detect(camera, "--batch-size", "4") == 0
    assert len(detect.lines("camera-3")) == 3, "frames of a camera do not wait for one another"
    assert "3 frames" in capsys.readouterr().out


def test_lines_that_cannot_be_written_say_why(
    detect: DetectCommand,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened = Path.open

    def refused(path: Path, mode: str = "r", *rest: Any, **keywords: Any) -> Any:
        if path.suffix == ".jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *rest, **keywords)

    monkeypatch.setattr(Path, "open", refused)
    assert detect(clip) == 1
    assert "Permission denied" in capsys.readouterr().err, "not what cleaning up ran into"
    assert detect.files == []


def test_a_video_never_replaces_its_source(
    detect: DetectCommand, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = clip.read_bytes()
    detect.out = clip.parent
    assert detect(clip) == 1
    assert "choose another folder" in capsys.readouterr().err
    assert clip.read_bytes() == content


def test_frames_do_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_video(tmp_path / "a.mp4", count=1)
    alive: WeakSet[Frame] = WeakSet()
    most = 0

    def frames(*_: object, **__: object) -> Any:
        nonlocal most
        for index in range(100):
            frame = Frame(index, index / 25, np.zeros((48, 64, 3), dtype=np.uint8))
            alive.add(frame)
            most = max(most, len(alive))
            yield frame

    monkeypatch.setattr(Video, "frames", frames)
    targets = tmp_path / "b.mp4", tmp_path / "b.jsonl"
    stream.detect_in_video(
        str(tmp_path / "a.mp4"),
        targets,
        detect=lambda images: [Detections.empty() for _ in images],
        draw=lambda image, _: Image.fromarray(image),
        options=stream.StreamOptions(batch_size=4),
    )
    with av.open(str(targets[0])) as container:
        assert container.streams.video[0].frames == 100
    assert most <= 9, "the batch at work, and the one before"
