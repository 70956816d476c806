"""Jobs that are interrupted, shared between processes, and damaged."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from owlkit.annotation import AnnotationJob, Shard
from owlkit.annotation import job as job_module
from owlkit.detections import Detections
from owlkit.errors import ConfigError, DatasetError
from owlkit.labels import coco_files

SETTINGS = {"classes": ["cat", "dog"], "threshold": 0.1, "model": "abc"}
BROKEN = "broken.jpg"


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Eleven images, one of them unreadable, in ascending order of their names."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        noise = np.random.default_rng(number).integers(0, 256, (20, 30 + number, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    (folder / BROKEN).write_bytes(b"no image")
    return {path.name: path for path in sorted(folder.iterdir())}


def detect(pictures: list[NDArray[np.uint8]]) -> list[Detections]:
    """Boxes that depend on the whole batch, as those of a real model do in their last bits."""
    batch = int(sum(int(picture.sum()) for picture in pictures))
    found = []
    for place, picture in enumerate(pictures):
        generator = np.random.default_rng([batch, place])
        count = int(generator.integers(0, 5))
        corners = np.sort(generator.random((count, 2, 2)), axis=1).reshape(count, 4) * 20
        found.append(
            Detections(
                boxes=corners,
                scores=generator.random(count),
                labels=(labels := generator.integers(0, 2, count)),
                names=tuple(SETTINGS["classes"][label] for label in labels),  # type: ignore[index]
                image_size=picture.shape[:2],
            )
        )
    return found


def label(
    job: AnnotationJob,
    images: dict[str, Path],
    shard: Shard = Shard(),  # noqa: B008
    *,
    batch_size: int = 3,
    most: int | None = None,
) -> list[str]:
    """Labels, up to an interrupt after ``most`` images."""
    done = []
    groups = job.groups(images, shard, batch_size)
    lines: Iterator[str] = job.label(groups, detect, shard)
    for name in lines:
        done.append(name)
        if len(done) == most:
            break
    lines.close()  # type: ignore[attr-defined]
    return done


def text_of(job: AnnotationJob, images: dict[str, Path]) -> str:
    results = job.results(images)
    ((_, pieces),) = coco_files(results, results.classes)
    return "".join(pieces)


@pytest.fixture
def expected(images: dict[str, Path], tmp_path: Path) -> str:
    job = AnnotationJob(tmp_path / "at once", SETTINGS)
    assert label(job, images) == list(images)
    assert job.results(images).unreadable.keys() == {BROKEN}
    text = text_of(job, images)
    assert len(json.loads(text)["images"]) == 10
    assert len(json.loads(text)["annotations"]) > 10
    return text


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shards_and_interruptions_change_nothing(
    images: dict[str, Path], tmp_path: Path, expected: str, count: int
) -> None:
    folder = tmp_path / "in parts"
    done: list[str] = []
    for _ in range(len(images)):
        for number in range(1, count + 1):
            job = AnnotationJob(folder, SETTINGS)
            done += label(job, images, Shard(number, count), most=1)
    assert sorted(done) == sorted(images), "each image once"
    assert text_of(AnnotationJob(folder, {}, begin=False), images) == expected


def test_a_job_goes_on_with_another_number_of_processes(
    images: dict[str, Path], tmp_path: Path, expected: str
) -> None:
    job = AnnotationJob(tmp_path / "job", SETTINGS)
    first = label(job, images, most=4)
    rest = [name for number in (2, 1) for name in label(job, images, Shard(number, 2))]
    assert sorted(first + rest) == sorted(images)
    assert text_of(job, images) == expected


@pytest.mark.parametrize("block", [7, 1 << 16])
def test_a_half_written_line_is_dropped(
    images: dict[str, Path],
    tmp_path: Path,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
) -> None:
    monkeypatch.setattr(job_module, "_BLOCK_BYTES", block)
    job = AnnotationJob(tmp_path / "job", SETTINGS)
    label(job, images)
    file = job.folder / "shard-01-of-01.jsonl"
    whole = file.read_bytes()
    for end in range(0, len(whole), 37):
        file.write_bytes(whole[:end])
        label(job, images)
        assert file.read_bytes().startswith(whole[: whole.rfind(b"\n", 0, end) + 1])
        assert text_of(job, images) == expected


def test_a_damaged_line_is_named(images: dict[str, Path], tmp_path: Path) -> None:
    job = AnnotationJob(tmp_path / "job", SETTINGS)
    label(job, images)
    file = job.folder / "shard-01-of-01.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    for bad in (b"\n", b"nonsense\n", b"[]\n", b'{"image": [], "stamp": 1}\n', b'{"image": "x"}\n'):
        file.write_bytes(b"".join([*lines[:3], bad, *lines[3:]]))
        with pytest.raises(DatasetError, match=r"shard-01-of-01\.jsonl: .* damaged line at byte"):
            job.results(images)
    changed = json.loads(lines[1]) | {"labels": [7], "boxes": [[0, 0, 1, 1]], "scores": [0.5]}
    file.write_bytes(b"".join([*lines, json.dumps(changed).encode() + b"\n"]))
    with pytest.raises(DatasetError, match="damaged line"):
        list(job.results(images))


def test_other_settings_are_refused_by_name(images: dict[str, Path], tmp_path: Path) -> None:
    job = AnnotationJob(tmp_path / "job", SETTINGS)
    label(job, images, most=2)
    with pytest.raises(ConfigError, match=r"begun with threshold 0\.1, now 0\.2"):
        AnnotationJob(job.folder, {**SETTINGS, "threshold": 0.2})
    with pytest.raises(ConfigError, match=r"begun with mode None, now 1"):
        AnnotationJob(job.folder, {"mode": 1}, begin=False)
    with pytest.raises(ConfigError, match="a job that has begun, found none"):
        AnnotationJob(tmp_path / "nowhere", SETTINGS, begin=False)
    other = AnnotationJob(tmp_path / "other", {**SETTINGS, "threshold": 0.2})
    label(other, images, Shard(2, 2))
    (other.folder / "shard-02-of-02.jsonl").rename(job.folder / "shard-02-of-02.jsonl")
    with pytest.raises(DatasetError, match="found that of a job with other settings"):
        job.missing(images)


def test_a_changed_image_is_done_again(images: dict[str, Path], tmp_path: Path) -> None:
    job = AnnotationJob(tmp_path / "job", SETTINGS)
    label(job, images, batch_size=1)
    Image.new("RGB", (50, 60)).save(images["3.png"])
    os.utime(images["4.png"], ns=(1, 1))
    assert job.missing(images) == ["3.png", "4.png"]
    with pytest.raises(DatasetError, match=r"found none of 2: 3\.png, 4\.png"):
        job.results(images)
    assert label(job, images, batch_size=1) == ["3.png", "4.png"]
    sizes = {image.file_name: (image.height, image.width) for image in job.results(images)}
    assert sizes["3.png"] == (60, 50)
    del images["5.png"]
    assert "5.png" not in {image.file_name for image in job.results(images)}


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3", "²/3"])
def test_a_shard_is_two_numbers(text: str) -> None:
    assert Shard.parse("2/8") == Shard(2, 8)
    with pytest.raises(ConfigError, match="expected a shard"):
        Shard.parse(text)
