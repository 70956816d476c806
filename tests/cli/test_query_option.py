"""The option `--queries`."""

from pathlib import Path

import pytest

from owlkit import QuerySet
from owlkit.cli.query_option import read_queries
from owlkit.errors import QueryError


def test_words_become_classes() -> None:
    queries = read_queries("cat, face [nose, eye]", "ensemble7")
    assert queries.names == ("cat", "face", "nose", "eye")
    assert [one.parent for one in queries.classes] == [None, None, "face", "face"]
    assert (
        queries["cat"].prompts == QuerySet.from_text(["cat"], templates="ensemble7")["cat"].prompts
    )


def test_a_saved_set_is_loaded(tmp_path: Path) -> None:
    queries = QuerySet.from_text(["cat", "dog"])
    queries.update("dog", threshold=0.7, colour=(1, 2, 3))
    queries.save(tmp_path / "pets.queries")
    assert read_queries(str(tmp_path / "pets.queries")) == queries
    with pytest.raises(QueryError, match="--templates"):
        read_queries(str(tmp_path / "pets.queries"), "ensemble7")


@pytest.mark.parametrize("content", [b"", b"no queries", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_no_query_set(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.queries").write_bytes(content)
    with pytest.raises(QueryError):
        read_queries(str(tmp_path / "a.queries"))


@pytest.mark.parametrize(
    ("text", "message"),
    [(" , ", "expected words"), ("pets.queries", "no such file"), ("a [b", "expected")],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        read_queries(text)


def test_a_long_text_is_no_file_name() -> None:
    names = [f"thing number {index}" for index in range(1000)]
    assert read_queries(", ".join(names)).names == tuple(names)
