"""The tab *Video* in a browser, and what becomes of clips that are no good."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owlkit.errors import ImageError
from owlkit.predictor import Predictor
from owlkit.queries import QuerySet
from owlkit.tracking import Tracker
from owlkit.video import VideoWriter, read_frames
from tests.demo.driving import message

FRAMES, EVERY = 12, 3
WORDS = ["cat", "red mug"]


@pytest.fixture(scope="module")
def clip(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera that moves over a photograph."""
    photo = np.asarray(Image.open(data_dir / "samples" / "dog.jpg").convert("RGB"))
    path = tmp_path_factory.mktemp("clip") / "dog.mp4"
    with VideoWriter(path, 12) as writer:
        for index in range(FRAMES):
            writer.write(photo[2 * index : 2 * index + 240, 4 * index : 4 * index + 320])
    return path


def expected(predictor: Predictor, clip: Path, threshold: float) -> list[Any]:
    """Detections in the frames that are looked at, with numbers of objects."""
    frames = [frame.image for frame in read_frames(clip, every=EVERY)]
    tracker = Tracker(12 / EVERY)
    return [
        tracker.update(found)
        for found in predictor.detect(
            tuple(frames), WORDS, threshold=threshold, nms_iou=0.5, top_k=100
        )
    ]


def counts(shown: list[Any], name: str) -> list[str]:
    """The row of the table: boxes, frames and objects of a class."""
    mine = [found.track_ids[np.array(found.names) == name] for found in shown]
    tracks = np.concatenate(mine)
    objects = np.unique(tracks[tracks >= 0])
    return [name, str(len(tracks)), str(sum(map(bool, map(len, mine)))), str(len(objects))]


def test_a_clip_comes_back_with_boxes_and_counts(
    page: Any, predictor: Predictor, clip: Path
) -> None:
    page.get_by_role("tab", name="Video").click()
    page.locator("#video-clip input[type=file]").set_input_files(clip)
    page.locator("#video-clip video").wait_for()
    page.locator("#video-words textarea").fill(", ".join(WORDS))
    page.locator("#video-find").click()
    page.get_by_text("frames a second").wait_for()
    shown = expected(predictor, clip, 0.1)
    count = sum(len(found) for found in shown)
    assert count > 0
    assert f"{count} boxes in {len(shown)} frames" in page.locator("#video-summary").inner_text()
    cells = page.locator("#video-table [data-testid^='cell-']")
    assert cells.all_inner_texts() == [text for name in WORDS for text in counts(shown, name)]
    # Chromium has decoded a frame of it.
    video = page.locator("#video-view video")
    page.wait_for_function("document.querySelector('#video-view video').readyState >= 2")
    assert video.evaluate("one => [one.videoWidth, one.videoHeight]") == [320, 240]
    assert video.evaluate("one => one.duration") == pytest.approx(FRAMES / 12, abs=0.1)
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON lines").click()
    assert download.value.suggested_filename == "dog.jsonl"
    lines = Path(download.value.path()).read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [*range(0, FRAMES, EVERY)]
    for line, found in zip(lines, shown, strict=True):
        entries = json.loads(line)["detections"]
        for entry in entries:
            del entry["track_id"]
        assert entries == found.to_list()


def look(desk: Any, path: Path, *, every: int = 1, track: bool = False) -> Any:
    from page.clips import detect_in_clip

    return detect_in_clip(
        desk,
        str(path),
        QuerySet.from_text(WORDS),
        every=every,
        track=track,
        show=lambda done, total: None,
        threshold=0.1,
    )


@pytest.fixture
def desk(app: Any, tmp_path: Path) -> Any:
    """A desk with room for eight frames of a clip."""
    from page.desk import Desk
    from page.limits import Limits

    folder = tmp_path / "desk"
    folder.mkdir()
    return Desk(app.desk.model, Limits(frames=8, frame_pixels=320 * 240), folder)


def test_objects_are_counted_if_they_are_tracked(desk: Any, clip: Path) -> None:
    plain, tracked = look(desk, clip, every=2), look(desk, clip, every=2, track=True)
    assert [row[:3] for row in plain.counts] == [row[:3] for row in tracked.counts]
    assert [row[3] for row in plain.counts] == [None, None]
    assert all(0 < row[3] <= row[1] for row in tracked.counts)
    assert (plain.frames, plain.counts[0][0]) == (6, "cat")


def test_clips_that_are_no_good_get_a_message_and_leave_nothing(
    desk: Any, clip: Path, tmp_path: Path
) -> None:
    whole = clip.read_bytes()
    files = {
        "note.mp4": b"hello " * 1000,
        "empty.mp4": b"",
        "cut.mp4": whole[: len(whole) // 2],
        "hole.mp4": whole[:3000] + bytes(2000) + whole[5000:],
        "list.m3u8": f"#EXTM3U\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n".encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=rf"^{name}.*: expected a video") as caught:
            look(desk, tmp_path / name, every=2)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ImageError, match=r"at most 8 frames to look at, found about 12; .* in 2,"):
        look(desk, clip)
    large = tmp_path / "large.mp4"
    with VideoWriter(large) as writer:
        writer.write(np.zeros((242, 320, 3), dtype=np.uint8))
    with pytest.raises(ImageError, match=r"^large\.mp4: .* at most 76800 pixels, found 320x242"):
        look(desk, large)
    assert list(desk.folder.iterdir()) == []


def test_a_clip_without_a_length_ends_in_time(
    desk: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("owlkit.video.reading._frame_count", lambda *_: None)
    assert look(desk, clip).frames == 8


def test_no_clip_is_a_message(page: Any) -> None:
    page.get_by_role("tab", name="Video").click()
    page.locator("#video-find").click()
    assert "choose a video first" in message(page)
    page.get_by_role("button", name="JSON lines").click()
    page.get_by_text("look for something in a video first").wait_for()
