"""Someone who speaks HTTP to the demo, and looks at every answer."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.demo.served import Served

API = "/gradio_api"


@dataclass
class Visitor:
    """Sends requests, good or bad; no answer may hold what must not be in it.

    Attributes:
        served: The demo.
        forbidden: What no answer may hold.
        random: Chooses.
    """

    served: Served
    forbidden: tuple[str, ...]
    random: random.Random
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        # A server that refuses a request unread ends the connection.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=self.served.url, timeout=300, limits=limits)

    def checked(self, text: str) -> str:
        found = [one for one in self.forbidden if one in text]
        assert not found, (found, text[:2000])
        return text

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request whose answer is read to its end, unless it has none."""
        with self.http.stream(method, path, **options) as answer:
            if "heartbeat" in path:
                next(answer.iter_raw(), None)
                return answer
            try:
                answer.read()
            except httpx.RemoteProtocolError:
                # gradio breaks off the events of a session that is not there.
                assert path.startswith((f"{API}/queue/data", f"{API}/call/"))
                return answer
        self.checked(answer.text)
        return answer

    def post(self, path: str, body: object) -> httpx.Response:
        # As bytes, because NaN and the like are hostile, too.
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(
            "POST", f"{API}/{path}", content=data, headers={"content-type": "application/json"}
        )

    def upload(self, name: str, data: bytes) -> str | None:
        """Where the server keeps the file, if it does."""
        answer = self.http.post(f"{API}/upload", files={"files": (name, data)})
        if answer.status_code != 200:
            self.checked(answer.text)
            return None
        [path] = answer.json()
        assert Path(path).is_relative_to(self.served.temporary)
        return str(path)

    def call(self, name: str, values: list[Any]) -> str:
        """The events of an answer of the API."""
        answer = self.post(f"call/{name}", {"data": values})
        if answer.status_code != 200:
            return answer.text
        return self.send("GET", f"{API}/call/{name}/{answer.json()['event_id']}").text

    def join(self, body: dict[str, Any]) -> str:
        """The events of an answer to the page."""
        answer = self.post("queue/join", body)
        if answer.status_code != 200:
            return answer.text
        session = {"session_hash": body["session_hash"]}
        return self.send("GET", f"{API}/queue/data", params=session).text


def file_data(path: object, **more: object) -> dict[str, Any]:
    """How a request names a file."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}
