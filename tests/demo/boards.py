"""What visitors draw in the tab *Image query*."""

from pathlib import Path
from typing import Any

BOARD = "#example-board"
Box = tuple[float, float, float, float]


def open_tab(page: Any, name: str) -> None:
    """Opens a tab."""
    page.get_by_role("tab", name=name, exact=True).click()


def choose_reference(page: Any, picture: Path) -> None:
    """Uploads a reference picture and waits until it can be drawn on."""
    sheet = page.locator(f"{BOARD} .owl-sheet img")
    before = sheet.get_attribute("src") if sheet.count() else ""
    page.locator("#example-reference input[type=file]").set_input_files(picture)
    page.locator(f"{BOARD} .owl-sheet img:not([src='{before}'])").wait_for()


def draw(page: Any, box: Box, *, negative: bool = False) -> None:
    """Draws a box with the mouse, in shares of the picture."""
    page.locator(BOARD).get_by_label("not this" if negative else "the object", exact=True).check()
    sheet = page.locator(f"{BOARD} .owl-sheet")
    sheet.scroll_into_view_if_needed()
    place = sheet.bounding_box()
    corners = [
        (place["x"] + x * place["width"], place["y"] + y * place["height"])
        for x, y in (box[:2], box[2:])
    ]
    count = page.locator(f"{BOARD} .owl-box").count()
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=3)
    page.mouse.up()
    page.locator(f"{BOARD} .owl-box").nth(count).wait_for()


def add_example(page: Any, name: str, examples: int) -> None:
    """Presses the button and waits until the list shows so many examples."""
    page.locator("#example-name textarea, #example-name input").fill(name)
    page.get_by_role("button", name="Add example").click()
    wait_for_examples(page, examples)


def wait_for_examples(page: Any, examples: int) -> None:
    """Waits until the list shows so many examples."""
    dashed = "#example-list .owl-taken"
    page.wait_for_function(
        "([dashed, count]) => document.querySelectorAll(dashed).length === count",
        arg=[dashed, examples],
    )


def choose_files(page: Any, where: str, files: list[Path]) -> None:
    """Uploads files and waits until they are listed."""
    page.locator(f"{where} input[type=file]").set_input_files(files)
    page.locator(f"{where} .file-preview tr, {where} .file-preview [role=row]").nth(
        len(files) - 1
    ).wait_for()
