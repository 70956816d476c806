"""Features on disk: the same to the last bit, found by what made them, never when damaged."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from owlkit.errors import ConfigError, ImageError
from owlkit.evaluation.feature_cache import (
    FeatureCache,
    hash_images,
    read_tensors,
    write_tensors,
)
from owlkit.evaluation.features import ImageFiles
from tests.evaluation.small_encoder import make_pictures


class Counter:
    """Makes random tensors and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"features": torch.randn(4, 3), "rows": torch.arange(4)}


class Arrays:
    """Pictures in memory; None cannot be read."""

    def __init__(self, *arrays: NDArray[np.uint8] | None) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def read(self, index: int) -> NDArray[np.uint8]:
        array = self.arrays[index]
        if array is None:
            raise ImageError("damaged")
        return array

    def where(self, index: int) -> str:
        return f"memory[{index}]"


def test_computed_once_and_equal_to_the_last_bit(tmp_path: Path) -> None:
    compute = Counter()
    first = FeatureCache(tmp_path / "deep" / "cache").get({"a": 1, "b": [2]}, compute)
    again = FeatureCache(tmp_path / "deep" / "cache").get({"b": [2], "a": 1}, compute)
    assert compute.calls == 1
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], first[name]) for name in first)
    other = FeatureCache(tmp_path / "deep" / "cache").get({"a": 1, "b": [3]}, compute)
    assert compute.calls == 2
    assert not torch.equal(other["features"], first["features"])


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


@pytest.mark.parametrize(
    "damage",
    [cut, flip, lambda content: b"", lambda content: b"\0" * 100, lambda content: b"x" * 4000],
    ids=["cut", "flipped bit", "empty", "zeros", "noise"],
)
def test_what_is_damaged_is_computed_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cache, compute = FeatureCache(tmp_path), Counter()
    cache.get({"a": 1}, compute)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    fresh = cache.get({"a": 1}, compute)
    assert compute.calls == 2
    assert str(file) in caplog.text
    assert torch.equal(cache.get({"a": 1}, compute)["features"], fresh["features"])
    assert compute.calls == 2
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.safetensors"
    write_tensors(file, {"x": torch.ones(2)}, {"note": "old"})

    def fail(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:10])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space left"):
        write_tensors(file, {"x": torch.zeros(2)})
    tensors, notes = read_tensors(file)
    assert (tensors["x"].tolist(), notes) == ([1, 1], {"note": "old"})
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"expected a folder .*file is none"):
        FeatureCache(tmp_path / "file")


def test_hash_of_files(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path, 3)
    before = hash_images(ImageFiles(tuple(paths)))
    assert hash_images(ImageFiles(tuple(paths))) == before
    assert hash_images(ImageFiles(tuple(reversed(paths)))) != before
    assert hash_images(ImageFiles(tuple(paths[:2]))) != before
    os.utime(paths[1], ns=(0, 0))
    changed = hash_images(ImageFiles(tuple(paths)))
    assert changed != before
    with paths[1].open("ab") as file:
        file.write(b"more")
    os.utime(paths[1], ns=(0, 0))
    assert hash_images(ImageFiles(tuple(paths))) not in (before, changed)
    paths[1].unlink()
    assert hash_images(ImageFiles(tuple(paths))) not in (before, changed)


def test_hash_of_pictures_in_memory() -> None:
    black = np.zeros((4, 6, 3), dtype=np.uint8)
    white = black + 255
    sets = [(black, white), (white, black), (black,), (black.reshape(6, 4, 3), white)]
    hashes = [hash_images(Arrays(*arrays)) for arrays in [*sets, (black, None)]]
    assert len(set(hashes)) == 5
    assert hash_images(Arrays(black.copy(), white)) == hashes[0]


def test_what_cannot_be_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache, compute = FeatureCache(tmp_path / "cache"), Counter()
    cache.folder.rmdir()
    assert cache.get({"a": 1}, compute)["features"].shape == (4, 3)
    assert "going on without keeping features" in caplog.text


def test_what_does_not_hold_any_more_is_computed_again(tmp_path: Path) -> None:
    cache, compute = FeatureCache(tmp_path), Counter()
    cache.get({"a": 1}, compute)
    fresh = cache.get({"a": 1}, compute, is_current=lambda kept: False)
    assert compute.calls == 2
    again = cache.get({"a": 1}, compute, is_current=lambda kept: True)
    assert torch.equal(again["features"], fresh["features"])
    assert compute.calls == 2


def test_two_writers_with_one_process_number(tmp_path: Path, monkeypatch) -> None:
    """As on two machines that share a folder."""
    scratch: list[Path] = []
    write = Path.write_bytes
    monkeypatch.setattr(
        Path, "write_bytes", lambda self, content: scratch.append(self) or write(self, content)
    )
    for _ in range(2):
        write_tensors(tmp_path / "x", {"x": torch.ones(2)})
    assert len(set(scratch)) == 2
