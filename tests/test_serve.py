"""The server of ``tools/serve.py``: what it answers, and what strangers cannot do to it."""

import asyncio
import importlib.util
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owlkit import OwlDetector
from owlkit.errors import OwlkitError
from owlkit.export import export_detector
from owlkit.predictor import Predictor
from owlkit.queries import QuerySet
from owlkit.queries.syntax import parse_words

for package in ("fastapi", "httpx", "python_multipart", "uvicorn"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)

TOOLS = Path(__file__).parents[1] / "tools"
WORDS = "cat, red mug"
# Rounding depends on how many images a pass has.
CLOSE = {"atol": 1e-3, "rtol": 0}


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.fixture(scope="module")
def folder(owlv2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "owlv2"
    export_detector(OwlDetector.from_pretrained(owlv2_folder), folder)
    return folder


class CountingPredictor(Predictor):
    """Keeps how many images each pass had; waits before it while `gate` is closed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.passes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, images: Any) -> Any:
        if isinstance(images, tuple):  # a pass of the server; `detect` brings a list without images
            self.passes.append(len(images))
        assert self.gate.wait(15)
        return super().encode(images)


@pytest.fixture
def predictor(folder: Path) -> CountingPredictor:
    return CountingPredictor.from_pretrained(folder, batch_size=4, device="cpu")


@pytest.fixture
def client(predictor: CountingPredictor) -> Iterator[Any]:
    yield from started(predictor)


def started(predictor: Predictor, **limits: Any) -> Iterator[Any]:
    """A client of a server on a free port, which is what strangers meet."""
    import httpx
    import uvicorn

    from serving.app import make_app
    from serving.limits import Limits

    sets = {"mugs": QuerySet.from_text(["mug", "cup"], templates=["a {}", "the {}"])}
    app = make_app(predictor, sets, Limits(**limits))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def picture(seed: int, width: int = 60, height: int = 40) -> tuple[np.ndarray, bytes]:
    """Noise, and it as a PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, file.getvalue()


def ask(client: Any, image: bytes, **fields: str) -> Any:
    return client.post("/detect", files={"image": ("any.png", image)}, data=fields)


def error_of(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    return f"{error['type']}: {error['message']}"


def assert_same(answer: Any, expected: Any) -> None:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["image_size"] == list(expected.image_size)
    rows = found["detections"]
    assert [one["label"] for one in rows] == list(expected.names)
    assert len(rows) > 0
    np.testing.assert_allclose([one["score"] for one in rows], expected.scores, atol=1e-5)
    np.testing.assert_allclose([one["box"] for one in rows], expected.boxes, **CLOSE)


def test_concurrent_requests_share_passes_and_get_their_own_answers(
    client: Any, predictor: CountingPredictor, folder: Path
) -> None:
    pictures = [picture(seed, width=40 + 7 * seed) for seed in range(9)]
    questions = [{"words": WORDS}, {"queries": "mugs"}, {"words": "owl", "nms": "0.3"}]
    predictor.passes.clear()
    predictor.gate.clear()
    with ThreadPoolExecutor(len(pictures) + 1) as pool:
        answers = [
            pool.submit(ask, client, file, threshold="0.01", **questions[row % 3])
            for row, (_, file) in enumerate(pictures)
        ]
        bad = pool.submit(ask, client, b"no image", words=WORDS)
        assert "ImageError" in error_of(bad.result(), 400)
        while client.get("/health").json()["busy"] < len(pictures):
            pass
        predictor.gate.set()
    assert sum(predictor.passes) == len(pictures)
    assert max(predictor.passes) == predictor.batch_size
    alone = Predictor.from_pretrained(folder, device="cpu")
    asked = [parse_words(WORDS), QuerySet.from_text(["mug", "cup"], templates=["a {}", "the {}"])]
    for row, ((pixels, _), answer) in enumerate(zip(pictures, answers, strict=True)):
        queries = (*asked, parse_words("owl"))[row % 3]
        nms = 0.3 if row % 3 == 2 else None
        expected = alone.detect(pixels, queries, threshold=0.01, nms_iou=nms, top_k=300)
        assert_same(answer.result(), expected)
    assert client.get("/health").json()["busy"] == 0


def test_health_names_the_query_sets(client: Any, predictor: Predictor) -> None:
    health = client.get("/health").json()
    assert health == {
        "status": "ok",
        "model": predictor.backend.identity,
        "queries": ["mugs"],
        "busy": 0,
    }


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, "one of the fields words and queries"),
        ({"words": "cat", "queries": "mugs"}, "one of the fields words and queries"),
        ({"words": " , "}, "expected words"),
        ({"words": "cat [nose"}, r"expected ']'"),
        ({"words": "cat [nose]"}, "names without parts"),
        ({"words": ",".join(map(str, range(1001)))}, "at most 1000 names, found 1001"),
        ({"words": "x" * (1 << 17)}, "maximum size"),
        ({"queries": "cups"}, "a query set (mugs), found 'cups'"),
        ({"queries": "../mugs"}, "a query set (mugs), found '../mugs'"),
        ({"words": "cat", "threshold": "nan"}, "threshold: expected a number in [0, 1]"),
        ({"words": "cat", "nms": "-1"}, "nms: expected a number in [0, 1]"),
        ({"words": "cat", "threshold": "many"}, "threshold: expected a number in [0, 1]"),
        ({f"field{number}": "x" for number in range(9)}, "Too many fields"),
    ],
)
def test_what_cannot_be_asked(client: Any, fields: dict[str, str], fault: str) -> None:
    assert fault in error_of(ask(client, picture(0)[1], **fields), 400)


def test_no_file_of_the_server_is_read(client: Any, folder: Path) -> None:
    secret = folder / "secret.png"
    secret.write_bytes(picture(0)[1])
    for place in (str(secret), secret.as_uri(), "http://127.0.0.1:9/a.png"):
        data = {"image": place, "words": WORDS}
        for answer in (
            client.post("/detect", data=data),  # a field instead of a file
            client.post("/detect", data=data, files={"other": b"x"}),
            ask(client, place.encode(), words=WORDS),
            client.post("/detect", files={"image": (str(secret), b"")}, data={"words": WORDS}),
        ):
            assert str(folder) not in error_of(answer, 400)
        # The name of a query set is none of a file either.
        assert client.get(f"/{place}").status_code == 404
    assert client.post("/detect", json={"image": str(secret)}).status_code == 400


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "header", "postscript"])
def test_damaged_images(client: Any, damage: str) -> None:
    file = picture(3)[1]
    data = {
        "empty": b"",
        "cut": file[:60],
        "text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "header": file[:16] + b"\xff" * 8 + file[24:],
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    }[damage]
    assert "ImageError: image: expected" in error_of(ask(client, data, words=WORDS), 400)


def test_limits(predictor: CountingPredictor) -> None:
    for client in started(predictor, upload=100_000, pixels=2000, boxes=2):
        assert "at most 2000 pixels" in error_of(ask(client, picture(0)[1], words=WORDS), 400)
        noise = np.random.default_rng(0).bytes(5_000_000)
        assert "at most 100000 bytes" in error_of(ask(client, noise, words=WORDS), 413)

        def pieces() -> Iterator[bytes]:
            # A body of unknown length, as long as a client likes.
            yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
            yield from [b"0" * 50_000] * 4

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = client.post("/detect", content=pieces(), headers=headers)
        assert "at most 100000 bytes" in error_of(answer, 413)
        answer = ask(client, picture(0, 40, 40)[1], words=WORDS, threshold="0")
        assert len(answer.json()["detections"]) == 2
        assert client.get("/health").json()["busy"] == 0


def test_a_slow_upload_is_given_up(predictor: CountingPredictor) -> None:
    for client in started(predictor, seconds=0.2):
        host, port = client.base_url.host, client.base_url.port
        head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n"
        form = b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        import socket

        with socket.create_connection((host, port), timeout=60) as connection:
            connection.sendall(head + form)
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert client.get("/health").json()["busy"] == 0


def test_too_many_requests_are_told_to_come_back(predictor: CountingPredictor) -> None:
    for client in started(predictor, waiting=2):
        predictor.gate.clear()
        file = picture(0)[1]
        with ThreadPoolExecutor(2) as pool:
            first = [pool.submit(ask, client, file, words=WORDS) for _ in range(2)]
            while client.get("/health").json()["busy"] < 2:
                pass
            large = file + bytes(8_000_000)  # more than the buffers of a socket hold
            refused = ask(client, large, words=WORDS)
            predictor.gate.set()
        assert "too many requests" in error_of(refused, 503)
        assert refused.headers["Retry-After"] == "1"
        assert [one.result().status_code for one in first] == [200, 200]
        assert ask(client, file, words=WORDS).status_code == 200


def test_a_fault_of_the_model_is_no_fault_of_the_client(
    client: Any, predictor: CountingPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(images: Any) -> None:
        raise OwlkitError("/srv/model/image_encoder.onnx: out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(predictor, "encode", fail)
        message = error_of(ask(client, picture(0)[1], words=WORDS), 503)
    assert message == "OwlkitError: the model cannot answer; see the server's log"
    assert ask(client, picture(0)[1], words=WORDS).status_code == 200
