"""An index of a folder: complete, up to date, of one model only."""

import os
from pathlib import Path

import pytest
import torch

from owlkit import DualEncoder
from owlkit.errors import DatasetError
from owlkit.evaluation.feature_cache import write_tensors
from owlkit.evaluation.features import Encoder, ImageFiles
from owlkit.evaluation.image_index import ImageIndex, IndexChanges, read_index, update_index
from owlkit.geometry import Preprocessing
from owlkit.images import load_image
from tests.evaluation.small_encoder import make_dual_encoder, make_pictures
from tests.evaluation.test_features import Calls


@pytest.fixture
def model(tokenizer_folder: Path) -> DualEncoder:
    return make_dual_encoder(tokenizer_folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "images", 3)
    make_pictures(tmp_path / "images" / "more", 3, seed=10)
    return tmp_path / "images"


def update(model: DualEncoder, folder: Path, file: Path | None) -> tuple[ImageIndex, IndexChanges]:
    return update_index(Encoder(model), folder, folder.rglob("*.png"), file)


def test_a_new_index_holds_the_vectors_of_all_images(
    model: DualEncoder, folder: Path, tmp_path: Path
) -> None:
    index, changes = update(model, folder, tmp_path / "index")
    names = ("0.png", "1.png", "2.png", "more/0.png", "more/1.png", "more/2.png")
    assert index.paths == names
    expected = Encoder(model).images(ImageFiles(tuple(folder / name for name in names)))
    assert torch.equal(index.features, expected.features)
    assert changes == IndexChanges(kept=0, encoded=6, dropped=0, unreadable=())


def test_only_what_changed_is_encoded(model: DualEncoder, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "index"
    before, _ = update(model, folder, file)
    calls, stamp = Calls(model.vision), file.stat().st_mtime_ns
    same, changes = update(model, folder, file)
    assert (calls.rows, changes.kept, changes.encoded) == ([], 6, 0)
    assert torch.equal(same.features, before.features)
    assert file.stat().st_mtime_ns == stamp, "nothing to write"
    (folder / "1.png").unlink()
    (folder / "a new one.png").write_bytes((folder / "0.png").read_bytes())
    make_pictures(folder / "more", 1, seed=20)
    os.utime(folder / "more" / "0.png", ns=(1, 1))
    index, changes = update(model, folder, file)
    assert changes == IndexChanges(kept=4, encoded=2, dropped=1, unreadable=())
    assert calls.rows == [2]
    fresh, _ = update(model, folder, None)
    assert index.paths == fresh.paths
    torch.testing.assert_close(index.features, fresh.features, atol=1e-6, rtol=0)
    again, changes = update(model, folder, file)
    assert changes == IndexChanges(kept=6, encoded=0, dropped=0, unreadable=())
    assert torch.equal(again.features, index.features)


def test_an_image_finds_itself_and_a_sentence_the_image_nearest_to_it(
    model: DualEncoder, folder: Path
) -> None:
    index, _ = update(model, folder, None)
    encoder = Encoder(model)
    for name in index.paths:
        (path, score), *rest = index.rank(encoder.image(load_image(folder / name)))
        assert path == name
        assert score == pytest.approx(1, abs=1e-6)
        assert [other for _, other in rest] == sorted((other for _, other in rest), reverse=True)
    sentence = encoder.texts(["a cat on a table"])[0]
    similarities = {
        path: float(row @ sentence) for path, row in zip(index.paths, index.features, strict=True)
    }
    found = index.rank(sentence, top=4)
    assert [path for path, _ in found] == sorted(similarities, key=lambda p: -similarities[p])[:4]
    assert dict(found) == pytest.approx({path: similarities[path] for path, _ in found}, abs=1e-6)


def test_of_equal_images_the_lower_path_comes_first() -> None:
    torch.manual_seed(0)
    row = torch.nn.functional.normalize(torch.randn(1, 37), dim=1)
    paths = tuple(f"{number:03}.png" for number in range(101))
    index = ImageIndex(paths, row.repeat(101, 1), torch.zeros(101, 2, dtype=torch.int64))
    assert [path for path, _ in index.rank(torch.randn(37))] == list(paths)


def test_what_cannot_be_read_is_listed_and_tried_again(
    model: DualEncoder, folder: Path, tmp_path: Path
) -> None:
    good = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(b"no picture")
    for encoded in (5, 0):
        index, changes = update(model, folder, tmp_path / "index")
        assert (changes.encoded, changes.unreadable) == (encoded, (str(folder / "1.png"),))
        assert "1.png" not in index.paths
    (folder / "1.png").write_bytes(good)
    index, changes = update(model, folder, tmp_path / "index")
    assert (changes.encoded, changes.unreadable) == (1, ())
    (folder / "1.png").write_bytes(b"no picture")
    index, changes = update(model, folder, tmp_path / "index")
    assert len(index.paths) == 5
    assert len(read_index(tmp_path / "index", Encoder(model).image_identity()).paths) == 5


def test_nothing_left(model: DualEncoder, folder: Path, tmp_path: Path) -> None:
    update(model, folder, tmp_path / "index")
    index, changes = update_index(Encoder(model), folder, [], tmp_path / "index")
    assert (index.paths, changes.dropped) == ((), 6)
    assert index.rank(torch.randn(16)) == []
    assert update_index(Encoder(model), folder, [], tmp_path / "index")[0].paths == ()


def test_names_of_any_bytes(model: DualEncoder, folder: Path, tmp_path: Path) -> None:
    odd = os.fsdecode("brücke\n".encode() + b"\xff.png")
    (folder / "0.png").rename(folder / odd)
    update(model, folder, tmp_path / "index")
    index, changes = update(model, folder, tmp_path / "index")
    assert changes.kept == 6
    assert odd in index.paths


def test_an_index_of_another_model_is_refused(
    model: DualEncoder, folder: Path, tmp_path: Path, tokenizer_folder: Path
) -> None:
    file = tmp_path / "index"
    update(model, folder, file)
    content = file.read_bytes()
    with pytest.raises(DatasetError, match=r"index: expected an index of this model.*weights"):
        update(make_dual_encoder(tokenizer_folder, seed=1), folder, file)
    other = make_dual_encoder(tokenizer_folder)
    other.preprocessing = Preprocessing(size=(32, 32), fit="pad", resample="bicubic")
    with pytest.raises(DatasetError, match=r"another preprocessing .*'crop'.*'pad'"):
        update(other, folder, file)
    other = make_dual_encoder(tokenizer_folder)
    other.vision.positions = "crop"
    with pytest.raises(DatasetError, match="another architecture"):
        update(other, folder, file)
    assert file.read_bytes() == content


def test_what_is_no_index_is_refused(model: DualEncoder, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "index"
    update(model, folder, file)
    whole = file.read_bytes()
    for content in (whole[:-3], whole[: len(whole) // 2], b"", b"\x89PNG and more than that"):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match="index: expected an image index, found that it is"):
            update(model, folder, file)
        assert file.read_bytes() == content
    write_tensors(file, {"features": torch.zeros(2, 3)}, {"format": "something else"})
    with pytest.raises(DatasetError, match="found 'something else'"):
        update(model, folder, file)
    with pytest.raises(DatasetError, match="expected an image index"):
        update(model, folder, folder)
