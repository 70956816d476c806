"""Image sizes from headers against full decoding."""

import numpy as np
import pytest
from PIL import Image

from owlkit.errors import ImageError
from owlkit.images import load_image, read_image_size


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_and_decoder_agree(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{suffix}"
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    size = (30, 40) if orientation >= 5 else (40, 30)
    assert read_image_size(path) == load_image(path).shape[1::-1] == size


def test_photographs(data_dir):
    for path in sorted(data_dir.glob("samples/*.jpg")):
        assert read_image_size(path) == load_image(path).shape[1::-1]


def test_pixels_are_not_decoded(tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((50, 70), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:45])
    assert read_image_size(path) == (70, 50)


@pytest.mark.parametrize("name", ["gone.jpg", "folder", "text.jpg", "empty.jpg", "nul\0.jpg"])
def test_faults(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"expected an? .*(image|file)"):
        read_image_size(tmp_path / name)
