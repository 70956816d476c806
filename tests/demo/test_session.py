"""What a visitor has said, step by step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owlkit.errors import QueryError
from owlkit.queries import Example, QuerySet


@pytest.fixture
def session() -> Any:
    from page.session import Session

    return Session()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Two boxes on one picture, each with a copy of the file."""
    path = tmp_path_factory.mktemp("upload") / "cat.png"
    pixels = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    boxes = [[1, 2, 9, 12], [10, 3, 28, 19]]
    return [replace(one, image=path.read_bytes()) for one in Example.read(path, boxes)]


def test_no_step_changes_an_earlier_session(session: Any, examples: list[Example]) -> None:
    words = session.with_words(QuerySet.from_text(["cat", "mug"]))
    both = words.with_examples("cat", examples[:1], examples[1:])
    changed = both.with_class("cat", threshold=0.4)
    left = changed.without("cat")
    assert session.queries.names == ()
    assert words.queries.names == ("cat", "mug")
    assert words.kept.names == ()
    assert both.queries["cat"].threshold is None
    assert changed.queries["cat"].threshold == 0.4
    assert changed.queries["cat"].prompts == ("cat",)
    assert changed.queries["cat"].examples == (examples[0],)
    assert changed.queries["cat"].negative_examples == (examples[1],)
    assert left.queries.names == ("mug",)


def test_other_words_keep_what_a_class_was_set_to(session: Any) -> None:
    first = session.with_words(QuerySet.from_text(["cat", "mug"]))
    set_up = first.with_class("cat", threshold=0.0, colour=(1, 2, 3))
    again = set_up.with_words(QuerySet.from_text(["owl", "cat"], templates="ensemble7"))
    assert again.queries.names == ("owl", "cat")
    assert (again.words["cat"].threshold, again.words["cat"].colour) == (0.0, (1, 2, 3))
    assert len(again.words["cat"].prompts) == 7
    assert again.words["owl"].colour is None


def test_a_picture_is_in_memory_once(session: Any, examples: list[Example]) -> None:
    copy = replace(examples[1], image=bytes(bytearray(examples[1].image)))
    assert copy.image is not examples[0].image
    kept = session.with_examples("cat", examples[:1]).with_examples("mug", [], [copy]).kept
    assert kept["mug"].negative_examples[0].image is kept["cat"].examples[0].image


def test_examples_go_one_by_one_and_their_class_with_the_last(
    session: Any, examples: list[Example]
) -> None:
    kept = session.with_words(QuerySet.from_text(["dog"])).with_examples("cat", examples, examples)
    kept = kept.without_example("cat", "examples", 0)
    assert kept.kept["cat"].examples == (examples[1],)
    assert kept.kept["cat"].negative_examples == tuple(examples)
    kept = kept.without_example("cat", "examples", 0)
    kept = kept.without_example("cat", "negative_examples", 1)
    assert kept.kept["cat"].all_examples == (examples[0],)
    assert kept.without_example("cat", "negative_examples", 0).queries.names == ("dog",)


def test_files_replace_or_join_what_is_there(session: Any, examples: list[Example]) -> None:
    here = session.with_words(QuerySet.from_text(["cat"])).with_examples("mug", examples[:1])
    loaded = QuerySet.from_text(["mug", "owl"], ensemble="embeddings")
    assert here.with_file(loaded, mix=False).queries == loaded
    mixed = here.with_file(loaded, mix=True)
    assert mixed.queries.names == ("mug", "owl", "cat")
    assert mixed.queries["mug"].prompts == ("mug",)
    assert mixed.queries["mug"].examples == (examples[0],)


def test_a_nameless_class_is_refused(session: Any, examples: list[Example]) -> None:
    for name in ("", "  ", None, 3):
        with pytest.raises(QueryError, match="name"):
            session.with_examples(name, examples)


def test_the_page_knows_its_own_pictures_only(tmp_path: Path) -> None:
    from page.examples import read_examples
    from page.limits import Limits

    path = tmp_path / "cat.png"
    Image.new("RGB", (40, 20)).save(path)
    [one] = read_examples(str(path), [(0.25, 0.5, 0.5, 1.0)], Limits())
    assert one.box == (10.0, 10.0, 20.0, 20.0)
    assert one.image == path.read_bytes()
    [whole] = read_examples(str(path), None, Limits())
    assert whole.box is None
    assert read_examples(str(path), [], Limits()) == []
    path.unlink()
    assert one.pixels().shape == (20, 40, 3)
