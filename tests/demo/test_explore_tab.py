"""The tab *Explore*: maps of a picture and search in many, against what the predictor says."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from numpy.typing import NDArray

from owlkit.errors import ConfigError, ImageError, QueryError
from owlkit.geometry import ImageTransform
from owlkit.images import load_image
from owlkit.predictor import Predictor
from owlkit.queries import QuerySet
from tests.demo.driving import message


@pytest.fixture(scope="module")
def photo(data_dir: Path) -> Path:
    return data_dir / "samples" / "dog.jpg"


@pytest.fixture
def photos(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "coco_real" / "val2017").glob("*.jpg"))[:5]


@pytest.fixture
def explore(page: Any) -> Callable[[str], Any]:
    """Opens a part of the tab."""

    def open_part(name: str) -> Any:
        page.get_by_role("tab", name="Explore").click()
        page.get_by_role("tab", name=name).click()
        return page

    return open_part


def cells_at(cells: NDArray[Any], where: ImageTransform, columns: int, rows: int) -> NDArray[Any]:
    """What lies under the pixels of a picture of that size, one by one."""
    height, width = where.image_size
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    points = np.stack([x * width, y * height, x * width, y * height], axis=-1).reshape(-1, 4)
    across, down = where.apply(points)[:, :2].T
    found = cells[(down * cells.shape[0]).astype(int), (across * cells.shape[1]).astype(int)]
    return found.reshape(rows, columns)


def best_on_picture(predictor: Predictor, photo: Path, word: str) -> float:
    """The highest score of a word on patches that lie on the picture, not in the padding."""
    scene = predictor.encode(photo)
    known = predictor.patches(scene)
    directions = known.class_embeds / np.linalg.norm(known.class_embeds, axis=1, keepdims=True)
    cosines = directions @ predictor.backend.encode_texts([word])[0]
    scores = 1 / (1 + np.exp(-(cosines + known.logit_shift) * known.logit_scale))
    side = int(len(scores) ** 0.5)
    height, width = scene.transform.image_size
    return cells_at(scores.reshape(side, side), scene.transform, width, height).max()


def captions(page: Any) -> list[str]:
    return [str(text) for text in page.locator("#maps-view figcaption").all_inner_texts()]


def test_heat_maps_of_words_need_one_image_pass(
    explore: Callable[[str], Any], app: Any, predictor: Predictor, photo: Path
) -> None:
    page = explore("Maps of a picture")
    page.locator("#maps-picture input[type=file]").set_input_files(photo)
    page.locator("#maps-picture img").wait_for()
    images, texts = app.passes

    def ask(words: str) -> None:
        page.locator("#maps-words textarea").fill(words)
        page.get_by_role("button", name="Where words fit").click()
        page.get_by_text(f"{words.rpartition(', ')[2]}: up to").wait_for()

    ask("ant, bee")
    best = [best_on_picture(predictor, photo, word) for word in ("ant", "bee")]
    assert captions(page) == [f"ant: up to {best[0]:.3f}", f"bee: up to {best[1]:.3f}"]
    assert app.passes == (images + 1, texts + 2)
    ask("wasp")
    assert len(captions(page)) == 1
    page.get_by_label("Smooth").click()
    ask("bee")
    assert app.passes == (images + 1, texts + 3)
    ask(", ".join(f"word {number}" for number in range(12)))
    page.locator("#maps-words textarea").fill(", ".join(f"word {number}" for number in range(13)))
    page.get_by_role("button", name="Where words fit").click()
    assert "at most 12 words, found 13" in message(page)


def test_attention_needs_one_pass_for_all_heads(
    explore: Callable[[str], Any],
    app: Any,
    predictor: Predictor,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    look = app.backend.attention
    monkeypatch.setattr(app.backend, "attention", lambda pixels: seen.append(1) or look(pixels))
    page = explore("Maps of a picture")
    page.get_by_role("button", name="Where the model looks").click()
    assert "choose a picture" in message(page)
    page.locator("#maps-picture input[type=file]").set_input_files(photo)
    page.locator("#maps-picture img").wait_for()
    page.get_by_role("button", name="Where the model looks").click()
    page.get_by_text("Mean of all heads: up to").wait_for()
    maps = predictor.attention(photo)
    assert captions(page) == [f"Mean of all heads: up to {maps.on_image().max():.3f}"]
    last = len(maps.heads)
    page.get_by_label("Attention head").click()
    page.get_by_role("option", name=f"Head {last}").click()
    page.get_by_text(f"Head {last}: up to").wait_for()
    assert captions(page) == [f"Head {last}: up to {maps.on_image(head=last - 1).max():.3f}"]
    assert seen == [1]


def test_a_map_lies_over_the_picture_as_it_is_shown(
    app: Any, predictor: Predictor, tmp_path: Path
) -> None:
    from owlkit.attention_map import cells_on_image
    from page.maps import _resized, as_cells

    pixels = np.random.default_rng(0).integers(0, 255, (90, 333, 3), dtype=np.uint8)
    scene = predictor.encode(pixels)
    size = predictor.backend.preprocessing.size
    patches = np.arange(2.0 * len(scene.boxes)).reshape(-1, 2)
    both = as_cells(patches, size)
    assert both.shape[0] == 2
    assert both[1].ravel().tolist() == patches[:, 1].tolist()
    shown, where = _resized(pixels, scene.transform, 512)
    assert shown.shape == (138, 512, 3)
    expected = cells_at(both[0], scene.transform, 512, 138)
    np.testing.assert_array_equal(cells_on_image(both[0], where), expected)


def test_cells_of_inputs_that_are_not_square() -> None:
    from page.maps import as_cells

    assert as_cells(np.zeros((12, 1)), (60, 80)).shape == (1, 3, 4)


def test_a_model_without_attention_maps_says_what_to_do(
    app: Any, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from page.maps import Maps

    def refuse(_: object) -> None:
        raise ConfigError("/secret/model: exported without attention maps")

    monkeypatch.setattr(app.backend, "attention", refuse)
    with pytest.raises(gr.Error, match="owlkit export MODEL OUT --attention") as caught:
        Maps(app.desk).heads(str(photo))
    assert "secret" not in str(caught.value)


def test_a_search_shows_the_best_places_and_finds_more_like_them(
    explore: Callable[[str], Any],
    app: Any,
    predictor: Predictor,
    photos: list[Path],
    tmp_path: Path,
) -> None:
    page = explore("Search in pictures")
    page.get_by_role("button", name="Search").click()
    assert "say what to look for" in message(page)
    page.locator("#search-files input[type=file]").set_input_files(photos[:3])
    page.locator("#search-files").get_by_text(photos[2].stem).wait_for()
    for path in photos[3:]:
        shutil.copy(path, tmp_path)
    (tmp_path / "notes.txt").write_text("what else lies in folders of pictures")
    page.locator("input[webkitdirectory]").set_input_files(tmp_path)
    page.locator("#search-files").get_by_text(photos[-1].stem).wait_for()
    summary = page.locator("#search-summary")
    hits = page.locator("#search-view button")

    def found() -> dict[str, float]:
        """The best score of each file."""
        scores: dict[str, float] = {}
        for text in hits.all_inner_texts():
            score, name = re.match(r"([\d.]+) .*\n(.*)", text).groups()
            scores[name] = max(scores.get(name, 0), float(score))
        return scores

    def ask(words: str) -> None:
        page.locator("#search-words textarea").fill(words)
        page.get_by_role("button", name="Search").click()
        hits.filter(has_text=words).first.wait_for()

    ask("cricket")
    assert "5 pictures, 5 new" in summary.inner_text()
    for path in photos:
        best = predictor.detect(path, ["cricket"], threshold=0).scores.max()
        assert found()[path.name] == pytest.approx(best, abs=0.0051)
    images, texts = app.passes
    ask("locust")
    assert "5 pictures, 0 new" in summary.inner_text()
    assert app.passes == (images, texts + 1)
    name = hits.first.inner_text().splitlines()[1]
    hits.first.press("Enter")
    hits.filter(has_text=f"like {name}").first.wait_for()
    assert app.passes == (images + 1, texts + 1)
    assert set(found()) == {path.name for path in photos}


def test_an_album_encodes_what_is_new(app: Any, photos: list[Path], tmp_path: Path) -> None:
    from page.albums import Album, upload_stamp, uploads_by_name

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no picture")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photos[0].read_bytes()[:9000])
    album, queries = Album(app.desk, upload_stamp), QuerySet.from_text(["cat"])

    def search(*paths: Path) -> Any:
        files = uploads_by_name(map(str, paths))
        return album.search(files, queries, most=50, show=lambda done, total: None)

    first = search(*photos[:2], broken, cut)
    assert (first.encoded, first.unreadable) == (2, ("broken.jpg", "cut.jpg"))
    assert {hit.path for hit in first.hits} == {path.name for path in photos[:2]}
    photos[0].touch()
    assert search(*photos[:3]).encoded == 1, "its path says what is in an upload, not its time"
    again = search(*photos[:2])
    assert (again.encoded, again.hits) == (0, first.hits)
    assert search(*photos[3:]).encoded == 2, "an album may become another one"
    kept = sorted(album._folder.iterdir())
    album.close()
    assert kept
    assert not album._folder.exists()
    assert search(*photos[:2]).hits == first.hits
    album.close()


def test_what_cannot_be_searched(app: Any, photos: list[Path], tmp_path: Path) -> None:
    from page.albums import Album, upload_stamp, uploads_by_name

    album = Album(app.desk, upload_stamp)
    words = QuerySet.from_text(["cat"])
    parts = QuerySet(words.classes)
    parts.add_text("nose", ["nose"])
    parts.update("nose", parent="cat")
    note = tmp_path / "note.jpg"
    note.write_text("hello")
    some = uploads_by_name([str(photos[0])])
    many = {f"{number}.jpg": photos[0] for number in range(app.desk.limits.searched + 1)}
    for files, queries, error, text in (
        ({}, words, ImageError, "choose pictures"),
        (many, words, ImageError, "at most 500 pictures, found 501"),
        ({"note.jpg": note}, words, ImageError, "found none among 1 files"),
        (some, parts, QueryError, "no parts of other things, found 'nose'"),
    ):
        with pytest.raises(error, match=text):
            album.search(files, queries, most=5, show=lambda done, total: None)


def test_of_many_albums_few_stay_on_the_disk(app: Any, photos: list[Path]) -> None:
    from page.albums import _ROOM, Album, Shelf, upload_stamp

    shelf, queries = Shelf(), QuerySet.from_text(["cat"])
    albums = [Album(app.desk, upload_stamp) for _ in range(_ROOM + 2)]
    for album in (*albums[:-1], albums[1], albums[-1]):
        shelf.use(album)
        album.search({"a.jpg": photos[0]}, queries, most=1, show=lambda done, total: None)
    there = [album._folder.exists() for album in albums]
    assert there == [False, True, False, *[True] * (_ROOM - 1)]
    for album in albums:
        shelf.drop(album)
    shelf.drop(None)
    assert not any(album._folder.exists() for album in albums)


def test_uploads_of_one_name_are_told_apart() -> None:
    from page.albums import upload_stamp, uploads_by_name

    paths = ["/t/1/a.jpg", "/t/2/a.jpg", "/t/1/a.jpg", "/t/3/b.jpg"]
    named = uploads_by_name(paths)
    assert {name: str(path) for name, path in named.items()} == {
        "a.jpg": "/t/1/a.jpg",
        "a.jpg (2)": "/t/2/a.jpg",
        "b.jpg": "/t/3/b.jpg",
    }
    assert len({upload_stamp(path) for path in named.values()}) == 3


def test_the_servers_pictures_are_searched_without_telling_where_they_are(
    app: Any, photos: list[Path], tmp_path: Path
) -> None:
    from page.albums import pictures_below
    from page.search_part import Search
    from page.session import Session

    folder = tmp_path / "private place"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(photos[0], folder / "deep" / "a.jpg")
    shutil.copy(photos[1], folder / "b.jpg")
    (folder / "notes.txt").write_text("secret")
    (folder / "link.jpg").symlink_to(photos[2])
    assert [*pictures_below(folder, 9)] == ["b.jpg", "deep/a.jpg"]
    assert [*pictures_below(folder, 1)] == ["b.jpg"]
    before = sorted(folder.rglob("*"))
    _, (_, hits), shown, summary = Search(app.desk, folder).find(
        None, Session(), None, "cat", None, [], 9
    )
    assert {hit.path for hit in hits.hits} == {"b.jpg", "deep/a.jpg"}
    assert {one["name"] for one in shown} == {"b.jpg", "deep/a.jpg"}
    assert "private" not in f"{shown}{summary}"
    assert sorted(folder.rglob("*")) == before, "the index lies elsewhere"


def test_a_box_that_is_drawn_is_searched(
    app: Any, predictor: Predictor, photos: list[Path]
) -> None:
    from page.search_part import Search
    from page.session import Session

    drawn = [{"box": [0.1, 0.2, 0.6, 0.8], "negative": False}]
    paths = [str(path) for path in photos]
    _, (_, found), *_ = Search(app.desk, None).find(
        None, Session(), paths, " ", paths[0], drawn, 60
    )
    height, width = load_image(photos[0]).shape[:2]
    queries = QuerySet()
    queries.add_example("it", photos[0], [0.1 * width, 0.2 * height, 0.6 * width, 0.8 * height])
    best = {path.name: predictor.detect(path, queries, threshold=0).scores.max() for path in photos}
    assert found.hits
    for hit in found.hits:
        assert hit.score <= best[hit.path] + 1e-5
    assert found.names == (f"like {photos[0].name}",)
    # What the tabs look for, where nothing else is said.
    _, (_, found), *_ = Search(app.desk, None).find(
        None, Session(words=QuerySet.from_text(["owl"])), paths, None, None, [], 3
    )
    assert (found.names, len(found.hits)) == (("owl",), 3)


@pytest.mark.parametrize("data", [None, [], {"index": True}, {"index": -1}, {"index": "0"}, {}])
def test_a_place_that_is_none_is_a_message(app: Any, photos: list[Path], data: Any) -> None:
    from page.search_part import Search
    from page.session import Session

    search = Search(app.desk, None)
    _, found, *_ = search.find(None, Session(), [str(photos[0])], "cat", None, [], 2)
    event = gr.EventData(None, data)
    for what in (None, found):
        with pytest.raises(gr.Error, match="search first, and then press a place"):
            search.find_more(what, 2, event)
