"""Photographs the demo for the documentation: `python tools/make_screenshots.py MODEL OUT`.

MODEL is the quickstart's export (``runs/quickstart/onnx``). The pictures are scenes like those that
it has learned from, drawn larger. Needs Playwright and a Chromium.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from owlkit.data.scenes import CLASS_NAMES, TIERS
from owlkit.data.scenes.scene import draw_scene
from owlkit.video import VideoWriter

APP = Path(__file__).parents[1] / "demo" / "app.py"
ENLARGED = 8
SEED = 7
SCENES = (28, 14, 0, 9, 10, 26, 30, 39)  # the second to the fifth hold a black star
SECONDS = 120


@dataclass(frozen=True)
class Picture:
    """A scene in a file.

    Attributes:
        path: Of the file.
        names: Of its objects.
        boxes: xyxy of each, as shares of the picture.
    """

    path: Path
    names: tuple[str, ...]
    boxes: tuple[tuple[float, ...], ...]

    @property
    def words(self) -> str:
        """What to look for."""
        return ", ".join(self.names)


def draw_pictures(folder: Path) -> list[Picture]:
    """The scenes, each with its words in a file beside it."""
    easy = TIERS["easy"]
    radius = (ENLARGED * easy.radius[0], ENLARGED * easy.radius[1])
    tier = replace(easy, size=ENLARGED * easy.size, radius=radius, objects=(3, 3), noise=(0, 0))
    folder.mkdir()
    pictures = []
    for index in SCENES:
        scene = draw_scene(tier, "val", index, seed=SEED)
        names = tuple(CLASS_NAMES[label] for label in scene.labels)
        boxes = tuple(tuple(box) for box in (scene.boxes / tier.size).tolist())
        picture = Picture(folder / f"scene{index}.png", names, boxes)
        Image.fromarray(scene.image).save(picture.path)
        picture.path.with_suffix(".txt").write_text(picture.words)
        pictures.append(picture)
    return pictures


def draw_clip(picture: Picture, path: Path) -> None:
    """A camera that turns round in a scene."""
    pixels = np.asarray(Image.open(picture.path).convert("RGB"))
    with VideoWriter(path, 12) as video:
        for frame in range(36):
            video.write(np.ascontiguousarray(np.roll(pixels, 3 * frame, axis=1)))


@contextmanager
def served(model: Path, examples: Path, pictures: Path) -> Iterator[str]:
    """The demo in a process of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--port", str(port), "--examples", examples, "--pictures", pictures)
    process = subprocess.Popen([sys.executable, APP, "--model", model, *options])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("error: the demo did not start")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/config"):
            return True
    except (URLError, OSError):
        return False


def show_text(page: Any, pictures: list[Picture]) -> None:
    """The tab *Text* with an answer and its table."""
    first = pictures[0]
    page.locator("#text-picture input[type=file]").set_input_files(first.path)
    page.locator(f"#text-picture img[src$='{first.path.name}']").wait_for()
    page.get_by_label("Look for").locator("visible=true").fill(first.words)
    page.locator("#text-find").click()
    page.locator("#text-view .owl-box").first.wait_for()
    page.get_by_text("Table of boxes").locator("visible=true").click()
    page.locator("#text-table [role=gridcell]").first.wait_for()


def show_image_query(page: Any, pictures: list[Picture]) -> None:
    """Two boxes drawn on one picture, and their like in others."""
    open_tab(page, "Image query")
    reference = pictures[1]
    page.locator("#example-reference input[type=file]").set_input_files(reference.path)
    sheet = page.locator("#example-board .owl-sheet")
    sheet.locator("img").wait_for()
    sheet.scroll_into_view_if_needed()
    place = sheet.bounding_box()
    x0, y0, x1, y1 = reference.boxes[0]
    page.mouse.move(place["x"] + x0 * place["width"], place["y"] + y0 * place["height"])
    page.mouse.down()
    page.mouse.move(place["x"] + x1 * place["width"], place["y"] + y1 * place["height"], steps=5)
    page.mouse.up()
    page.locator("#example-name").locator("textarea, input").fill(reference.names[0])
    page.locator("#example-add").click()
    page.locator("#example-list .owl-taken").wait_for()
    page.locator("#example-targets input[type=file]").set_input_files(
        [one.path for one in pictures[2:5]]
    )
    page.locator("#example-targets").get_by_text(pictures[4].path.stem).first.wait_for()
    page.locator("#example-find").click()
    page.locator("#example-view .owl-box").first.wait_for()


def show_both(page: Any, pictures: list[Picture]) -> None:
    """The classes of the other tabs in one query set."""
    open_tab(page, "Both")
    page.locator("#both-pictures input[type=file]").set_input_files(
        [one.path for one in pictures[:2]]
    )
    page.locator("#both-pictures").get_by_text(pictures[1].path.stem).first.wait_for()
    page.locator("#both-find").click()
    page.locator("#both-view .owl-box").first.wait_for()


def show_maps(page: Any, pictures: list[Picture]) -> None:
    """Heat maps of words."""
    open_tab(page, "Explore")
    page.locator("#maps-picture input[type=file]").set_input_files(pictures[0].path)
    page.locator("#maps-picture img").wait_for()
    page.locator("#maps-words textarea").fill(pictures[0].words)
    page.locator("#maps-fit").click()
    page.locator("#maps-view .owl-figure").nth(len(pictures[0].names) - 1).wait_for()


def show_search(page: Any, pictures: list[Picture]) -> None:
    """Places like a word in the pictures of a folder."""
    open_tab(page, "Explore")
    open_tab(page, "Search in pictures")
    page.locator("#search-words textarea").fill(pictures[1].names[0])
    page.get_by_label("number input for Most places").fill("8")
    page.locator("#search-find").click()
    page.locator("#search-view button").first.wait_for()


def show_video(page: Any, pictures: list[Picture]) -> None:
    """A clip with boxes."""
    open_tab(page, "Video")
    clip = pictures[0].path.parent.parent / "clip.mp4"
    draw_clip(pictures[0], clip)
    page.locator("#video-clip input[type=file]").set_input_files(clip)
    page.locator("#video-clip video").wait_for()
    page.locator("#video-words textarea").fill(pictures[0].words)
    page.locator("#video-find").click()
    page.get_by_text("frames a second").wait_for()
    page.wait_for_function("document.querySelector('#video-view video').readyState >= 2")


def open_tab(page: Any, name: str) -> None:
    """Opens a tab."""
    page.get_by_role("tab", name=name, exact=True).click()


SHOTS: dict[str, tuple[Callable[[Any, list[Picture]], None], ...]] = {
    "demo_text": (show_text,),
    "demo_image_query": (show_image_query,),
    "demo_both": (show_text, show_image_query, show_both),
    "demo_explore": (show_maps,),
    "demo_search": (show_search,),
    "demo_video": (show_video,),
    "demo_dark": (show_text,),
    "demo_phone": (show_text,),
}


def take(browser: Any, url: str, out: Path, pictures: list[Picture]) -> None:
    """Writes every picture of :data:`SHOTS`."""
    for name, steps in SHOTS.items():
        theme = "dark" if name == "demo_dark" else "light"
        width, height = (400, 860) if name == "demo_phone" else (1280, 800)
        with browser.new_context(viewport={"width": width, "height": height}) as context:
            context.set_default_timeout(1000 * SECONDS)
            page = context.new_page()
            page.goto(f"{url}?__theme={theme}")
            for step in steps:
                step(page, pictures)
            page.mouse.move(0, 0)
            page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(1000)  # until what moves has come to rest
            path = out / f"{name}.png"
            page.screenshot(path=path, full_page=True)
            print(path)


def main(arguments: list[str] | None = None) -> None:
    """Draws, serves, photographs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder that owlkit export has written")
    parser.add_argument("out", type=Path, help="folder of the screenshots")
    options = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        pictures = draw_pictures(Path(temporary) / "scenes")
        tried = Path(temporary) / "examples"
        tried.mkdir()
        for one in pictures[5:7]:
            shutil.copy(one.path, tried)
            shutil.copy(one.path.with_suffix(".txt"), tried)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with served(options.model, tried, pictures[0].path.parent) as url:
            take(browser, url, options.out, pictures)
        browser.close()


if __name__ == "__main__":
    main()
