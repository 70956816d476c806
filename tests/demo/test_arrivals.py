"""What is refused while it arrives, by plain HTTP."""

import http.client
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.demo.hostile import huge_png

BOUNDARY = "part"


def form(name: str, data: bytes) -> bytes:
    """One file as a browser sends it."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def post(
    url: str, body: bytes, path: str = "/gradio_api/upload", **headers: str
) -> tuple[int, str]:
    """Sends a request, as far as the body goes, and reads the answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.putrequest("POST", path)
        named = {"Content-Length": str(len(body)), **headers}
        named["Content-Type"] = f"multipart/form-data; boundary={BOUNDARY}"
        for name, value in named.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        connection.send(body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def files(app: Any) -> set[Path]:
    return {path for path in app.temporary.rglob("*") if path.is_file()}


@pytest.fixture
def nothing_stays(app: Any) -> Any:
    before = files(app)
    yield
    assert files(app) == before


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("notes.txt", b"hello", "notes.txt: expected a picture, a video or .queries; found .txt"),
        ("page.html", b"<script>", "found .html"),
        ("nothing", b"", "nothing: expected a picture, a video or .queries; found a name without"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "found .svg"),
        ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.png: expected an image"),
        ("../../a.png", b"hello", "a.png: expected an image"),
        ("huge.png", huge_png(), "huge.png: expected an image of reasonable size"),
        (
            "wide.png",
            huge_png(8000, 7000),
            "wide.png: expected at most 50000000 pixels; found 8000x7000",
        ),
    ],
)
def test_uploads_that_are_of_no_use(app: Any, name: str, data: bytes, fault: str) -> None:
    status, text = post(app.url, form(name, data))
    assert status == 415
    assert fault in text
    assert str(app.temporary) not in text


@pytest.mark.usefixtures("nothing_stays")
def test_a_large_file_is_refused_before_all_of_it_is_there(app: Any) -> None:
    head = form("a.mp4", bytes(51 << 20))
    status, text = post(app.url, head, **{"Content-Length": str(200 << 20)})
    assert (status, text) == (413, f"File size exceeded maximum allowed size of {50 << 20} bytes.")


def test_other_refusals_by_the_headers(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert post(app.url, b"", **{"Content-Length": str(501 << 20)})[0] == 413
    join = "/gradio_api/queue/join"
    assert post(app.url, b"", join, **{"Content-Length": str(9 << 20)})[0] == 413
    chunked = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    assert post(app.url, b"0\r\n\r\n", **chunked)[0] == 411
    full = shutil.disk_usage(app.temporary)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert post(app.url, form("a.queries", b"x"))[0] == 507


def test_a_good_file_is_taken(app: Any, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    status, text = post(app.url, form("a.png", (tmp_path / "a.png").read_bytes()))
    assert status == 200
    assert text.endswith('/a.png"]')
