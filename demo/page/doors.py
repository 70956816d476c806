"""Which requests reach gradio at all: those that the page and its API make."""

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# gradio also has proxies, streams, histories and editors, which this page makes no use of.
_READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte)/.+"
    r"|/gradio_api/(app_id|info|openapi\.json|theme\.css|startup-events|upload_progress)/?"
    r"|/gradio_api/(queue/data|heartbeat/[^/]+|call/[^/]+/[^/]+|call/v2/[^/]+/[^/]+)/?"
    r"|/gradio_api/custom_component/[^\n]+"
)
_WRITE = re.compile(r"/gradio_api/(upload|cancel|reset|queue/join|call/[^/]+|call/v2/[^/]+)/?")
_FILE = "/gradio_api/file="
_READING = ("GET", "HEAD")


class Doors:
    """ASGI middleware that knows the requests of this page; others find nothing.

    Args:
        app: Answers the requests that are known.
        folder: What may be asked for as a file lies in it.
        local: Refuse what names another host than this machine. So no page of another server can
            have a browser, which it has made believe that this server is its own, talk to it.
    """

    def __init__(self, app: ASGIApp, folder: Path, *, local: bool) -> None:
        self._app = app
        self._folder = folder
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None
        if self._local and not _is_local(Headers(scope=scope)):
            refusal = PlainTextResponse("expected a request from a page of this server", 403)
            return await refusal(scope, receive, send)
        if not self._knows(scope["method"], scope["path"]):
            return await PlainTextResponse("there is nothing here", 404)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _knows(self, method: str, path: str) -> bool:
        if method not in _READING:
            return method == "OPTIONS" or (method == "POST" and _fits(_WRITE, path))
        if path.startswith(_FILE):
            file = os.path.normpath(path.removeprefix(_FILE))
            return Path(file).is_relative_to(self._folder)
        return _fits(_READ, path)


def is_local(host: str) -> bool:
    """Whether a host name or address is this machine, seen from itself alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_local(headers: Headers) -> bool:
    named = [f"//{headers.get('host', '')}", headers.get("origin", "")]
    try:
        return all(is_local(urlsplit(one).hostname or "") for one in named if one)
    except ValueError:
        return False


def _fits(pattern: re.Pattern[str], path: str) -> bool:
    return pattern.fullmatch(path) is not None
