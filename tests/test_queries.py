"""Query sets: names, templates and how they combine."""

from typing import Any

import pytest

from owlkit import QuerySet
from owlkit.errors import QueryError


def test_bare_names_are_used_as_written() -> None:
    queries = QuerySet.from_text(["Cat!", "remote control"])
    assert queries.names == ("Cat!", "remote control")
    assert queries.prompts == (("Cat!",), ("remote control",))
    assert len(queries) == 2


def test_published_templates_are_canonicalised() -> None:
    queries = QuerySet.from_text(["Tennis_Racket (big)"], templates="ensemble7")
    assert queries.names == ("Tennis_Racket (big)",)
    assert len(queries.prompts[0]) == 7
    assert queries.prompts[0][0] == "itap of a tennis racket big"


def test_own_templates_are_used_as_written() -> None:
    queries = QuerySet.from_text(["Cat"], templates=["One {}.", "two {}"])
    assert queries.prompts == (("One Cat.", "two Cat"),)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        pytest.param([], {}, "at least one query", id="no names"),
        pytest.param("cat, dog", {}, "expected a list of strings", id="one string"),
        pytest.param(["cat", 3], {}, "names: 1: expected a string, found 3", id="a number"),
        pytest.param(None, {}, "expected a list of strings, found None", id="nothing"),
        pytest.param({"cat", "dog"}, {}, "expected a list", id="a set has no order"),
        pytest.param(["cat", " "], {}, "1: expected words", id="a blank"),
        pytest.param(["\ud800"], {}, "valid Unicode", id="half a character"),
        pytest.param(["cat"], {"templates": "ensemble"}, "did you mean", id="unknown set"),
        pytest.param(["cat"], {"templates": ["a {} {}"]}, "exactly one", id="two slots"),
        pytest.param(["cat"], {"ensemble": "mean"}, "'logits' or 'embeddings'", id="ensemble"),
    ],
)
def test_what_cannot_be_asked(names: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        QuerySet.from_text(names, **options)


def test_generators_are_read_once() -> None:
    assert QuerySet.from_text(name for name in ("cat", "dog")).names == ("cat", "dog")


def test_lists_become_comparable() -> None:
    queries = QuerySet(["cat"], [["a cat", "one cat"]])
    assert hash(queries) == hash(QuerySet(("cat",), (("a cat", "one cat"),)))


@pytest.mark.parametrize("prompts", [("cat",), "cat", ((),), (("cat",), ("dog",))])
def test_prompts_must_be_lists_of_strings_for_each_class(prompts: Any) -> None:
    with pytest.raises(QueryError, match="prompts"):
        QuerySet(("cat",), prompts)
