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
        pytest.param(["cat", 3], {}, "query 1: expected a string, found 3", id="a number"),
        pytest.param(["cat"], {"templates": "ensemble"}, "did you mean", id="unknown set"),
        pytest.param(["cat"], {"templates": ["a {} {}"]}, "exactly one", id="two slots"),
        pytest.param(["cat"], {"ensemble": "mean"}, "'logits' or 'embeddings'", id="ensemble"),
    ],
)
def test_what_cannot_be_asked(names: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        QuerySet.from_text(names, **options)
