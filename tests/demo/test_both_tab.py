"""The tab *Both* in a browser, against what the predictor says."""

from pathlib import Path
from typing import Any

import pytest

from owlkit.predictor import Predictor
from owlkit.queries import QuerySet
from tests.demo.boards import add_example, choose_files, choose_reference, draw, open_tab
from tests.demo.conftest import visit
from tests.demo.driving import assert_shown, find, message

MUG = (0.25, 0.3, 0.7, 0.9)


@pytest.fixture(scope="module")
def photos(data_dir: Path) -> dict[str, Path]:
    return {path.stem: path for path in (data_dir / "samples").glob("*.jpg")}


def rows(page: Any) -> list[list[str]]:
    """The table of classes: name, colour, prompts, examples, negatives, threshold."""
    texts = page.locator("#both-classes tr").all_inner_texts()
    return [row.split("\t") for row in texts[1:]]


def wait_for_classes(page: Any, names: list[str]) -> None:
    page.wait_for_function(
        """(names) => JSON.stringify(names) === JSON.stringify(
             [...document.querySelectorAll('#both-classes th[scope=row]')].map(one => one.innerText)
           )""",
        arg=names,
    )


def add_words(page: Any, words: str) -> None:
    open_tab(page, "Both")
    heading = page.get_by_role("button", name="Add words")
    if not page.locator("#both-words textarea, #both-words input").is_visible():
        heading.first.click()
    page.locator("#both-words textarea, #both-words input").fill(words)
    page.locator("#both-add").click()


def load(page: Any, path: Path) -> None:
    choose_files(page, "#both-file", [path])
    page.get_by_role("button", name="Load", exact=True).click()


def find_both(page: Any, photo: Path) -> None:
    choose_files(page, "#both-pictures", [photo])
    page.get_by_role("button", name="Find", exact=True).click()


def detect(predictor: Predictor, photo: Path, queries: QuerySet) -> Any:
    return predictor.detect(str(photo), queries, nms_iou=0.5, top_k=100)


def test_a_saved_query_set_answers_a_new_visitor_without_the_network(
    browser: Any, app: Any, predictor: Predictor, photos: dict[str, Path], tmp_path: Path
) -> None:
    with visit(browser, app.url) as page:
        find(page, photos["dog"], "cat, red mug")
        open_tab(page, "Image query")
        choose_reference(page, photos["dog"])
        draw(page, MUG)
        add_example(page, "red mug", 1)
        open_tab(page, "Both")
        wait_for_classes(page, ["red mug", "cat"])
        assert [row[2:] for row in rows(page)] == [
            ["red mug", "1", "0", "model's"],
            ["cat", "0", "0", "model's"],
        ]
        find_both(page, photos["truck"])
        page.locator("#both-name textarea, #both-name input").fill("../../my mugs.queries")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save", exact=True).click()
        assert download.value.suggested_filename == "_.._my mugs.queries"
        path = tmp_path / "mugs.queries"
        download.value.save_as(path)
        queries = QuerySet.load(path)
        expected = detect(predictor, photos["truck"], queries)
        assert set(expected.names) == {"red mug", "cat"}
        assert_shown(page, expected, "#both-view")

    # The picture itself, and no folder of the server.
    assert queries["red mug"].examples[0].image == photos["dog"].read_bytes()
    assert str(app.temporary).encode() not in path.read_bytes()

    passes = app.passes
    with visit(browser, app.url) as page:
        open_tab(page, "Both")
        load(page, path)
        wait_for_classes(page, ["red mug", "cat"])
        find_both(page, photos["truck"])
        assert_shown(page, expected, "#both-view")
    assert app.passes == passes


def test_classes_are_changed_added_and_removed(
    page: Any, predictor: Predictor, photos: dict[str, Path]
) -> None:
    add_words(page, "cat, owl")
    wait_for_classes(page, ["cat", "owl"])
    page.get_by_text("Change a class").click()
    page.locator("#both-class input").click()
    page.get_by_role("option", name="owl").click()
    page.locator("#both-colour [style*='rgb(86, 180, 233)']").first.wait_for()
    page.locator("#both-threshold input").fill("0.6")
    picker = page.locator("#both-colour")
    picker.get_by_role("button", name="Its colour").click()
    picker.locator("input[type=text]").fill("#1e90ff")
    picker.locator("input[type=text]").press("Enter")
    page.locator("#both-classes").click()
    picker.locator(".color-picker").wait_for(state="detached")
    page.get_by_role("button", name="Change it").click()
    page.get_by_role("cell", name="#1e90ff").wait_for()
    assert rows(page)[1][5] == "0.6"

    queries = QuerySet.from_text(["cat", "owl"])
    queries.update("owl", threshold=0.6, colour=(0x1E, 0x90, 0xFF))
    find_both(page, photos["dog"])
    expected = detect(predictor, photos["dog"], queries)
    assert set(expected.names) == {"cat", "owl"}
    assert_shown(page, expected, "#both-view")
    painted = page.locator("#both-view [style*='--owl-colour: rgb(30, 144, 255)']")
    assert painted.count() == sum(name == "owl" for name in expected.names)

    page.get_by_role("button", name="Remove it").click()
    wait_for_classes(page, ["cat"])
    page.get_by_role("button", name="Find", exact=True).click()
    assert_shown(page, detect(predictor, photos["dog"], QuerySet.from_text(["cat"])), "#both-view")


def test_files_replace_or_join_what_is_there(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "two.queries"
    QuerySet.from_text(["owl", "tree"]).save(path)
    add_words(page, "cat, owl")
    wait_for_classes(page, ["cat", "owl"])
    page.get_by_label("beside what is here").check()
    load(page, path)
    wait_for_classes(page, ["cat", "owl", "tree"])
    page.get_by_label("in place of what is here").check()
    page.get_by_role("button", name="Load", exact=True).click()
    wait_for_classes(page, ["owl", "tree"])


def test_what_cannot_be_used_gets_a_message(
    page: Any, app: Any, predictor: Predictor, photos: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.queries"
    QuerySet.from_text(["owl"]).save(broken)
    broken.write_bytes(broken.read_bytes()[:-7] + b"<b>bad!")
    add_words(page, "cat")
    wait_for_classes(page, ["cat"])
    load(page, broken)
    said = message(page)
    assert said.startswith("broken.queries: expected a query set, found that it is damaged")
    assert str(app.temporary) not in said
    find_both(page, photos["dog"])
    expected = detect(predictor, photos["dog"], QuerySet.from_text(["cat"]))
    assert_shown(page, expected, "#both-view")


@pytest.mark.filterwarnings("ignore:.*tokens and is cut:UserWarning")
def test_names_are_text_wherever_they_are_shown(page: Any, photos: dict[str, Path]) -> None:
    attack = "document.title='taken'"
    name = f"${{{attack}}}`;{attack}//\\{{{{{{x}}}}}}<img src=x onerror={attack}>"
    add_words(page, f'"{name}"')
    wait_for_classes(page, [name])
    find_both(page, photos["dog"])
    page.locator("#both-view .owl-box").first.wait_for()
    label = page.locator("#both-view .owl-box").first.get_attribute("aria-label")
    assert label.rpartition(" ")[0] == name
    open_tab(page, "Image query")
    choose_reference(page, photos["dog"])
    draw(page, MUG)
    add_example(page, name, 1)
    assert page.locator("#example-list .owl-box").last.get_attribute("aria-label") == name
    assert page.title() == "owlkit"
