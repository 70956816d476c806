"""The tab *Text* in a browser, against what the predictor says."""

import json
import re
import zipfile
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owlkit.detections import Detections
from owlkit.predictor import Predictor
from owlkit.queries.syntax import parse_words
from tests.demo.conftest import visit
from tests.demo.driving import ask, assert_shown, find, message, set_slider, upload

WORDS = "cat, red mug"


@pytest.fixture(scope="module")
def photo(data_dir: Path) -> Path:
    return data_dir / "samples" / "dog.jpg"


def expected(predictor: Predictor, photo: Path, words: str = WORDS, **settings: Any) -> Detections:
    settings = {"threshold": 0.1, "nms_iou": 0.5, "top_k": 100, **settings}
    return predictor.detect(str(photo), parse_words(words), **settings)


def test_words_find_boxes_and_sliders_filter_them_without_the_network(
    page: Any, app: Any, predictor: Predictor, photo: Path
) -> None:
    find(page, photo, WORDS)
    everything = expected(predictor, photo)
    assert_shown(page, everything)
    times = page.locator("#text-summary").inner_text()
    assert re.search(r"\d+ boxes\s+encode \d+ ms · query \d+ ms · total \d+ ms", times)
    passes = app.passes
    fewer = expected(predictor, photo, threshold=0.6)
    assert 0 < len(fewer) < len(everything)
    set_slider(page, "Threshold", 0.6)
    assert_shown(page, fewer)
    set_slider(page, "Threshold", 0.1)
    set_slider(page, "NMS IoU", 0.05)
    assert_shown(page, few := expected(predictor, photo, nms_iou=0.05))
    assert len(few) < len(everything)
    set_slider(page, "Most boxes", 3)
    assert_shown(page, expected(predictor, photo, nms_iou=0.05, top_k=3))
    # The slider itself, by its keys.
    slider = page.get_by_label("range slider for Threshold").locator("visible=true")
    slider.press("End")
    assert_shown(page, everything[:0])
    assert "0 boxes encode kept" in page.locator("#text-summary").inner_text()
    assert app.passes == passes


def test_a_question_asked_while_one_is_answered_is_answered_too(
    page: Any, app: Any, predictor: Predictor, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = Event(), Event()
    encode = app.backend.encode_texts

    def slow(texts: Any) -> Any:
        asked.set()
        assert go_on.wait(60)
        return encode(texts)

    monkeypatch.setattr(app.backend, "encode_texts", slow)
    upload(page, photo)
    ask(page, "newt")
    assert asked.wait(60)
    ask(page, "toad")
    go_on.set()
    page.locator("#text-view .owl-box[aria-label^='toad']").first.wait_for(state="attached")
    assert_shown(page, expected(predictor, photo, "toad"))


@pytest.mark.filterwarnings("ignore:.*is cut to the limit")  # the model reads few tokens
def test_templates_are_filled_with_the_words(page: Any, predictor: Predictor, photo: Path) -> None:
    upload(page, photo)
    page.get_by_label("Prompt templates").click()
    page.get_by_role("option", name="ensemble7").click()
    ask(page, WORDS)
    queries = parse_words(WORDS, "ensemble7")
    assert_shown(page, predictor.detect(str(photo), queries, threshold=0.1, nms_iou=0.5, top_k=100))


def test_boxes_name_themselves_to_pointer_and_keyboard(page: Any, photo: Path) -> None:
    find(page, photo, "cat, dog, owl, red mug, tree, truck")
    boxes = page.locator("#text-view .owl-box")
    boxes.first.wait_for()
    assert boxes.count() > 40
    assert page.locator("#text-view .owl-box span:visible").count() == 0  # too many to read
    best = boxes.last
    best.hover()
    assert best.locator("span").is_visible()
    page.mouse.move(0, 0)
    boxes.nth(1).focus()
    page.keyboard.press("Shift+Tab")
    first = boxes.first
    assert first.evaluate("box => box === document.activeElement")
    assert first.locator("span").is_visible()
    assert first.locator("span").inner_text() == first.get_attribute("aria-label")
    set_slider(page, "Most boxes", 5)
    page.locator("#text-view ul[aria-label='5 boxes']").wait_for(state="attached")
    assert page.locator("#text-view .owl-box span:visible").count() == 5


def test_the_table_lists_boxes_best_first(page: Any, predictor: Predictor, photo: Path) -> None:
    find(page, photo, WORDS)
    page.get_by_text("Table of boxes").click()
    rows = page.locator("#text-table [role=row]:has([role=gridcell])")
    rows.first.wait_for()
    cells = [row.splitlines() for row in rows.all_inner_texts()]
    found = expected(predictor, photo)[: len(cells)]
    assert len(cells) >= 5
    assert [row[:3] for row in cells] == [
        [photo.name, name, f"{round(float(score), 4):g}"]
        for name, score in zip(found.names, found.scores, strict=True)
    ]
    boxes = np.array([[float(value) for value in row[3:]] for row in cells])
    np.testing.assert_allclose(boxes, found.boxes, atol=0.0501)


def test_downloads(page: Any, predictor: Predictor, photo: Path, tmp_path: Path) -> None:
    page.get_by_role("button", name="COCO JSON").click()
    assert message(page) == "choose a picture first"
    find(page, photo, WORDS)
    set_slider(page, "Threshold", 0.6)
    found = expected(predictor, photo, threshold=0.6)
    assert_shown(page, found)

    coco = json.loads(saved(page, "COCO JSON", tmp_path).read_text())
    assert [one["name"] for one in coco["categories"]] == ["cat", "red mug"]
    assert [one["file_name"] for one in coco["images"]] == [photo.name]
    boxes = np.array([one["bbox"] for one in coco["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    height, width = found.image_size
    size = [width, height, width, height]
    np.testing.assert_allclose(boxes, found.boxes.clip(0, size), atol=0.01)

    with zipfile.ZipFile(saved(page, "YOLO txt", tmp_path)) as archive:
        lines = archive.read(f"labels/{photo.stem}.txt").decode().splitlines()
    assert [int(line.split()[0]) for line in lines] == found.labels.tolist()

    with Image.open(saved(page, "PNG", tmp_path)) as drawn, Image.open(photo) as original:
        assert drawn.format == "PNG"
        assert drawn.size == original.size
        assert np.abs(np.asarray(drawn, int) - np.asarray(original, int)).mean() > 1


def saved(page: Any, title: str, folder: Path) -> Path:
    """What a button saves, pressed by the keyboard."""
    with page.expect_download() as download:
        page.get_by_role("button", name=title).press("Enter")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_class_keeps_its_colour(page: Any, photo: Path) -> None:
    find(page, photo, WORDS)
    page.get_by_text("Colours", exact=True).click()
    page.get_by_label("Class", exact=True).click()
    page.get_by_role("option", name="red mug").click()
    picker = page.locator("#text-colour")
    picker.locator("[style*='rgb(86, 180, 233)']").wait_for()  # that of the second class
    picker.get_by_role("button", name="Colour").click()
    picker.locator("input[type=text]").fill("#1e90ff")
    picker.locator("input[type=text]").press("Enter")
    colours = "[style*='--owl-colour: rgb(30, 144, 255)']"
    page.locator(f"#text-view {colours}").first.wait_for()
    page.get_by_label("Look for").fill("owl, red mug")
    page.get_by_label("Look for").press("Enter")
    page.locator("#text-view .owl-box[aria-label^='owl']").first.wait_for()
    painted = page.locator(f"#text-view {colours}")
    names = painted.evaluate_all("all => all.map(one => one.ariaLabel.slice(0, 7))")
    assert set(names) == {"red mug"}
    assert len(names) == page.locator("#text-view .owl-box[aria-label^='red mug']").count()
    # What is painted with is what was chosen.
    page.get_by_label("Class", exact=True).click()
    page.get_by_role("option", name="red mug").click()
    picker.locator("[style*='rgb(30, 144, 255)']").first.wait_for()


def test_pictures_can_be_pasted(browser: Any, app: Any) -> None:
    with visit(browser, app.url, permissions=["clipboard-read", "clipboard-write"]) as page:
        picture = page.locator("#text-picture")
        assert picture.get_by_role("button", name="Capture from camera").is_visible()
        page.evaluate(_COPY)
        picture.get_by_role("button", name="Paste from clipboard").click()
        picture.locator("img").wait_for()
        ask(page, WORDS)
        page.locator("#text-view .owl-box").first.wait_for()


_COPY = """async () => {
  const canvas = document.createElement("canvas");
  const file = await new Promise((done) => canvas.toBlob(done));
  await navigator.clipboard.write([new ClipboardItem({"image/png": file})]);
}"""
