"""Reading images of every kind, and refusing everything else with one typed error."""

import io
import os
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from owlkit import images
from owlkit.errors import ImageError
from owlkit.images import describe_source, load_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


PNG = encoded(Image.fromarray(RGB), "PNG")


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    return path


def test_sources_agree(png: Path) -> None:
    for source in (
        png,
        str(png),
        Image.open(png),
        Image.fromarray(RGB),
        RGB,
        RGB[:, ::-1][:, ::-1],
    ):
        found = load_image(source)
        np.testing.assert_array_equal(found, RGB)
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        assert found.flags.writeable


def test_photographs_equal_pillow(data_dir: Path) -> None:
    paths = sorted((data_dir / "samples").glob("*.jpg"))[:2]
    assert paths
    for path in paths:
        expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        np.testing.assert_array_equal(load_image(path), np.asarray(expected))


def test_arrays_of_other_layouts() -> None:
    grey = RGB[..., 0]
    for source in (grey, grey[..., None]):
        np.testing.assert_array_equal(load_image(source), np.stack([grey] * 3, axis=-1))
    rgba = np.concatenate([RGB, grey[..., None]], axis=2)
    np.testing.assert_array_equal(load_image(rgba), RGB)
    assert load_image(rgba).flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"found dtype float32 \(floats in \[0, 1\]"),
        (np.zeros((4, 4, 3), np.int64), "found dtype int64$"),
        (np.zeros((4, 4), bool), "found dtype bool"),
        (np.zeros((3, 4, 5), np.uint8), r"found shape \[3, 4, 5\]; channels must come last"),
        (np.zeros((4, 4, 2), np.uint8), r"found shape \[4, 4, 2\]$"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"found shape \[1, 4, 4, 3\]"),
        (np.zeros(4, np.uint8), r"found shape \[4\]"),
        (np.zeros((0, 4, 3), np.uint8), "expected at least one pixel; found 4x0"),
        (np.zeros((9, 9, 3), np.uint8), "expected at most 80 pixels; found 9x9 = 81"),
    ],
)
def test_wrong_arrays_are_refused(array: NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(array, max_pixels=80)


@pytest.mark.parametrize("source", [None, 3, b"bytes", [RGB], object()])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(
        ImageError, match=f"PIL image or a numpy array; found {type(source).__name__}"
    ):
        load_image(source)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "image"
    path.write_bytes(encoded(Image.fromarray(RGB), kind, exif=exif, **options))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        before = np.asarray(image)
        np.testing.assert_array_equal(load_image(image), expected)
        np.testing.assert_array_equal(np.asarray(image), before)
    np.testing.assert_array_equal(load_image(path), expected)
    assert expected.shape == ((8, 5, 3) if orientation in (5, 6, 7, 8) else (5, 8, 3))


@pytest.mark.parametrize(
    "mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX", "PA"]
)
def test_modes_equal_pillow(mode: str) -> None:
    colours = Image.fromarray(RGB)
    image = colours.convert("P").convert("PA") if mode == "PA" else colours.convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(load_image(image), expected)


def test_transparency_is_dropped_not_blended() -> None:
    rgba = np.concatenate([RGB, np.zeros((5, 8, 1), np.uint8)], axis=2)
    np.testing.assert_array_equal(load_image(Image.fromarray(rgba)), RGB)


def test_palette_with_transparency_keeps_its_colours_and_does_not_warn(tmp_path: Path) -> None:
    """Pillow warns about palettes with one opacity per colour."""
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3), "L").convert("P")
    colours = np.arange(18, dtype=np.uint8).reshape(6, 3) * 10
    palette.putpalette(colours.tobytes())
    path = tmp_path / "image.png"
    path.write_bytes(encoded(palette, "PNG", transparency=bytes([0, 50, 100, 150, 200, 250])))
    with Image.open(path) as image, pytest.warns(UserWarning, match="Transparency"):
        image.convert("RGB")
    np.testing.assert_array_equal(load_image(path), colours.reshape(2, 3, 3))


@pytest.mark.parametrize("options", [{"transparency": 3}, {}])
def test_grey_png(tmp_path: Path, options: dict[str, int]) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(RGB[..., 1]), "PNG", **options))
    np.testing.assert_array_equal(load_image(path), RGB[..., 1][..., None].repeat(3, axis=2))


DEEP = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
DEEP_RGB = np.array([[0, 0, 1], [128, 255, 255]], np.uint8)[..., None].repeat(3, axis=2)


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        pytest.param(encoded(Image.fromarray(DEEP), "PNG"), "I;16", id="PNG"),
        pytest.param(encoded(Image.fromarray(DEEP.astype(">u2")), "TIFF"), "I;16B", id="TIFF"),
        pytest.param(b"P5 3 2 65535\n" + DEEP.astype(">u2").tobytes(), "I", id="PGM"),
    ],
)
def test_deep_greys_are_scaled_not_clipped(tmp_path: Path, content: bytes, mode: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with Image.open(path) as image:
        assert image.mode == mode
    np.testing.assert_array_equal(load_image(path), DEEP_RGB)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0.5]], np.float32), "found 32-bit floats"),
        (np.array([[70_000, 0]], np.int32), "found 0 to 70000"),
        (np.array([[-1, 5]], np.int32), "found -1 to 5"),
    ],
)
def test_values_without_a_known_range_are_refused(values: NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(Image.fromarray(values))


def test_image_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="PIL image RGB 0x5: expected at least one pixel"):
        load_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    path = tmp_path / f"half.{kind}"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=f"half.{kind}: expected an"):
        load_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty or in a format that Pillow does not read"),
        (b"hello, I am text", "empty or in a format that Pillow does not read"),
        (encoded(Image.fromarray(RGB), "EPS"), "found the vector format EPS"),
        (png_of_size(30_000, 30_000), "reasonable size; Image size .900000000 pixels. exceeds"),
        (png_of_size(10_000, 10_000), "expected an undamaged image"),
        (png_of_size(0, 10), "expected an"),
    ],
    ids=["empty", "text", "EPS", "bomb", "large enough for Pillow to warn", "no width"],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.file"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        load_image(path)
    assert "bad.file" in str(caught.value)


def test_size_is_checked_before_pixels_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_of_size(9_000, 9_000))
    with pytest.raises(ImageError, match="at most 80999999 pixels; found 9000x9000 = 81000000"):
        load_image(path, max_pixels=80_999_999)
    with pytest.raises(ImageError, match="undamaged"):
        load_image(path, max_pixels=81_000_000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_metadata_neither_stops_nor_warns(tmp_path: Path, kind: str) -> None:
    """Pillow meets it when it opens a JPEG, but only when asked for the metadata of a PNG."""
    path = tmp_path / "image"
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\0"
    path.write_bytes(encoded(Image.fromarray(RGB), kind, exif=exif))
    with pytest.warns(UserWarning, match="EXIF"), Image.open(path) as image:
        image.getexif()
    assert load_image(path).shape == (5, 8, 3)


def test_warnings_while_decoding_stay_inside(tmp_path: Path) -> None:
    """Pillow reads the orientation of a TIFF while it decodes, and warns if there are two."""
    exif = Image.Exif()
    exif[0x0112] = 1
    content = encoded(Image.fromarray(RGB), "TIFF", exif=exif)
    entry = struct.pack("<HHI", 0x0112, 3, 1)
    assert content.count(entry) == 1
    path = tmp_path / "image.tif"
    path.write_bytes(content.replace(entry, struct.pack("<HHI", 0x0112, 3, 2)))
    with pytest.warns(UserWarning, match="too many entries"), Image.open(path) as image:
        image.load()
    filters = list(warnings.filters)
    np.testing.assert_array_equal(load_image(path), RGB)
    assert list(warnings.filters) == filters


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "missing.png: expected an image file; found no such file"),
        (".", "found a directory"),
        ("nul\0byte", "nul\0byte: expected an image file"),
        ("x" * 5000, r"xxx\.\.\.xxx.*: expected a readable image file"),
        ("image.png/inside.png", "found no such file"),
    ],
)
def test_bad_paths_are_refused(png: Path, name: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(f"{png.parent}/{name}")


def test_pipe_is_refused_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="found a device, pipe or socket"):
        load_image(tmp_path / "pipe")


class Handler(BaseHTTPRequestHandler):
    """Serves one image under several circumstances."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/silent.png":
            time.sleep(1)
            return
        status = {"/missing.png": 404}.get(path, 302 if "Redirect" in path else 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.path.partition("to=")[2])
        self.end_headers()
        if path == "/dripping.png":
            for byte in PNG:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        elif path == "/text.png":
            self.wfile.write(b"not an image")
        elif status == 200:
            self.wfile.write(PNG)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["ok.png", "ok.png?token=1", "a b/Ä.png", "Redirect?to=/ok.png"])
def test_url(server: str, path: str) -> None:
    np.testing.assert_array_equal(load_image(f"{server}/{path}"), RGB)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.png?token=secret", "/missing.png: .* found HTTP status 404 Not Found"),
        ("text.png", "/text.png: .* format that Pillow does not read"),
        ("silent.png", "timed out"),
        ("dripping.png", r"expected the image within 0.3 s; found \d+ bytes"),
        ("Redirect?to=file:///etc/hostname", "HTTP status 302"),
        ("Redirect?to=ftp://127.0.0.1/x.png", "unknown url type: ftp"),
    ],
)
def test_url_failures(
    server: str, path: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path in ("silent.png", "dripping.png"):
        # Only where the wait is the point: elsewhere a busy machine could take as long.
        monkeypatch.setattr(images, "URL_TIMEOUT", 0.3)
    with pytest.raises(ImageError, match=message) as caught:
        load_image(f"{server}/{path}")
    assert "secret" not in str(caught.value)


def test_url_size_is_limited(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_URL_BYTES", len(PNG))
    assert load_image(f"{server}/ok.png").shape == RGB.shape
    monkeypatch.setattr(images, "MAX_URL_BYTES", len(PNG) - 1)
    with pytest.raises(ImageError, match=f"expected at most {len(PNG) - 1} bytes; found more"):
        load_image(f"{server}/ok.png")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/x.png", "expected an image at this URL; found .*refused"),
        ("http:///x.png", "no host name"),
        ("http://me:secret@127.0.0.1:1/x.png", "user name"),
        ("http://[::1/x.png", "expected an image at this URL"),
        ("http://127.0.0.1:port/x.png", "expected an image at this URL"),
        ("file:///etc/hostname", "expected an http or https URL; found the scheme file"),
        ("ftp://127.0.0.1/x.png", "found the scheme ftp"),
        ("data:image/png;base64,iVBORw0KGgo=", "found the scheme data"),
    ],
)
def test_bad_urls(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(ImageError, match=message) as caught:
        load_image(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (Path("a") / "b.jpg", str(Path("a") / "b.jpg")),
        ("https://me:secret@example.org/a@b.jpg?key=1#x", "https://example.org/a@b.jpg"),
        ("https://example.org?key=secret", "https://example.org"),
        (Image.new("L", (3, 2)), "PIL image L 3x2"),
        (np.zeros((2, 3), np.int16), "numpy array int16 [2, 3]"),
        (None, "NoneType"),
    ],
)
def test_describe_source(source: object, name: str) -> None:
    assert describe_source(source) == name
