"""Reading images from anywhere into one form: uint8 RGB [H, W, 3], upright.

Every fault becomes one :class:`~owlkit.errors.ImageError` that names the source; no warning of the
image library gets out.
"""

import os
import re
import struct
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from owlkit.errors import ImageError

MAX_PIXELS = 178_956_970
"""Images of more pixels are refused: 512 MiB as RGB, where Pillow itself calls it an attack."""

MAX_URL_BYTES = 100 << 20
"""Largest file, in bytes, that is read from a URL."""

URL_TIMEOUT = 20.0
"""Seconds that a server may stay silent, and that a whole download may take."""

ImageSource = str | os.PathLike[str] | Image.Image | NDArray[Any]
"""What :func:`load_image` reads: a path, an http(s) URL, a PIL image or an array."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
# Enough for the headers of most photographs, in one read.
_HEADER_BYTES = 1 << 16
# Formats that Pillow hands to an outside program to draw.
_VECTOR_FORMATS = ("EPS", "EMF", "WMF")
# Formats whose decoders warn while they decode.
_WARNING_FORMATS = ("ICNS", "ICO", "TIFF")
# What Pillow's decoders raise on damaged files.
_DECODER_FAULTS = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError),
    *(RuntimeError, SyntaxError, TypeError, ValueError, struct.error),
    Image.DecompressionBombError,
)
_warnings_lock = threading.Lock()


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads an image as upright RGB.

    The EXIF orientation is applied. Transparency is dropped, not blended, as by Pillow's
    ``convert("RGB")``. Of 16-bit grey images the high byte is kept (``value >> 8``), which is what
    Pillow does with 16-bit colour; Pillow's 32-bit mode "I" is taken for 16-bit data too. Of an
    animation the first frame is read. Vector formats are refused.

    A URL is fetched as given, redirects and the environment's proxies included: a server that
    takes URLs from strangers must decide first which hosts it may reach.

    Args:
        source: A path, an http or https URL, a PIL image, or a uint8 array [H, W], [H, W, 1],
            [H, W, 3] (RGB) or [H, W, 4] (RGBA).
        max_pixels: Largest height times width, checked before anything is decoded. Files above
            ``MAX_PIXELS`` also need a larger ``PIL.Image.MAX_IMAGE_PIXELS``.

    Returns:
        uint8 [H, W, 3], C-contiguous, RGB. A suitable array is returned as it is, not copied.

    Raises:
        ImageError: If the source cannot be read as an image; says what was expected and found.
    """
    name = describe_source(source)
    if isinstance(source, np.ndarray):
        return _rgb_array(source, name, max_pixels)
    if isinstance(source, Image.Image):
        with _image_errors(name):
            return _upright_rgb(source, name, max_pixels)
    if isinstance(source, str) and (source.startswith("data:") or "://" in source):
        return decode_image(_download(source, name), name, max_pixels=max_pixels)
    if isinstance(source, str | os.PathLike):
        return _load_file(source, name, max_pixels)
    raise ImageError(
        f"expected an image as a path, an http(s) URL, a PIL image or a numpy array; found {name}"
    )


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decodes what an image file holds; see :func:`load_image`.

    Args:
        data: The bytes of the file.
        name: Of the file, for messages.
        max_pixels: Most pixels that the image may have.

    Returns:
        Upright RGB, uint8 [H, W, 3].

    Raises:
        ImageError: If it cannot be decoded.
    """
    return _decode(BytesIO(data), name, max_pixels)


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Reads the width and height that :func:`load_image` would give, from the header alone.

    Many files can be asked at once by threads. The only difference to decoding: a PNG may state
    its orientation after its pixels, where it is not seen.

    Returns:
        Width and height in pixels, turned upright.

    Raises:
        ImageError: If the file has no header of an image, or states too many pixels.
    """
    name = describe_source(path)
    try:
        with BufferedReader(FileIO(path), _HEADER_BYTES) as file:
            # The disk is waited for here, and not inside the lock that silencing warnings takes.
            file.peek()
            with _image_errors(name):
                with _no_warnings():
                    image = Image.open(file)
                _check_size(image.width, image.height, name, MAX_PIXELS)
                # Pillow states the upright size of a TIFF, and decodes a PNG to look for its EXIF.
                known = image.format not in ("PNG", "TIFF") or "exif" in image.info
                turned = known and _orientation(image) in _SIDEWAYS
                return (image.height, image.width) if turned else image.size
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: expected a readable image file; found {error}") from error


def describe_source(source: object) -> str:
    """Returns a short name of an image source for messages.

    Of a URL the user name, password and query are left out, because they may be secrets.

    Example:
        >>> describe_source("https://me:secret@example.org/cat.jpg?token=1")
        'https://example.org/cat.jpg'
        >>> describe_source(np.zeros((4, 6), np.float32))
        'numpy array float32 [4, 6]'
    """
    if isinstance(source, np.ndarray):
        return f"numpy array {source.dtype} {list(source.shape)}"
    if isinstance(source, Image.Image):
        return f"PIL image {source.mode} {source.width}x{source.height}"
    if not isinstance(source, str | os.PathLike):
        return type(source).__name__
    name = str(source)
    if "://" in name:
        scheme, rest = name.split("://", 1)
        host_and_path = re.split(r"[?#]", rest, maxsplit=1)[0]
        host, slash, path = host_and_path.partition("/")
        name = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return name if len(name) <= 200 else f"{name[:140]}...{name[-50:]}"


def _rgb_array(array: NDArray[Any], name: str, max_pixels: int) -> NDArray[np.uint8]:
    """Checks an array and makes it RGB."""
    expected = "uint8 [H, W, 3] (or [H, W], [H, W, 1], [H, W, 4])"
    if array.dtype != np.uint8:
        hint = " (floats in [0, 1] need * 255 first)" if array.dtype.kind == "f" else ""
        raise ImageError(f"{name}: expected {expected}; found dtype {array.dtype}{hint}")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] > 4
        hint = "; channels must come last" if first else ""
        raise ImageError(f"{name}: expected {expected}; found shape {list(array.shape)}{hint}")
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    grey = array[..., None] if array.ndim == 2 else array
    rgb = grey.repeat(3, axis=2) if grey.shape[2] == 1 else grey[..., :3]
    return np.ascontiguousarray(rgb)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raises ImageError for an image without pixels or with too many."""
    if width < 1 or height < 1:
        raise ImageError(f"{name}: expected at least one pixel; found {width}x{height}")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: expected at most {max_pixels} pixels; "
            f"found {width}x{height} = {width * height}"
        )


def _load_file(source: str | os.PathLike[str], name: str, max_pixels: int) -> NDArray[np.uint8]:
    """Opens and decodes a file on disk."""
    try:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name}: expected an image file; found a directory")
        if not path.exists():
            raise ImageError(f"{name}: expected an image file; found no such file")
        if not path.is_file():
            raise ImageError(f"{name}: expected an image file; found a device, pipe or socket")
        file = path.open("rb")
    except (OSError, TypeError, ValueError) as error:
        raise ImageError(f"{name}: expected a readable image file; found {error}") from error
    with file:
        return _decode(file, name, max_pixels)


def _decode(file: IO[bytes], name: str, max_pixels: int) -> NDArray[np.uint8]:
    """Decodes an open file; Pillow only reads its header before the size is checked."""
    with _image_errors(name):
        with _no_warnings():
            image = Image.open(file)
        with image:
            return _upright_rgb(image, name, max_pixels)


@contextmanager
def _image_errors(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises into an ImageError."""
    try:
        yield
    except UnidentifiedImageError:
        found = "a file that is empty or in a format that Pillow does not read"
        raise ImageError(f"{name}: expected an image; found {found}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: expected an image of reasonable size; {error}") from error
    except _DECODER_FAULTS as error:
        found = f"{type(error).__name__}: {error}"
        raise ImageError(f"{name}: expected an undamaged image; found {found}") from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silences warnings, for short calls only: the filters are global, hence the lock."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _upright_rgb(image: Image.Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    """Decodes, converts and turns an opened image."""
    _check_size(image.width, image.height, name, max_pixels)
    if image.format in _VECTOR_FORMATS:
        raise ImageError(f"{name}: expected a pixel image; found the vector format {image.format}")
    with _no_warnings() if image.format in _WARNING_FORMATS else nullcontext():
        image.load()
    turn = _UPRIGHT.get(_orientation(image))
    rgb = _to_rgb(image, name)
    return np.array(rgb if turn is None else rgb.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) where it is missing or unreadable."""
    with _no_warnings():
        try:
            return int(image.getexif().get(_ORIENTATION_TAG, 1))
        except _DECODER_FAULTS:
            return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Converts any mode of Pillow to RGB, without clipping deep greys."""
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ImageError(f"{name}: expected 8 or 16 bits per channel; found 32-bit floats (mode F)")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ImageError(f"{name}: expected greys in 0 to 65535; found {low} to {high}")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns if this step is left out, and gives the same colours.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _download(url: str, name: str) -> bytes:
    """Fetches an http(s) URL.

    Raises:
        ImageError: If the scheme is another one, the server does not answer in time or with an
            error, or the file is larger than ``MAX_URL_BYTES``.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise ImageError(f"{name}: expected an http or https URL; found the scheme {scheme}")
    # Imported here because it takes as long as the rest of this module together.
    from http.client import HTTPException
    from urllib.error import HTTPError

    deadline = time.monotonic() + URL_TIMEOUT
    try:
        with _open_url(url) as response:
            return _read_body(response, name, deadline)
    except HTTPError as error:
        error.close()
        found = f"HTTP status {error.code} {error.reason}"
        raise ImageError(f"{name}: expected an image at this URL; found {found}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise ImageError(f"{name}: expected an image at this URL; found {error!r}") from error


def _open_url(url: str) -> IO[bytes]:
    """Opens a URL with handlers for http and https alone, so that no redirect leads elsewhere."""
    from urllib import request

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    # Users paste addresses with spaces and accents, which HTTP does not allow.
    address = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    parts = urlsplit(address)
    if not parts.hostname or parts.username is not None:
        raise ValueError("no host name, or a user name before it")
    # Some hosts refuse the standard library's own name.
    headers = {"User-Agent": "owlkit"}
    return cast(
        IO[bytes], opener.open(request.Request(address, headers=headers), timeout=URL_TIMEOUT)
    )


def _read_body(response: Any, name: str, deadline: float) -> bytes:
    """Reads a response in pieces, within the limits on size and time."""
    body = bytearray()
    while piece := response.read1(1 << 16):
        body += piece
        if len(body) > MAX_URL_BYTES:
            raise ImageError(f"{name}: expected at most {MAX_URL_BYTES} bytes; found more")
        if time.monotonic() > deadline:
            raise ImageError(
                f"{name}: expected the image within {URL_TIMEOUT:g} s; found {len(body)} bytes"
            )
    return bytes(body)
