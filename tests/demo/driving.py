"""What visitors do in the tab *Text*, and what they see."""

import re
from pathlib import Path
from typing import Any

import numpy as np

_STYLE = re.compile(r"left: ([\d.]+)%; top: ([\d.]+)%; width: ([\d.]+)%; height: ([\d.]+)%")


def find(page: Any, picture: Path, words: str) -> None:
    """Uploads a picture, types words and waits for the answer."""
    upload(page, picture)
    ask(page, words)
    page.locator("#text-view .owl-picture img").wait_for()


def upload(page: Any, picture: Path) -> None:
    """Uploads a picture and waits until the page shows it."""
    page.locator("#text-picture input[type=file]").set_input_files(picture)
    page.locator(f"#text-picture img[src$='{picture.name}']").wait_for()


def ask(page: Any, words: str) -> None:
    """Types words and presses the button."""
    page.get_by_label("Look for").fill(words)
    page.get_by_role("button", name="Find", exact=True).click()


def set_slider(page: Any, label: str, value: float) -> None:
    """Types a number beside a slider of the tab that is open."""
    box = page.get_by_label(f"number input for {label}").locator("visible=true")
    box.fill(str(value))
    box.press("Tab")


def message(page: Any) -> str:
    """The message that is shown."""
    return str(page.get_by_test_id("toast-text").first.inner_text())


def shown(page: Any, view: str = "#text-view") -> tuple[list[str], np.ndarray]:
    """Texts of the boxes of one picture, best first, and their corners as shares of it."""
    boxes = page.locator(f"{view} .owl-box")
    found = boxes.evaluate_all("all => all.map(one => [one.ariaLabel, one.getAttribute('style')])")
    corners = [_corners(style) for _, style in found]
    return [text for text, _ in reversed(found)], np.array(corners[::-1]).reshape(-1, 4)


def _corners(style: str) -> list[float]:
    left, top, width, height = (float(number) / 100 for number in _STYLE.search(style).groups())
    return [left, top, left + width, top + height]


def assert_shown(page: Any, expected: Any, view: str = "#text-view") -> None:
    """Waits until the page shows detections, and no others."""
    page.locator(f"{view} ul[aria-label='{len(expected)} boxes']").wait_for(state="attached")
    texts, corners = shown(page, view)
    scores = zip(expected.names, expected.scores, strict=True)
    assert texts == [f"{name} {score:.2f}" for name, score in scores]
    height, width = expected.image_size
    size = np.array([width, height, width, height])
    # The page states shares of the picture to 0.001 %.
    np.testing.assert_allclose(corners, expected.boxes.clip(0, size) / size, atol=2e-5)
