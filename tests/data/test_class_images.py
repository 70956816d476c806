"""Folders and arrays of images with classes say the same; what does not fit is refused."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from owlkit.data.class_images import read_class_images
from owlkit.errors import DatasetError, ImageError

RED = np.zeros((4, 6, 3), np.uint8)
RED[:, :, 2] = 200  # BGR, as OpenCV writes


def make_folder(folder: Path, **files: str) -> Path:
    """A folder for each class, with the files named after it."""
    for name, inside in files.items():
        (folder / name).mkdir(parents=True)
        for file in inside.split():
            (folder / name / file).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name / file), RED)
    return folder


def save(path: Path, **arrays: object) -> Path:
    good = {
        "images": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3),
        "labels": np.array([1, 0], np.uint8),
        "label_names": np.array(["dog", "cat"]),
    }
    np.savez(
        path, **{name: value for name, value in {**good, **arrays}.items() if value is not None}
    )
    return path


def test_folders_are_classes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, dog="b.png a.JPG deep/c.png", cat="a.png")
    (folder / "cat" / "notes.txt").touch()
    (folder / ".hidden").mkdir()
    (folder / "list.csv").touch()
    images = read_class_images(folder)
    assert images.names == ("cat", "dog")
    assert len(images) == 4
    assert images.labels.tolist() == [0, 1, 1, 1]
    assert images.labels.dtype == np.int64
    files = ("cat/a.png", "dog/a.JPG", "dog/b.png", "dog/deep/c.png")
    assert [images.where(index) for index in range(4)] == [str(folder / file) for file in files]
    assert images.read(2).tolist() == [[[200, 0, 0]] * 6] * 4
    (folder / "dog" / "b.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"b\.png"):
        images.read(2)
    assert read_class_images(folder, names=["a cat", "a dog"]).names == ("a cat", "a dog")


def test_arrays(tmp_path: Path) -> None:
    path = save(tmp_path / "test.npz")
    images = read_class_images(path)
    assert images.names == ("dog", "cat")
    assert images.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(images.read(1).ravel(), np.arange(12, 24))
    assert images.where(1) == f"{path}[1]"
    assert read_class_images(path, names="xyz").names == ("x", "y", "z")
    grey = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    images = read_class_images(save(path, images=grey, label_names=None), names=["x", "y"])
    assert images.read(1).shape == (2, 2, 3)
    for channel in range(3):
        np.testing.assert_array_equal(images.read(1)[:, :, channel], grey[1])


def test_real_arrays(data_dir: Path) -> None:
    cifar = read_class_images(data_dir / "cifar10" / "test.npz")
    assert (len(cifar), cifar.names[:2]) == (2000, ("airplane", "automobile"))
    assert np.bincount(cifar.labels).tolist() == [200] * 10
    assert cifar.read(3).shape == (32, 32, 3)
    fashion = read_class_images(data_dir / "fashion_mnist" / "test.npz")
    assert (len(fashion), len(fashion.names), fashion.read(0).shape) == (2000, 10, (28, 28, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": None}, "expected `images` uint8.*found labels, label_names"),
        ({"labels": None}, "expected `images` uint8"),
        ({"label_names": None}, "expected `label_names`, found images, labels"),
        ({"images": np.zeros((2, 3, 3, 3))}, "found images float64"),
        ({"images": np.zeros((2, 3, 3, 4), np.uint8)}, r"found images uint8 \[2, 3, 3, 4\]"),
        ({"labels": np.zeros(2)}, "found labels float64"),
        ({"labels": np.zeros(3, int)}, r"found labels int64 \[3\] for 2 images"),
        ({"labels": np.array([0, 2])}, "expected labels from 0 to 1.*found 0 to 2"),
        ({"labels": np.array([0, -1])}, "expected labels from 0 to 1.*found -1 to 0"),
        ({"label_names": np.array(["a", None])}, "found: Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=rf"x\.npz: .*{message}"):
        read_class_images(save(tmp_path / "x.npz", **arrays))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected one folder per class, found no folder"):
        read_class_images(tmp_path)
    make_folder(tmp_path, dog="a.png", cat="a.png", owl="")
    with pytest.raises(DatasetError, match="of each of 3 classes, found none in 1: owl"):
        read_class_images(tmp_path)
    (tmp_path / "owl").rmdir()
    with pytest.raises(DatasetError, match="for each of 2 folders, found 1 names"):
        read_class_images(tmp_path, names=["x"])
    with pytest.raises(DatasetError, match=r"expected a folder .*; found nothing there"):
        read_class_images(tmp_path / "nowhere")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no arrays")
    with pytest.raises(DatasetError, match=r"x\.npz: expected an \.npz"):
        read_class_images(tmp_path / "x.npz")


def test_what_the_data_calls_its_classes_is_kept(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", dog="a.png", cat="a.png")
    assert read_class_images(folder, names=["x", "y"]).keys == ("cat", "dog")
    path = save(tmp_path / "x.npz")
    assert read_class_images(path, names=["x", "y"]).keys == ("dog", "cat")
    path = save(tmp_path / "y.npz", label_names=None)
    assert read_class_images(path, names=["x", "y"]).keys == ()


def test_damage_inside_a_packed_file_is_a_fault_of_the_data(tmp_path: Path) -> None:
    arrays = {"images": np.zeros((9, 40, 40), np.uint8), "labels": np.zeros(9, int)}
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **arrays)
    whole = path.read_bytes()
    start = whole.index(b"images.npy") + len(b"images.npy") + 20  # past the extra field
    path.write_bytes(whole[:start] + b"\xff" * 30 + whole[start + 30 :])
    with pytest.raises(DatasetError, match=r"x\.npz: expected an \.npz"):
        read_class_images(path, names=["a"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"x" * 100)
    content = bytearray(path.read_bytes())
    for header, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(header) + place] = 97  # a way of packing that there is no reader for
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="compression method is not supported"):
        read_class_images(path, names=["a"])
