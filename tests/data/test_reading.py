import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from owlkit.data.reading import read_rgb, use_one_thread
from owlkit.errors import ImageError
from owlkit.images import load_image


def smooth(height, width):
    """A picture without hard edges, on which decoders agree."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 17 + y / 29), np.cos(y / 13), np.sin((x - y) / 23)]
    return (np.stack(waves, axis=2) * 100 + 128).astype(np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def assert_close(found, expected, *, most=6, mean=1.0):
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= most
    assert difference.mean() <= mean


@pytest.fixture(scope="module")
def photographs(data_dir):
    files = sorted((data_dir / "coco_real" / "train2017").glob("*.jpg"))[::16]
    assert len(files) >= 10
    return files


def test_photographs_equal_the_reference(photographs):
    for file in photographs:
        # OpenCV's and Pillow's libjpeg may differ in how they enlarge colour.
        assert_close(read_rgb(file), load_image(file), most=12, mean=0.5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", smooth(40, 64), quality=95, exif=exif)
    assert_close(read_rgb(path), load_image(path))
    assert read_rgb(path, at_least=32).shape[:2] == ((20, 32) if orientation < 5 else (32, 20))


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 2}])
def test_kinds_of_jpeg(tmp_path, options):
    path = save(tmp_path / "a.jpg", smooth(61, 47), quality=95, **options)
    assert_close(read_rgb(path), load_image(path))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *[("L", "jpg"), ("CMYK", "jpg"), ("RGB", "webp"), ("RGB", "bmp"), ("RGB", "tiff")],
        *[("L", "png"), ("LA", "png"), ("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("1", "png")],
    ],
)
def test_other_modes_equal_the_reference(tmp_path, mode, suffix):
    image = Image.fromarray(smooth(33, 21)).convert(mode)
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    at_least = None if suffix == "jpg" else 8  # only JPEGs come smaller
    assert_close(read_rgb(path, at_least=at_least), load_image(path))


def test_four_colours_equal_the_reference(tmp_path):
    path = tmp_path / "a.jpg"
    inks = np.dstack([smooth(24, 40), smooth(40, 24)[..., 0].T])
    Image.frombytes("CMYK", (40, 24), inks.tobytes()).save(path, quality=95)
    np.testing.assert_array_equal(read_rgb(path), load_image(path))


def test_sixteen_bits_equal_the_reference(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), (smooth(20, 30)[..., 0].astype(np.uint16) << 8) + 77)
    np.testing.assert_array_equal(read_rgb(path), load_image(path))


@pytest.mark.parametrize("height", [1, 2, 8, 9])
def test_jpegs_of_few_pixels(tmp_path, height):
    path = save(tmp_path / "a.jpg", np.full((height, 1, 3), 90, np.uint8))
    for at_least, rows in ((None, height), (1, -(-height // 8))):
        image = read_rgb(path, at_least=at_least)
        assert image.shape == (rows, 1, 3)
        assert (np.abs(image.astype(int) - 90) <= 2).all()


@pytest.mark.parametrize(
    ("at_least", "size"),
    [
        *[(at_least, (150, 201)) for at_least in (None, 202, 201, 102)],
        *[(101, (75, 101)), (52, (75, 101)), (51, (38, 51)), (26, (19, 26)), (1, (19, 26))],
    ],
)
def test_at_least(tmp_path, at_least, size):
    whole = smooth(150, 201)
    path = save(tmp_path / "a.jpg", whole, quality=95)
    image = read_rgb(path, at_least=at_least)
    assert image.shape == (*size, 3)
    divisor = round(201 / size[1])
    rows, columns = 150 // divisor, 200 // divisor
    blocks = whole[: rows * divisor, : columns * divisor]
    blocks = blocks.reshape(rows, divisor, columns, divisor, 3).mean(axis=(1, 3))
    assert np.abs(image[:rows, :columns] - blocks).mean() < 2


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.999])
def test_files_that_are_cut_off(tmp_path, photographs, share, progressive, monkeypatch):
    # OpenCV 4 returns an image with a grey rest.
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full((9, 9, 3), 128, np.uint8))
    whole = tmp_path / "whole.jpg"
    save(whole, load_image(photographs[0]), progressive=progressive)
    data = whole.read_bytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    for at_least in (None, 50):
        with pytest.raises(ImageError, match=r"cut\.jpg"):
            read_rgb(path, at_least=at_least)


def test_bytes_after_the_end_do_no_harm(tmp_path):
    path = save(tmp_path / "a.jpg", smooth(40, 50), quality=95)
    expected = load_image(path)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert_close(read_rgb(path), expected)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8" + b"\xff" * 99 + b"\xff\xd9", b"text"],
)
def test_no_image(tmp_path, data):
    path = tmp_path / "no.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"no\.jpg"):
        read_rgb(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg.* no such file"):
        read_rgb(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="directory"):
        read_rgb(tmp_path)


def test_damage_gives_an_image_or_an_image_error(tmp_path):
    path = save(tmp_path / "a.jpg", smooth(48, 64))
    data = path.read_bytes()
    generator = np.random.default_rng(0)
    read, messages = 0, []
    for _ in range(300):
        damaged = bytearray(data)
        for place in generator.integers(2, len(data) - 2, generator.integers(1, 9)):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                image = read_rgb(path)
            except ImageError as error:
                messages.append(str(error))
            else:
                read += 1
                assert image.ndim == 3
                assert image.shape[2] == 3
    assert read > 100
    assert all("a.jpg" in message for message in messages)


def test_too_many_pixels_are_refused_by_the_header(tmp_path):
    path = save(tmp_path / "a.jpg", smooth(16, 16))
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.jpg.* limit"):
        read_rgb(path, at_least=8)


def test_use_one_thread():
    before = cv2.getNumThreads()
    try:
        use_one_thread(3)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
