"""What is checked while a request arrives, before gradio, the model or a disk has work with it."""

import asyncio
import json
import shutil
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from owlkit.errors import ImageError
from page.limits import Limits
from page.uploads import PICTURE_TYPES, QUERY_TYPES, VIDEO_TYPES, file_name, picture_size

_TYPES = (*PICTURE_TYPES, *QUERY_TYPES, *VIDEO_TYPES)


class Arrivals:
    """ASGI middleware that refuses what is too large, and uploads that are of no use.

    A picture is refused by its header, before a browser tries to show what it has uploaded.

    Args:
        app: Answers what is not refused.
        limits: The most that is taken.
        folder: Where gradio keeps uploads.
    """

    def __init__(self, app: ASGIApp, limits: Limits, folder: Path) -> None:
        self._app = app
        self._limits = limits
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        uploading = scope["path"].endswith("/upload")
        refusal = self._refusal(Headers(scope=scope), uploading=uploading)
        if refusal is not None:
            return await refusal(scope, receive, send)
        if not uploading:
            return await self._app(scope, receive, send)
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        fault = await asyncio.to_thread(self._fault, messages)
        if fault is not None:
            return await PlainTextResponse(fault, 415)(scope, receive, send)
        for message in messages:
            await send(message)

    def _refusal(self, headers: Headers, *, uploading: bool) -> PlainTextResponse | None:
        """What is wrong with a request by its headers."""
        length = headers.get("content-length", "")
        most = self._limits.request if uploading else self._limits.message
        if not length.isdecimal():
            return PlainTextResponse("expected a request that says how long it is", 411)
        if int(length) > most:
            return PlainTextResponse(f"expected at most {most >> 20} MB at a time", 413)
        if uploading and shutil.disk_usage(self._folder).free < self._limits.spare + int(length):
            return PlainTextResponse("there is no room for files now; try again later", 507)
        return None

    def _fault(self, messages: list[Message]) -> str | None:
        """What is wrong with the files that gradio has just kept; those are deleted."""
        if messages[0]["status"] != 200:
            return None
        paths = json.loads(b"".join(message.get("body", b"") for message in messages[1:]))
        faults = {path: fault for path in paths if (fault := self._fault_of(Path(path)))}
        for path in faults:
            Path(path).unlink(missing_ok=True)
        return next(iter(faults.values()), None)

    def _fault_of(self, path: Path) -> str | None:
        kind = path.suffix.lower()
        if kind not in _TYPES:
            found = kind or "a name without an ending"
            return f"{file_name(path)}: expected a picture, a video or .queries; found {found}"
        if kind in PICTURE_TYPES:
            try:
                picture_size(path, self._limits)
            except ImageError as error:
                return str(error)
        return None
