"""Files that visitors bring: controls that take them, and how they are read.

gradio keeps an upload in a folder named by the hash of its content, so a path stands for what was
in the file.
"""

import os
from abc import ABCMeta
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import ArrayLike, NDArray

from owlkit.errors import ImageError, QueryError
from owlkit.images import decode_image, describe_source, read_image_size
from owlkit.queries import Example, QuerySet
from page.limits import Limits
from page.messages import message

PICTURE_TYPES = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"]
QUERY_TYPES = [".queries"]
VIDEO_TYPES = [".mp4", ".mov", ".avi", ".mkv", ".webm"]


class WithoutStub(type(gr.Image)):  # type: ignore[misc]
    """Of our own components: gradio would write a file beside this one for each of them."""

    def __new__(cls, *args: Any) -> type:
        """A class, and nothing else."""
        return ABCMeta.__new__(cls, *args)


class _OnlyUploads:
    """Keeps gradio from fetching an address that a visitor names."""

    async def async_move_resource_to_block_cache(self, path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise message("expected an uploaded file, found an address")
        return await super().async_move_resource_to_block_cache(path)  # type: ignore[misc]


class _OneUpload(_OnlyUploads):
    """Hands the path of an upload on as it is, so that nothing decodes it unchecked."""

    def preprocess(self, payload: Any) -> str | None:
        """The path of the upload."""
        if payload is None:
            return None
        if not payload.path:
            raise message("expected an uploaded file")
        return str(payload.path)


class Picture(_OneUpload, gr.Image, metaclass=WithoutStub):
    """An uploaded picture, or one of a camera."""

    def get_block_name(self) -> str:
        """What the page draws it with."""
        return "image"


def picture_input(label: str, elem_id: str, *, height: int = 260) -> Picture:
    """A control that takes a picture from a file, a camera or the clipboard.

    Args:
        label: What it is called on the page.
        elem_id: In the page.
        height: In pixels.
    """
    sources = ["upload", "webcam", "clipboard"]
    return Picture(label=label, type="filepath", sources=sources, elem_id=elem_id, height=height)


class Clip(_OneUpload, gr.Video, metaclass=WithoutStub):
    """An uploaded video, or one of a camera."""

    def get_block_name(self) -> str:
        """What the page draws it with."""
        return "video"


class _Uploads(_OnlyUploads):
    """Hands the paths of uploads on; gradio would also leave an empty file of each."""

    file_count: str

    def preprocess(self, payload: Any) -> str | list[str] | None:
        """The path of the upload, or of each."""
        if payload is None:
            return None
        paths = [str(one.path) for one in getattr(payload, "root", [payload])]
        return paths[0] if self.file_count == "single" else paths


class Files(_Uploads, gr.File, metaclass=WithoutStub):
    """One or several uploaded files."""

    def get_block_name(self) -> str:
        """What the page draws it with."""
        return "file"


class FolderButton(_Uploads, gr.UploadButton, metaclass=WithoutStub):
    """A button that uploads a folder."""

    def get_block_name(self) -> str:
        """What the page draws it with."""
        return "uploadbutton"


def file_name(path: str | Path) -> str:
    """What the visitor's file is called, without the folders of the server."""
    return Path(path).name


def read_picture(path: str | Path, limits: Limits) -> NDArray[np.uint8]:
    """Decodes an uploaded picture.

    Args:
        path: Where the upload is kept.
        limits: Its pixels are checked in the header.

    Returns:
        Upright RGB, uint8 [H, W, 3].

    Raises:
        ImageError: If it is no picture, too large, or not kept any more.
    """
    return decode_image(_read(path, limits, ImageError), file_name(path), max_pixels=limits.pixels)


def picture_size(path: str | Path, limits: Limits) -> tuple[int, int]:
    """Width and height in the header of an uploaded picture.

    Raises:
        ImageError: If it has none, or states too many pixels.
    """
    try:
        width, height = read_image_size(path)
    except ImageError as error:
        raise ImageError(str(error).replace(describe_source(path), file_name(path))) from error
    if width * height > limits.pixels:
        raise ImageError(
            f"{file_name(path)}: expected at most {limits.pixels} pixels; "
            f"found {width}x{height} = {width * height}"
        )
    return width, height


def kept_examples(path: str | Path, boxes: ArrayLike | None, limits: Limits) -> list[Example]:
    """Examples that hold the uploaded file itself, because the upload is soon gone.

    Args:
        path: Of the upload.
        boxes: xyxy in pixels of the picture; None for what stands out most.
        limits: For reading it.

    Raises:
        ImageError: If it cannot be read.
        QueryError: If a box has no area.
    """
    picture_size(path, limits)
    data = _read(path, limits, ImageError)
    return [replace(one, image=data) for one in Example.read(path, boxes)]


def read_queries(path: str | Path, limits: Limits) -> QuerySet:
    """Reads an uploaded query set; files that it names are not looked at.

    Raises:
        QueryError: If it is damaged, no query set, or has more classes or examples than allowed.
    """
    _read(path, limits, QueryError)
    try:
        queries = QuerySet.load(path, follow=False)
    except QueryError as error:
        raise QueryError(str(error).replace(str(path), file_name(path))) from error
    return checked_queries(queries, limits)


def checked_queries(queries: QuerySet, limits: Limits) -> QuerySet:
    """The same query set, if it is not too large.

    Raises:
        QueryError: If it is.
    """
    examples = [example for one in queries.classes for example in one.all_examples]
    pictures = {one.digest: one.image for one in examples if isinstance(one.image, bytes)}
    for what, count, most in (
        ("classes", len(queries), limits.classes),
        ("prompts", len(queries.texts), limits.texts),
        ("example boxes", len(examples), limits.examples),
        ("pixels in an example's picture", max(map(_pixels, examples), default=0), limits.pixels),
        ("bytes of example pictures", sum(map(len, pictures.values())), limits.upload),
    ):
        if count > most:
            raise QueryError(f"expected at most {most} {what}, found {count}")
    return queries


def _pixels(example: Example) -> int:
    height, width = example.size
    return height * width


def _read(path: str | Path, limits: Limits, error: type[Exception]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(limits.upload + 1)
        os.utime(path)  # it is in use
    except OSError as cause:
        raise error(f"{file_name(path)} is not kept any more: upload it again") from cause
    if len(data) > limits.upload:
        raise error(f"{file_name(path)}: expected at most {limits.upload >> 20} MB")
    return data
