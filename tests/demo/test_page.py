"""The page as a whole: how it looks, how it starts and ends, and whom it talks to."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from owlkit.errors import ConfigError
from tests.demo.conftest import page_of, visit
from tests.demo.driving import ask, find, upload
from tests.demo.served import serve

_STILL = "document.getAnimations().every(one => one.playState === 'finished')"
TABS = ("Text", "Image query", "Both", "Explore", "Video")
SEEN = Path(__file__).with_name("seen.js").read_text()


@pytest.fixture(scope="module")
def photo(data_dir: Path) -> Path:
    return data_dir / "samples" / "dog.jpg"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_and_controls_have_names(
    browser: Any, app: Any, photo: Path, theme: str
) -> None:
    with visit(browser, f"{app.url}?__theme={theme}") as page:
        find(page, photo, "cat")
        page.get_by_text("Table of boxes").first.click()
        page.get_by_text("Colours", exact=True).click()
        page.locator("#text-table [role=gridcell]").first.wait_for()
        assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
        for name in TABS:
            page.get_by_role("tab", name=name, exact=True).click()
            page.mouse.move(0, 0)
            page.wait_for_function(_STILL)
            assert page.evaluate(SEEN) == [], name


def test_it_fits_a_telephone(browser: Any, app: Any, photo: Path) -> None:
    with visit(browser, app.url, viewport={"width": 400, "height": 800}) as page:
        find(page, photo, "cat")
        # The answer, far below the button, comes into view.
        page.wait_for_function(
            "document.querySelector('#text-view').getBoundingClientRect().top < innerHeight / 2"
        )
        page.get_by_text("Table of boxes").first.click()
        page.locator("#text-table [role=gridcell]").first.wait_for()
        for name in TABS:
            _open(page, name)
            widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert widths == [400, 400], name


def _open(page: Any, name: str) -> None:
    """Opens a tab, which may stand in a menu where there is little room."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.count():
        page.get_by_role("button", name="More tabs").first.click()
        tab = page.locator(".overflow-dropdown").get_by_text(name, exact=True)
    tab.first.click()


def test_examples_are_asked_about_at_a_click(
    browser: Any, app: Any, photo: Path, tmp_path: Path
) -> None:
    with (
        page_of(app.desk.model, tmp_path, [(str(photo), "cat, red mug")]) as (url, _),
        visit(browser, url) as page,
    ):
        page.get_by_text("Try one of these").wait_for()
        page.locator("tr.tr-body").first.click()
        page.locator("#text-view .owl-box").first.wait_for()
        assert page.get_by_label("Look for").input_value() == "cat, red mug"
        assert page.locator(f"#text-picture img[src$='{photo.name}']").count() == 1


def test_examples_are_pictures_with_words_beside_them(tmp_path: Path) -> None:
    from app import read_examples

    with pytest.raises(ConfigError, match=r"expected pictures with \.txt files"):
        read_examples(tmp_path)
    for name in ("b.png", "a.JPG", "alone.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("cat, dog\n")
    (tmp_path / "b.txt").write_text("owl")
    assert read_examples(tmp_path) == [
        (str(tmp_path / "a.JPG"), "cat, dog"),
        (str(tmp_path / "b.png"), "owl"),
    ]


def test_without_a_model_the_page_says_what_makes_one(
    browser: Any, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from page.model import DEFAULT_MODEL, QUICKSTART, Model

    monkeypatch.chdir(tmp_path)
    model = Model()
    with page_of(model, tmp_path) as (url, _), visit(browser, url) as page:
        remedy = page.locator("#remedy")
        remedy.get_by_text("make quickstart").wait_for()
        upload(page, photo)
        ask(page, "cat")
        page.get_by_test_id("toast-text").get_by_text("make quickstart").wait_for()
        (QUICKSTART / "detector" / "best").mkdir(parents=True)
        page.reload()
        remedy.get_by_text(f"python tools/export_onnx.py {QUICKSTART}").wait_for()
        DEFAULT_MODEL.mkdir()
        page.reload()
        page.get_by_label("Look for").wait_for()
        remedy.wait_for(state="hidden")
    assert Model("anything").remedy is None


def test_a_process_is_met_by_this_machine_alone_and_leaves_nothing(
    browser: Any, photo: Path, tmp_path: Path
) -> None:
    with serve(Path("nonsense"), tmp_path) as served:
        port = int(served.url.rpartition(":")[2])
        # Another address of this machine, which a socket open to all networks would answer.
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))
        with visit(browser, served.url) as page:
            upload(page, photo)
            ask(page, "cat")
            page.get_by_test_id("toast-text").get_by_text("nonsense").wait_for()
        assert [path.name for path in served.temporary.rglob(photo.name)] == [photo.name]
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=60) == 0
        assert [*served.temporary.iterdir()] == []
        log = served.log.read_text()
        assert "Traceback" not in log
        assert "nonsense" in log


def test_a_taken_port_is_one_line(app: Any, tmp_path: Path) -> None:
    import gradio as gr

    from page.limits import Limits
    from page.serving import serve as serve_page

    port = int(app.url.rpartition(":")[2])
    with gr.Blocks() as blocks:
        gr.Textbox()
    with pytest.raises(
        ConfigError, match=f"cannot listen on 127.0.0.1:{port}: .*; choose another --host or --port"
    ):
        serve_page(blocks, Limits(), tmp_path, host="127.0.0.1", port=port, quiet=True)


def test_it_is_shared_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import page.serving
    from app import SUMMARY, add_arguments, run
    from owlkit.cli.command import Command

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(page.serving, "serve", lambda *_, **options: told.append(options))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    command = Command(SUMMARY, add_arguments, run, extra="demo")
    assert command.main(["--port", "1"]) == 0
    assert command.main(["--share"]) == 0
    assert [one["share"] for one in told] == [False, True]
    assert [one["host"] for one in told] == ["127.0.0.1", "127.0.0.1"]
