"""Hostile requests: none is answered with a file or a trace, and the next good one is answered."""

import itertools
import json
import os
import random
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.demo.conftest import DEMO
from tests.demo.driving import ask
from tests.demo.hostile import huge_png
from tests.demo.served import Served, serve
from tests.demo.visitor import API, Visitor, file_data

BLOCKS = 12
IN_BLOCK = 25
SECRET = "the canary sings"


@pytest.fixture(scope="module")
def served(detector_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "canary.txt").write_text(SECRET)
    with serve(detector_folder, folder, "--threads", "1") as served:
        os.symlink(folder / "canary.txt", served.temporary / "link.txt")
        yield served


@pytest.fixture(scope="module")
def trap() -> Iterator[tuple[str, list[str]]]:
    """An address, and what has been asked for there."""
    asked: list[str] = []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Trap) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.fixture(scope="module")
def kept(served: Served, data_dir: Path) -> Callable[[Visitor], dict[str, Any]]:
    """A good upload."""
    picture = (data_dir / "samples" / "dog.jpg").read_bytes()
    return lambda visitor: file_data(visitor.upload("dog.jpg", picture))


def hostile_paths(served: Served, trap: str) -> list[str]:
    canary = served.temporary.parent / "canary.txt"
    inside = next(served.temporary.glob("owlkit-demo-*"))
    return [
        str(canary),
        "../canary.txt",
        "../../../../../../../../etc/passwd",
        "/etc/passwd",
        f"{inside}/../../canary.txt",
        f"{inside}/../link.txt",
        f"{inside}//..//..//canary.txt",
        f"file://{canary}",
        f"{canary}\0.jpg",
        "/proc/self/environ",
        __file__,
        str(inside),
        "",
        "C:\\Windows\\win.ini",
        "\\\\127.0.0.1\\share\\x",
        f"{trap}/path",
        f"{trap.replace('127.0.0.1', 'localhost')}/path",
        "x" * 5000,
    ]


def hostile_values(served: Served, trap: str) -> list[Any]:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    paths = hostile_paths(served, trap)
    return [
        *(None, True, -1, 0, 1e308, 10**400, float("nan"), float("inf"), -0.0),
        *("", "a" * 50_000, "[" * 5000, "a [b [c [d]]]", ",,,", "\0", "\ud800", "🦉" * 500),
        *("<img src=x onerror=alert(1)>", "{{7*7}}", "%s%n", "'; DROP TABLE x; --"),
        *([], {}, [[]], [None] * 1000, deep, {"a": deep}, {"__type__": "update", "value": 1}),
        *paths,
        *(file_data(path) for path in paths),
        *({"path": path} for path in paths),
        *(file_data(path, url=path, orig_name=path, is_stream=True) for path in paths),
        *([file_data(path)] for path in paths),
        *({"picture": file_data(path), "boxes": [[0, 0, 1e308, float("nan")]]} for path in paths),
        *({"picture": {"x": {"y": [file_data(path)]}}, "name": ["x"]} for path in paths),
    ]


def call_an_endpoint(visitor: Visitor, good: dict[str, Any], values: list[Any]) -> None:
    """The right number of values, one or all of them hostile; or any number."""
    name, inputs = visitor.random.choice(
        [
            ("detect", [good, "cat", "none", 0.1, 0.5, 10]),
            ("detect_like", [[good], [{"picture": good}], 0.1, 0.5, 10]),
            ("detect_with", [[good], good, None, 0.5, 10]),
            ("make_queries", ["cat", "none", []]),
        ]
    )
    kind = visitor.random.random()
    if kind < 0.7:
        inputs[visitor.random.randrange(len(inputs))] = visitor.random.choice(values)
    elif kind < 0.9:
        inputs = [visitor.random.choice(values) for _ in inputs]
    else:
        inputs = inputs[: visitor.random.randrange(len(inputs))] * visitor.random.randrange(3)
    visitor.call(name, inputs)


def call_the_page(visitor: Visitor, good: dict[str, Any], values: list[Any]) -> None:
    """What the page itself calls, hidden or not, with values that it never sends."""
    listeners = visitor.http.get("/config").json()["dependencies"]
    listener = visitor.random.choice(listeners)
    count = len(listener["inputs"]) + visitor.random.choice([0, 0, 0, 0, -1, 5])
    # Often without paths, which are refused before a listener sees anything.
    plain = [one for one in values if "/" not in json.dumps(one)]
    some = visitor.random.choice([[*values, good], plain, [*plain[:20], good], [good, "cat", 0.5]])
    inputs = [visitor.random.choice(some) for _ in range(max(count, 0))]
    number = visitor.random.choice([listener["id"]] * 9 + [-1, 10**6])
    session = f"fuzz{visitor.random.randrange(5)}"
    trigger = visitor.random.choice([None, 1, 10**9])
    visitor.join(
        {"data": inputs, "fn_index": number, "session_hash": session, "trigger_id": trigger}
    )


def send_a_malformed_body(visitor: Visitor, good: dict[str, Any], values: list[Any]) -> None:
    target = visitor.random.choice(
        ["queue/join", "call/detect", "call/v2/detect", "cancel", "reset"]
    )
    value = visitor.random.choice(values)
    bodies: list[object] = [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"data": ' + b'{"a":' * 20_000,
        b"\xff\xfe\x00",
        value,
        {"data": value},
        {"data": [value], "fn_index": value, "session_hash": value},
        {"data": [], "fn_index": 0, "session_hash": "x" * 10_000, "event_data": value},
        {"data": [" " * (2 << 20)], "fn_index": 0, "session_hash": "big"},
        {"picture": value, "words": value},
        {"event_id": value, "session_hash": value, "fn_index": value},
    ]
    visitor.post(target, visitor.random.choice(bodies))


def ask_for_a_file(visitor: Visitor, good: dict[str, Any], values: list[Any]) -> None:
    path = visitor.random.choice([one for one in values if isinstance(one, str)])
    quoted = "".join(f"%{byte:02x}" for byte in path.encode("utf-8", "replace")[:2000])
    place = visitor.random.choice(
        [
            *[f"{API}/file="] * 4,
            *(
                f"{API}/file/",
                f"{API}/proxy=",
                f"{API}/custom_component/",
                f"{API}/custom_component/x/",
            ),
            *("/assets/", "/static/", "/svelte/", f"{API}/stream/", "/file=", "/"),
            f"{API}/file={good['path']}/",
        ]
    )
    answer = visitor.send(visitor.random.choice(["GET", "HEAD"]), place + quoted)
    assert answer.status_code >= 400


def ask_for_what_is_shut(visitor: Visitor, good: dict[str, Any], values: list[Any]) -> None:
    method, path = visitor.random.choice(
        [
            *(("POST", f"{API}/{name}/detect") for name in ("run", "api")),
            *(("POST", f"{API}/{name}") for name in ("component_server", "process_recording")),
            *(("POST", f"{API}/{name}/") for name in ("vibe-edit", "undo-vibe-edit", "stream/x")),
            *(("GET", f"{API}/{name}") for name in ("vibe-code", "dev/reload", "runs", "token")),
            *(
                ("GET", f"{API}/{name}")
                for name in ("deep_link?session_hash=fuzz1", "queue/status")
            ),
            *(("GET", path) for path in ("/monitoring", "/monitoring/summary", "/docs", "/login")),
            *(("GET", path) for path in ("/openapi.json", f"{API}/stream/a/b/1/playlist-file")),
            *((method, "/config") for method in ("PUT", "DELETE", "PATCH", "TRACE")),
        ]
    )
    body = json.dumps({"data": [visitor.random.choice(values)], "fn_index": 0}).encode()
    answer = visitor.send(method, path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (404, 405)


def upload_something(visitor: Visitor, good: dict[str, Any], values: list[Any]) -> None:
    """A malformed file under a hostile name, which is then asked about."""
    name = visitor.random.choice(
        ["a", "<img src=x onerror=alert(1)>", "a\nb", "../../x", "x" * 300]
    )
    kind = visitor.random.choice([".jpg", ".png", ".gif", ".queries", ".mp4", ".svg", ".html", ""])
    noise = visitor.random.randbytes(1000)
    header = json.dumps({"__metadata__": {"queries": "[" * 50_000}}).encode()
    images = next(path for path in Path(good["path"]).parent.iterdir()).read_bytes()
    data = visitor.random.choice(
        [
            *(b"", noise, images[:2000], images[:200] + noise + images[1200:], b"GIF89a" + noise),
            huge_png(),
            huge_png(7000, 7000),
            huge_png(1, 50_000),
            huge_png(0, 0),
            b"cos\nsystem\n(S'touch /tmp/owned'\ntR.",
            struct.pack("<Q", 1 << 62) + b"{}",
            struct.pack("<Q", len(header)) + header,
            b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        ]
    )
    path = visitor.upload(name + kind, data)
    if path is None:
        return
    served_as = visitor.send("GET", f"{API}/file={path}").headers
    if kind in (".svg", ".html"):
        assert served_as["content-disposition"].startswith("attachment")
    if kind == ".queries":
        visitor.call("detect_with", [[good], file_data(path), None, 0.5, 10])
    else:
        visitor.call("detect", [file_data(path), "cat", "none", 0.1, 0.5, 10])


def pretend_to_be_another(visitor: Visitor, good: dict[str, Any], values: list[Any]) -> None:
    """Sessions, hosts and origins that are not there."""
    kind = visitor.random.randrange(4)
    if kind == 0:
        visitor.send(
            "GET", f"{API}/heartbeat/{visitor.random.choice(['fuzz1', '..', 'a%2fb', '%00'])}"
        )
    elif kind == 1:
        visitor.send("GET", f"{API}/queue/data", params={"session_hash": "nobody" * 100})
    elif kind == 2:
        visitor.send("GET", f"{API}/call/detect/{visitor.random.randbytes(8).hex()}")
    else:
        header = visitor.random.choice(["host", "origin"])
        name = visitor.random.choice(
            ["evil.example", "http://evil.example", "null", "127.0.0.1.x.y"]
        )
        answer = visitor.send("GET", "/config", headers={header: name})
        assert answer.status_code == 403


ATTACKS = (
    *[call_an_endpoint] * 3,
    *[call_the_page] * 4,
    *[send_a_malformed_body] * 2,
    *[ask_for_a_file] * 3,
    *[ask_for_what_is_shut] * 2,
    *[upload_something] * 3,
    pretend_to_be_another,
)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_hostile_requests(
    served: Served,
    trap: tuple[str, list[str]],
    kept: Callable[[Visitor], dict[str, Any]],
    detector_folder: Path,
    block: int,
) -> None:
    address, fetched = trap
    forbidden = (
        *(SECRET, "root:x:0:0", "Traceback (most recent", "PATH=/"),
        *map(str, (DEMO, detector_folder, sys.prefix, served.log)),
    )
    visitor = Visitor(served, forbidden, random.Random(block))
    good = kept(visitor)
    values = hostile_values(served, address)
    for attack in itertools.islice(_shuffled(visitor.random), IN_BLOCK):
        attack(visitor, good, values)

    assert served.process.poll() is None, served.log.read_text()
    assert fetched == []
    answer = visitor.call("detect", [good, "cat, dog", "none", 0.0, 0.5, 5])
    event, data = answer.split("\n")[:2]
    assert event == "event: complete", answer
    [found] = json.loads(data.removeprefix("data: "))
    assert len(found["detections"]) == 5


def _shuffled(chance: random.Random) -> Iterator[Callable[..., None]]:
    while True:
        yield chance.choice(ATTACKS)


def test_messages_are_no_markup(page: Any) -> None:
    """They repeat what was typed, or what a stranger's file says."""
    markup = "<img src=x onerror=alert(1)>"
    ask(page, f"{markup} [[")
    toast = page.get_by_test_id("toast-text").first
    toast.get_by_text(markup).wait_for()
    assert toast.locator("img").count() == 0
