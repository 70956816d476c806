"""What a server takes from strangers, and how it reads it."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

Message = MutableMapping[str, Any]

# Of all fields but the image: 2,000 names have room in it.
_FIELD_BYTES = 1 << 16
_FIELDS = 8


@dataclass(frozen=True)
class Limits:
    """The most that is taken; what is above gets an error at once.

    Attributes:
        waiting: Requests that are read, wait or are answered at a time. Memory grows by as many
            images of `pixels`.
        upload: Bytes of a request.
        pixels: Of an image, checked in its header before it is decoded.
        boxes: Of an answer, the best ones.
        classes: That the words of a request may name.
        seconds: That an upload may take.
    """

    waiting: int = 32
    upload: int = 20 << 20
    pixels: int = 25_000_000
    boxes: int = 300
    classes: int = 1000
    seconds: float = 30.0


async def read_form(request: Request, limits: Limits) -> tuple[bytes, dict[str, str]]:
    """Reads the file ``image`` and the text fields of a form.

    Raises:
        HTTPException: 400 if it is no such form, 408 if it takes too long, 413 if it is too large.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limits.upload:
        raise _too_large(limits)
    limited = Request(request.scope, _counted(request.receive, limits))
    try:
        async with asyncio.timeout(limits.seconds):
            form = limited.form(max_files=1, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
            async with form as fields:
                image = fields.get("image")
                # A text here would be a path or an address, which is not the client's to choose.
                if not isinstance(image, UploadFile):
                    raise HTTPException(400, "image: expected an uploaded file (multipart form)")
                texts = {name: one for name, one in fields.items() if isinstance(one, str)}
                return await image.read(), texts
    except TimeoutError as error:
        raise HTTPException(
            408, f"expected the upload within {limits.seconds:g} seconds"
        ) from error


async def skip_body(request: Request, limits: Limits) -> None:
    """Reads a body that nobody needs: many clients look for the answer only after all is sent."""
    try:
        async with asyncio.timeout(limits.seconds):
            async for _ in Request(request.scope, _counted(request.receive, limits)).stream():
                pass
    except (TimeoutError, HTTPException):
        return


def _counted(
    receive: Callable[[], Awaitable[Message]], limits: Limits
) -> Callable[[], Awaitable[Message]]:
    """The same messages, until there are too many bytes in them."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limits.upload:
            raise _too_large(limits)
        return message

    return counted


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"expected at most {limits.upload} bytes")
