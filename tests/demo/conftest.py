"""The demo on a free port with a small random model, and a browser to visit it."""

import gc
import importlib.util
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from owlkit import OwlDetector
from owlkit.export import export_detector
from owlkit.predictor import Predictor
from owlkit.runtime import OnnxBackend

DEMO = Path(__file__).parents[2] / "demo"
sys.path.insert(0, str(DEMO))  # where the app finds its parts when it is started


def _need(what: str, *, found: bool) -> None:
    message = f"{what} is not installed"
    if not found:
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


class CountingBackend(OnnxBackend):
    """Counts what reaches the networks."""

    images = 0
    texts = 0

    def encode_images(self, pixel_values: Any) -> Any:
        self.images += len(pixel_values)
        return super().encode_images(pixel_values)

    def encode_texts(self, texts: Sequence[str]) -> Any:
        self.texts += len(texts)
        return super().encode_texts(texts)


@dataclass(frozen=True)
class App:
    """The demo while it is served.

    Attributes:
        url: Its address.
        desk: Its desk.
        backend: Counts what its networks are asked.
        temporary: The folder of uploads and downloads.
    """

    url: str
    desk: Any
    backend: CountingBackend
    temporary: Path

    @property
    def passes(self) -> tuple[int, int]:
        """Images and texts that the networks have seen so far."""
        return self.backend.images, self.backend.texts


@pytest.fixture(scope="session")
def detector_folder(owlv2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random OWLv2 as ONNX graphs, with attention maps."""
    folder = tmp_path_factory.mktemp("export") / "owlv2"
    export_detector(OwlDetector.from_pretrained(owlv2_folder), folder, attention=True)
    return folder


@pytest.fixture(scope="session")
def predictor(detector_folder: Path) -> Predictor:
    """The oracle: the same model without a page around it."""
    return Predictor.from_pretrained(detector_folder)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def page_of(
    model: Any, temporary: Path, examples: Sequence[tuple[str, str]] = ()
) -> Iterator[tuple[str, Any]]:
    """Serves a page with a model from this process; gives its address and its desk."""
    _need("gradio", found=importlib.util.find_spec("gradio") is not None)
    from page.environment import gradio_environment

    with pytest.MonkeyPatch.context() as patch:
        for name, value in gradio_environment(temporary).items():
            patch.setenv(name, value)
        from page.desk import Desk
        from page.limits import Limits
        from page.page import make_page
        from page.serving import serve

        desk = Desk(model, Limits(), temporary)
        port = free_port()
        where = {"host": "127.0.0.1", "port": port}
        with warnings.catch_warnings():
            # gradio leaves event loops open, which some later test would have to answer for.
            warnings.simplefilter("ignore", ResourceWarning)
            blocks = make_page(desk, examples)
            serve(blocks, desk.limits, temporary, **where, prevent_thread_lock=True, quiet=True)
            gc.collect()
        try:
            yield f"http://127.0.0.1:{port}", desk
        finally:
            blocks.close(verbose=False)


@pytest.fixture(scope="session")
def app(detector_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The demo as visitors meet it."""
    from page.model import Model

    class Loaded(Model):
        def predictor(self) -> Predictor:
            return predictor

    backend = CountingBackend(detector_folder, providers=["cpu"])
    predictor = Predictor(backend)
    temporary = tmp_path_factory.mktemp("demo")
    with page_of(Loaded(str(detector_folder)), temporary) as (url, desk):
        yield App(url, desk, backend, temporary)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    _need("playwright", found=importlib.util.find_spec("playwright") is not None)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    _need("chromium", found=chromium is not None)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A new visitor, whose page must ask no other host for anything, and raise no error."""
    requests: list[str] = []
    faults: list[str] = []
    options = {"viewport": {"width": 1280, "height": 900}, **options}
    with browser.new_context(**options) as context:
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(url)
        page.get_by_role("tab", name="Text").wait_for()
        yield page
    hosts = {urlsplit(url).hostname for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert faults == []


@pytest.fixture
def page(browser: Any, app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The page of a new visitor; the model has seen no picture yet."""
    from page.recent import Recent

    monkeypatch.setattr(app.desk, "_scenes", Recent(64))
    with visit(browser, app.url) as page:
        yield page
