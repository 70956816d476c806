"""Encoded images in memory and on disk: equal or not there."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from owlkit.backend import PatchArrays
from owlkit.errors import ConfigError
from owlkit.scene_cache import SceneCache, _checksum, scene_key


def make_scene(seed: int = 0, *, patches: int = 6, objectness: bool = True) -> PatchArrays:
    generator = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32)

    return PatchArrays(
        class_embeds=numbers(patches, 5),
        boxes=numbers(patches, 4),
        logit_shift=numbers(patches),
        logit_scale=numbers(patches),
        objectness=numbers(patches) if objectness else None,
    )


def assert_equal(found: PatchArrays | None, expected: PatchArrays) -> None:
    assert found is not None
    for name, array in vars(expected).items():
        other = getattr(found, name)
        if array is None:
            assert other is None
            continue
        assert other.dtype == np.float32
        assert other.tobytes() == array.tobytes()
        assert other.shape == array.shape
        # Read-only memory would make PyTorch warn.
        assert other.flags.writeable


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_keys_follow_pixels_shape_and_model() -> None:
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    key = scene_key(image, "model")
    assert key == scene_key(np.asfortranarray(image), "model")
    changed = image.copy()
    changed[1, 3, 2] ^= 1
    others = [(changed, "model"), (image.reshape(4, 2, 3), "model"), (image, "other")]
    keys = {key, *(scene_key(pixels, identity) for pixels, identity in others)}
    assert len(keys) == 4
    assert all(len(one) == 32 for one in keys)


def test_memory_keeps_what_was_used_last() -> None:
    cache = SceneCache(memory=2)
    scenes = {name: make_scene(seed) for seed, name in enumerate("abc")}
    cache.put("a", scenes["a"])
    cache.put("b", scenes["b"])
    assert cache.get("a") is scenes["a"]
    cache.put("c", scenes["c"])
    assert cache.get("b") is None
    assert cache.get("a") is scenes["a"]
    assert cache.get("c") is scenes["c"]
    nothing = SceneCache(memory=0)
    nothing.put("a", scenes["a"])
    assert nothing.get("a") is None


@pytest.mark.parametrize("objectness", [True, False])
def test_disk_gives_the_same_bits_to_another_process(tmp_path: Path, objectness: bool) -> None:
    scene = make_scene(objectness=objectness)
    SceneCache(folder=tmp_path / "deep" / "cache").put("key", scene)
    other = SceneCache(folder=tmp_path / "deep" / "cache")
    assert_equal(other.get("key"), scene)
    only_file(tmp_path / "deep" / "cache").unlink()
    assert other.get("key") is not None, "it is in memory now"
    assert SceneCache(folder=tmp_path / "deep" / "cache").get("key") is None


def test_a_damaged_file_is_none_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene()
    SceneCache(folder=tmp_path).put("key", scene)
    file = only_file(tmp_path)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    contents = [b"", whole[:7], whole[: len(whole) // 2], whole[:-1], bytes(flipped), b"\xff" * 99]
    with caplog.at_level(logging.WARNING, logger="owlkit"):
        for content in contents:
            file.write_bytes(content)
            assert SceneCache(folder=tmp_path).get("key") is None
        file.write_bytes(whole)
        file.rename(tmp_path / "other.safetensors")
        assert SceneCache(folder=tmp_path).get("other") is None
    assert len(caplog.records) == len(contents) + 1
    SceneCache(folder=tmp_path).put("other", scene)
    assert_equal(SceneCache(folder=tmp_path).get("other"), scene)


def test_arrays_that_are_no_scene_are_none(tmp_path: Path) -> None:
    def arrays(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
        changed = {**vars(make_scene()), **changes}
        return {name: array for name, array in changed.items() if array is not None}

    wrong = [
        arrays(boxes=None),
        arrays(boxes=np.zeros((6, 3), np.float32)),
        arrays(boxes=np.zeros((6, 4), np.float64)),
        arrays(objectness=np.zeros(5, np.float32)),
        arrays(class_embeds=np.zeros((), np.float32)),
        arrays(more=np.zeros(6, np.float32)),
    ]
    for number, found in enumerate([*wrong, arrays()]):
        notes = {"checksum": _checksum(str(number), found)}
        save_file(found, tmp_path / f"{number}.safetensors", metadata=notes)
        assert (SceneCache(folder=tmp_path).get(str(number)) is None) == (number < len(wrong))


def test_disk_is_limited_and_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    scenes = {name: make_scene(seed) for seed, name in enumerate("abcd")}
    SceneCache(folder=tmp_path).put("a", scenes["a"])
    size = only_file(tmp_path).stat().st_size
    abandoned = tmp_path / ".a.safetensors.1.part"
    abandoned.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    cache = SceneCache(memory=0, folder=tmp_path, max_bytes=3 * size)
    for age, name in enumerate("abc"):
        cache.put(name, scenes[name])
        os.utime(tmp_path / f"{name}.safetensors", (1000 + age, 1000 + age))
    assert cache.get("a") is not None, "which makes b the oldest"
    cache.put("d", scenes["d"])
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]
    SceneCache(memory=0, folder=tmp_path, max_bytes=size - 1).put("e", scenes["a"])
    assert not (tmp_path / "e.safetensors").exists()


def test_threads_get_what_was_put(tmp_path: Path) -> None:
    cache = SceneCache(memory=3, folder=tmp_path)
    scenes = [make_scene(seed) for seed in range(8)]

    def use(number: int) -> None:
        chosen = number % len(scenes)
        if cache.get(str(chosen)) is None:
            cache.put(str(chosen), scenes[chosen])
        assert_equal(cache.get(str(chosen)), scenes[chosen])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(200)))


def test_what_cannot_be_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    with pytest.raises(ConfigError, match="expected a folder for encoded images, found that"):
        SceneCache(folder=file)
    with pytest.raises(ConfigError, match="memory: expected an integer of at least 0, found -1"):
        SceneCache(memory=-1)
    with pytest.raises(ConfigError, match="max_bytes: expected an integer of at least 1, found 0"):
        SceneCache(max_bytes=0)
    cache = SceneCache(folder=tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with caplog.at_level(logging.WARNING, logger="owlkit"):
        cache.put("key", make_scene())
    assert "going on without keeping an encoded image" in caplog.text
    assert cache.get("key") is not None
