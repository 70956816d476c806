"""What the page and its API ask for is let in, and nothing else."""

from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

FOLDER = Path("/tmp/uploads")


def visitor(*, local: bool = True) -> TestClient:
    from page.doors import Doors

    return TestClient(
        Doors(PlainTextResponse("inside"), FOLDER, local=local), base_url="http://127.0.0.1:7860"
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/assets/index.js", 200),
        ("POST", "/gradio_api/queue/join", 200),
        ("POST", "/gradio_api/call/detect", 200),
        ("GET", "/gradio_api/call/detect/1234", 200),
        ("GET", f"/gradio_api/file={FOLDER}/a/b.png", 200),
        ("GET", f"/gradio_api/file={FOLDER}/../secret", 404),
        ("GET", f"/gradio_api/file={FOLDER}s/secret", 404),
        ("GET", "/gradio_api/file=http://example.com/", 404),
        ("GET", "/gradio_api/proxy=http://example.com/", 404),
        ("POST", "/gradio_api/run/detect", 404),
        ("POST", "/", 404),
        ("DELETE", "/config", 404),
        ("GET", "/config\n", 404),
    ],
)
def test_paths(method: str, path: str, status: int) -> None:
    path = path.replace("/..", "/%2e%2e").replace("\n", "%0a")
    assert visitor().request(method, path).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:7860"}, 200),
        ({"host": "[::1]:7860", "origin": "http://127.0.0.1:7860"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": "[::1"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_hosts(headers: dict[str, str], status: int) -> None:
    """A page that is only for this machine talks to nobody else; a shared one to all."""
    assert visitor().get("/", headers=headers).status_code == status
    assert visitor(local=False).get("/", headers=headers).status_code == 200
