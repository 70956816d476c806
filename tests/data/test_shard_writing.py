"""What is written is what there was, once, or nothing at all."""

import json
import tarfile
from pathlib import Path

import pytest

from owlkit.data.captions import CaptionedImage, read_captioned_images
from owlkit.data.shard_reading import Sample, decode_image, read_shard
from owlkit.data.shard_writing import write_shards
from owlkit.errors import DatasetError
from tests.data.test_pairs import save_picture


def make_images(folder: Path, count: int) -> list[CaptionedImage]:
    """Picture i is 2 i red; every third one has two captions."""
    folder.mkdir(exist_ok=True)
    images = []
    for number in range(count):
        path = folder / f"{number}.{'PNG' if number % 2 else 'webp'}"
        save_picture(path, red=2 * number)
        captions = (f"number {number}",) if number % 3 else (f"number {number}", f"Nr. {number} ü")
        images.append(CaptionedImage(path, captions, None))
    return images


def test_bytes_and_captions_come_back_once(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 11)
    written = write_shards(images, tmp_path / "new" / "out", per_shard=4)
    sizes = {"shard-000000.tar": 4, "shard-000001.tar": 4, "shard-000002.tar": 3}
    assert written.sizes == sizes
    assert written.left_out == ()
    out = tmp_path / "new" / "out"
    assert json.loads((out / "sizes.json").read_text()) == sizes
    assert sorted(path.name for path in out.iterdir()) == [*sizes, "sizes.json"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out"]
    samples = []
    for name, size in sizes.items():
        found = list(read_shard(str(out / name)))
        assert len(found) == size
        samples += found
    wanted = {image.path.read_bytes(): image.captions for image in images}
    assert all(isinstance(sample, Sample) for sample in samples)
    assert {sample.image: sample.texts for sample in samples} == wanted
    assert [sample.image for sample in samples] != list(wanted), "shuffled"
    with tarfile.open(out / "shard-000000.tar") as archive:
        assert archive.getnames()[0].split(".")[0] == "000000000"


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 7)

    def content(name: str, seed: int) -> list[bytes]:
        write_shards(images, tmp_path / name, per_shard=5, seed=seed)
        return [path.read_bytes() for path in sorted((tmp_path / name).glob("*.tar"))]

    first = content("a", 1)
    assert content("b", 1) == first
    assert content("c", 2) != first


def test_unreadable_images_are_refused_or_left_out(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 5)
    images[2].path.write_bytes(b"no picture")
    bitmap = images[3].path.with_suffix(".bmp")
    images[3].path.rename(bitmap)
    images[3] = CaptionedImage(bitmap, ("a",), None)
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match=r"found 2 of 5 that cannot; nothing was written:"):
        write_shards(images, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
    out.mkdir()
    written = write_shards(images, out, skip_unreadable=True)
    assert written.sizes == {"shard-000000.tar": 3}
    assert len(list(read_shard(str(out / "shard-000000.tar")))) == 3
    reasons = "\n".join(written.left_out)
    assert str(images[2].path) in reasons
    assert f"{bitmap}: expected .jpg, .jpeg, .png, .webp, found '.bmp'" in reasons


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 2)
    with pytest.raises(DatasetError, match="expected a folder to make, found something there"):
        write_shards(images, tmp_path / "images")
    with pytest.raises(DatasetError, match="found 0 images and 1000"):
        write_shards([], tmp_path / "out")
    with pytest.raises(DatasetError, match="found 2 images and 0"):
        write_shards(images, tmp_path / "out", per_shard=0)


def test_real_photographs(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "captions"
    images = read_captioned_images(folder / "captions.jsonl", folder, split="val")[:12]
    write_shards(images, tmp_path / "out", per_shard=8)
    samples = [
        s for shard in sorted((tmp_path / "out").glob("*.tar")) for s in read_shard(str(shard))
    ]
    assert {s.image: s.texts for s in samples} == {
        image.path.read_bytes(): tuple(text.strip() for text in image.captions) for image in images
    }
    assert {decode_image(sample).shape for sample in samples} == {(224, 224, 3)}


@pytest.mark.parametrize("kind", ["folder", "link", "here"])
def test_a_folder_that_cannot_be_replaced_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    images = make_images(tmp_path / "images", 3)
    out = tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    given = out
    if kind == "link":
        given = tmp_path / "link"
        given.symlink_to(out, target_is_directory=True)
    elif kind == "here":
        monkeypatch.chdir(out)
        given = Path()
    written = write_shards(images, given, per_shard=2)
    assert sorted(path.name for path in out.iterdir()) == [*written.sizes, "sizes.json"]
    assert out.stat().st_ino == before, "as a mount point must stay"
    images[0].path.write_bytes(b"no picture")
    (tmp_path / "other").mkdir()
    with pytest.raises(DatasetError, match="nothing was written"):
        write_shards(images, tmp_path / "other")
    assert not any((tmp_path / "other").iterdir())
