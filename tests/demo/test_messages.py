"""What cannot be done is told in a sentence, and the app lives on."""

import logging
from pathlib import Path
from typing import Any

import pytest

from owlkit.errors import CheckpointError, ConfigError, ImageError, OwlkitError, QueryError
from tests.demo.driving import ask, find, upload
from tests.demo.hostile import huge_png


def tell(page: Any, text: str) -> None:
    """Waits for a message."""
    page.get_by_test_id("toast-text").get_by_text(text).first.wait_for()


def test_bad_pictures(page: Any, app: Any, data_dir: Path, tmp_path: Path) -> None:
    photo = data_dir / "samples" / "dog.jpg"
    faults = {
        "huge.png": "Image size (300000000 pixels) exceeds",
        "text.png": "text.png: expected an image",
        "drawing.svg": "drawing.svg: expected a picture",
        "notes.txt": "notes.txt",
        "large.jpg": "maximum allowed size of 50",
    }
    (tmp_path / "huge.png").write_bytes(huge_png())
    for name in ("text.png", "drawing.svg", "notes.txt"):
        (tmp_path / name).write_text("<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(200 << 20)
    for name, text in faults.items():
        page.locator("#text-picture input[type=file]").set_input_files(tmp_path / name)
        tell(page, text)
        assert page.locator("#text-picture img").count() == 0
        assert [*app.temporary.rglob(name)] == []
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photo.read_bytes()[:40_000])
    upload(page, cut)
    ask(page, "cat")
    tell(page, "cut.jpg: expected an undamaged image")
    page.reload()
    find(page, photo, "cat")


def test_what_is_missing_is_asked_for(page: Any, data_dir: Path) -> None:
    page.get_by_role("button", name="Find", exact=True).click()
    tell(page, "expected words")
    ask(page, "cat [nose")
    tell(page, "expected ']'")
    ask(page, "cat")
    tell(page, "choose a picture first")


def test_a_huge_picture_is_never_decoded(app: Any) -> None:
    from page.limits import Limits
    from page.uploads import picture_size, read_picture

    path = app.temporary / "huge.png"
    path.write_bytes(huge_png())
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    try:
        for read in (picture_size, read_picture):
            with pytest.raises(
                ImageError, match=r"^huge\.png: expected an image of reasonable size"
            ):
                read(path, Limits())
    finally:
        path.unlink()
    assert _kilobytes("VmHWM") - before < 32 << 10


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.mark.parametrize(
    ("error", "told", "logged"),
    [
        (ImageError("a.png: expected an image"), "a.png: expected an image", ""),
        (QueryError("x" * 600), "x" * 500 + "…", ""),
        (CheckpointError("no model: make one"), "The model cannot answer: no model", "no model"),
        (ConfigError("/srv/model: broken"), "The model cannot answer: see the server", "broken"),
        (OwlkitError("/srv/model: broken"), "The model cannot answer: see the server", "broken"),
    ],
)
def test_errors_become_messages(
    error: OwlkitError, told: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    import gradio as gr

    from page.messages import speaking

    @speaking
    def fail() -> None:
        raise error

    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as raised:
        fail()
    assert raised.value.message.startswith(told)
    assert "/srv" not in raised.value.message
    assert not raised.value.print_exception
    assert logged in caplog.text
    assert bool(caplog.records) == bool(logged)
