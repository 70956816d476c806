"""The tab *Image query* in a browser, against what the predictor says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owlkit.predictor import Predictor
from owlkit.queries import QuerySet
from tests.demo.boards import (
    BOARD,
    Box,
    add_example,
    choose_files,
    choose_reference,
    draw,
    open_tab,
    wait_for_examples,
)
from tests.demo.driving import assert_shown, message, set_slider, shown

MUG = (0.25, 0.3, 0.7, 0.9)
OTHER = (0.05, 0.05, 0.3, 0.4)


@pytest.fixture(scope="module")
def photos(data_dir: Path) -> dict[str, Path]:
    return {path.stem: path for path in (data_dir / "samples").glob("*.jpg")}


def pixels(photo: Path, box: Box) -> np.ndarray:
    with Image.open(photo) as image:
        return np.array(box) * [*image.size, *image.size]


def figure(number: int) -> str:
    return f"#example-view .owl-figure:nth-of-type({number})"


def find(page: Any) -> None:
    page.get_by_role("button", name="Find", exact=True).click()


def detect(predictor: Predictor, photo: Path, queries: QuerySet, threshold: float = 0.1) -> Any:
    return predictor.detect(str(photo), queries, threshold=threshold, nms_iou=0.5, top_k=100)


def test_a_drawn_box_finds_its_like_in_other_pictures(
    page: Any, app: Any, predictor: Predictor, photos: dict[str, Path], tmp_path: Path
) -> None:
    targets = [tmp_path / "one.png", tmp_path / "two.png"]  # which nobody has shown the app yet
    with Image.open(photos["truck"]) as truck:
        truck.crop((7, 5, 900, 800)).save(targets[0])
        truck.crop((500, 100, 1500, 1100)).save(targets[1])
    queries = QuerySet()
    queries.add_example("mug", str(photos["dog"]), pixels(photos["dog"], MUG))
    open_tab(page, "Image query")
    choose_reference(page, photos["dog"])
    images, texts = app.passes
    draw(page, MUG)
    add_example(page, "mug", 1)
    assert page.locator(f"{BOARD} .owl-box").count() == 0
    assert app.passes == (images + 1, texts)

    # What was taken is shown beside what was drawn.
    [taken] = predictor.chosen(queries, "mug")
    names, corners = shown(page, "#example-list")
    assert names == ["mug", f"mug: taken, {taken.iou:.2f}"]
    np.testing.assert_allclose(corners[0], MUG, atol=0.01)
    with Image.open(photos["dog"]) as image:
        size = np.array([*image.size, *image.size])
    np.testing.assert_allclose(corners[1], np.array(taken.box).clip(0, size) / size, atol=2e-5)

    choose_files(page, "#example-targets", targets)
    find(page)
    for number, photo in enumerate(targets, start=1):
        assert_shown(page, detect(predictor, photo, queries), figure(number))
    passes = app.passes
    assert passes == (images + 3, texts)
    everything = detect(predictor, targets[0], queries)
    threshold = round(float(np.median(everything.scores)), 2)
    fewer = detect(predictor, targets[0], queries, threshold)
    assert 0 < len(fewer) < len(everything)
    set_slider(page, "Threshold", threshold)
    assert_shown(page, fewer, figure(1))
    assert app.passes == passes


def test_several_references_negatives_and_what_is_removed(
    page: Any, predictor: Predictor, photos: dict[str, Path]
) -> None:
    dog, truck, frog = (photos[name] for name in ("dog", "truck", "frog"))
    open_tab(page, "Image query")
    choose_reference(page, dog)
    draw(page, MUG)
    draw(page, OTHER, negative=True)
    add_example(page, "mug", 2)
    choose_reference(page, truck)
    draw(page, OTHER)
    choose_files(page, "#example-targets", [frog])
    page.get_by_label("Look in the reference picture, too").check()
    find(page)  # which adds what is drawn
    wait_for_examples(page, 3)

    queries = QuerySet()
    queries.add_example("mug", str(dog), pixels(dog, MUG))
    queries.add_example("mug", str(dog), pixels(dog, OTHER), negative=True)
    without = QuerySet(queries.classes)
    queries.add_example("mug", str(truck), pixels(truck, OTHER))
    assert_shown(page, detect(predictor, truck, queries), figure(1))
    assert_shown(page, detect(predictor, frog, queries), figure(2))

    assert page.locator("#example-list .owl-figure").count() == 2
    page.locator("#example-chosen input").click()
    page.get_by_role("option", name="2. mug").click()
    page.get_by_role("button", name="Remove it").click()
    wait_for_examples(page, 2)
    find(page)
    assert_shown(page, detect(predictor, frog, without), figure(2))


def test_without_a_box_the_model_chooses(
    page: Any, predictor: Predictor, photos: dict[str, Path]
) -> None:
    open_tab(page, "Image query")
    find(page)
    assert message(page) == "draw a box on a reference picture first, on what to look for"
    choose_reference(page, photos["dog"])
    page.get_by_label("Look in the reference picture, too").check()
    find(page)
    queries = QuerySet()
    queries.add_example("object", str(photos["dog"]))
    assert_shown(page, detect(predictor, photos["dog"], queries), figure(1))
    wait_for_examples(page, 1)
    assert shown(page, "#example-list")[0] == [
        f"object: taken, {predictor.chosen(queries, 'object')[0].iou:.2f}"
    ]


def test_boxes_are_drawn_by_keyboard(page: Any, photos: dict[str, Path]) -> None:
    def labels() -> list[str]:
        boxes = page.locator(f"{BOARD} .owl-box")
        return boxes.evaluate_all("all => all.map(one => one.ariaLabel)")

    open_tab(page, "Image query")
    choose_reference(page, photos["dog"])
    page.get_by_role("button", name="Add a box").press("Enter")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert labels() == ["Box 1, the object: 23 to 74 % from the left, 26 to 75 % from the top"]
    page.locator(BOARD).get_by_label("not this", exact=True).press("Space")
    page.get_by_role("button", name="Add a box").press("Enter")
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert labels()[1] == "Box 2, not this: 50 to 100 % from the left, 25 to 75 % from the top"
    page.keyboard.press("Delete")
    assert len(labels()) == 1
    page.get_by_role("button", name="Clear boxes").press("Enter")
    assert labels() == []


def test_the_tab_fits_a_phone_in_the_dark(browser: Any, app: Any, photos: dict[str, Path]) -> None:
    from tests.demo.conftest import visit

    url, narrow = f"{app.url}/?__theme=dark", {"width": 400, "height": 800}
    with visit(browser, url, viewport=narrow) as page:
        open_tab(page, "Image query")
        choose_reference(page, photos["dog"])
        draw(page, MUG)
        add_example(page, "mug", 1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
