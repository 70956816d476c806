"""Query sets on disk: equal when read, or refused."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from owlkit import QuerySet
from owlkit.calibration import Calibration
from owlkit.errors import QueryError
from owlkit.queries import Combination
from owlkit.queries import file as queries_file
from owlkit.queries.embeddings import EmbeddedExample

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def embed(queries: QuerySet, identity: str, width: int = 8, seed: int = 0) -> None:
    """Gives a query set embeddings, as a predictor does."""
    rng = np.random.default_rng(seed)
    table = queries.table(identity)
    for text in queries.texts:
        table.texts[text] = rng.normal(size=width).astype(np.float32)
    for row, key in enumerate(queries.examples):
        vector = rng.normal(size=width).astype(np.float32)
        objectness = None if row % 2 else float(rng.random())
        table.examples[key] = EmbeddedExample(vector, row, (0.5, 1.0, 2.0, 3.25), 0.75, objectness)


def full_set(folder: Path) -> QuerySet:
    """A query set with something of everything."""
    Image.fromarray(PHOTO).save(folder / "photo.png")
    queries = QuerySet.from_text(["cat", "Hund", '猫 "x"\n'], templates=["a {}", "one {}"])
    queries = QuerySet(
        queries.classes,
        ensemble="embeddings",
        combination=Combination("kmeans", 2, 0.25),
        background=["", "background"],
        choice="overlap",
    )
    queries.add_text("cat", ["dog"], negative=True)
    queries.add_example("cat", folder / "photo.png", [[1, 2, 30, 20], [1.25, 2, 30, 20]])
    queries.add_example("mug", PHOTO, [30, 20, 60, 40], negative=True)
    queries.add_example("mug", Image.fromarray(PHOTO))
    queries.update("cat", threshold=0.1, colour=(1, 2, 3), calibration=Calibration.linear(0.5, 1.0))
    queries.update("mug", parent="cat", calibration=Calibration.isotonic([-5, 0, 2], [0, 0.25, 1]))
    embed(queries, "a" * 32)
    embed(queries, "b" * 32, width=4, seed=1)
    return queries


def test_round_trip(tmp_path: Path) -> None:
    queries = full_set(tmp_path)
    queries.save(tmp_path / "all.queries")
    read = QuerySet.load(tmp_path / "all.queries")
    assert read == queries
    assert read.models == ("a" * 32, "b" * 32)
    assert read["mug"].calibration == queries["mug"].calibration
    # Images that were in memory alone came along; the file is named, beside the query set.
    np.testing.assert_array_equal(read["mug"].examples[0].pixels(), PHOTO)
    assert read["cat"].examples[0].image == str(tmp_path / "photo.png")
    np.testing.assert_array_equal(read["cat"].examples[0].pixels(), PHOTO)
    read.save(tmp_path / "again.queries")
    again, first = (tmp_path / f"{name}.queries" for name in ("again", "all"))
    assert again.read_bytes() == first.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.queries",
        "all.queries",
        "photo.png",
    ]


def test_equality_notices_each_difference(tmp_path: Path) -> None:
    queries = full_set(tmp_path)
    for change in (
        lambda one: one.add_text("cat", ["tom"]),
        lambda one: one.update("cat", threshold=0.2),
        lambda one: one.table("a" * 32).texts.update({"a cat": np.ones(8, np.float32)}),
        lambda one: one.add_example("cat", PHOTO),
    ):
        other = full_set(tmp_path)
        assert other == queries
        change(other)
        assert other != queries


def test_what_was_removed_is_neither_kept_nor_compared(tmp_path: Path) -> None:
    queries = full_set(tmp_path)
    part = queries.subset(["cat", "Hund"])
    queries.remove("Hund")
    for one in (queries, part):
        one.save(tmp_path / "x.queries")
        assert QuerySet.load(tmp_path / "x.queries") == one


def test_an_image_of_many_examples_is_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = QuerySet()
    queries.add_example("mug", PHOTO, [[x, 0, x + 9, 9] for x in range(20)])
    encoded = []
    as_file = queries_file._as_file
    monkeypatch.setattr(queries_file, "_as_file", lambda one: encoded.append(one) or as_file(one))
    queries.save(tmp_path / "x.queries")
    assert len(encoded) == 1
    examples = QuerySet.load(tmp_path / "x.queries")["mug"].examples
    assert len(examples) == 20
    assert len({id(one.image) for one in examples}) == 1


def test_an_image_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    queries = QuerySet()
    queries.add_example("mug", "photo.png", [0, 0, 9, 9])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    queries.save(tmp_path / "x.queries")
    for one in (queries, QuerySet.load("../x.queries")):
        np.testing.assert_array_equal(one["mug"].examples[0].pixels(), PHOTO)


@pytest.mark.parametrize("images", ["all", "memory", "none"])
def test_which_images_come_along(tmp_path: Path, images: Any) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    full_set(folder).save(folder / "x.queries", images=images)
    moved = tmp_path / "new.queries"
    (folder / "x.queries").rename(moved)
    (folder / "photo.png").unlink()
    read = QuerySet.load(moved)
    for name, there in (("cat", images == "all"), ("mug", images != "none")):
        if there:
            np.testing.assert_array_equal(read[name].examples[0].pixels(), PHOTO)
        else:
            with pytest.raises(QueryError, match=r"not kept|no such file"):
                read[name].examples[0].pixels()


def test_images_move_with_the_file_beside_them(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    full_set(tmp_path / "old").save(tmp_path / "old" / "x.queries")
    (tmp_path / "old").rename(tmp_path / "new")
    read = QuerySet.load(tmp_path / "new" / "x.queries")
    np.testing.assert_array_equal(read["cat"].examples[0].pixels(), PHOTO)


def test_files_from_strangers_need_not_be_followed(tmp_path: Path) -> None:
    full_set(tmp_path).save(tmp_path / "x.queries")
    read = QuerySet.load(tmp_path / "x.queries", follow=False)
    assert read["cat"].examples[0].image is None
    with pytest.raises(QueryError, match="not kept"):
        read["cat"].examples[0].pixels()
    np.testing.assert_array_equal(read["mug"].examples[0].pixels(), PHOTO)


def test_what_is_no_query_set(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="found none"):
        QuerySet.load(tmp_path / "no.queries")
    with pytest.raises(QueryError, match="found none"):
        QuerySet.load(tmp_path)
    for content in (b"", b"cat, dog", b"\x80\x04.", b"\xff" * 100):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(QueryError, match="damaged or none"):
            QuerySet.load(tmp_path / "x")
    save_file({"a": np.zeros(3)}, tmp_path / "x")
    with pytest.raises(QueryError, match="found None"):
        QuerySet.load(tmp_path / "x")
    with pytest.raises(QueryError, match="cannot be written"):
        QuerySet.from_text(["cat"]).save(tmp_path / "no" / "x.queries")
    for path in (tmp_path, ".", "/", "a\0b"):
        with pytest.raises(QueryError, match="cannot be written"):
            QuerySet.from_text(["cat"]).save(path)
    with pytest.raises(QueryError, match="images"):
        QuerySet.from_text(["cat"]).save(tmp_path / "y", images="some")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def _leaves(value: Any) -> list[tuple[Any, Any]]:
    """Every place (container, key) in a JSON value."""
    places = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places += [(value, key), *_leaves(value[key])]
    return places


HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 2**70, 1e308, float("nan"), float("inf"), "", "x", "\x00", "../../x"),
    *([], {}, [[]], ["x"] * 3, [1e400] * 4, {"kind": "linear"}, {"rule": "mean"}, "a" * 10_000),
)


def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    """Bytes flipped, cut and inserted: an error, or an equal set."""
    queries = full_set(tmp_path)
    queries.save(tmp_path / "x.queries")
    whole = (tmp_path / "x.queries").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(700):
        content = bytearray(whole)
        place = int(rng.integers(len(content)))
        if number % 3 == 0:
            content = content[:place]
        elif number % 3 == 1:
            content[place] ^= int(rng.integers(1, 256))
        else:
            content[place:place] = rng.bytes(int(rng.integers(1, 20)))
        refused += _refused_or_equal(tmp_path / "y", bytes(content), queries)
    assert refused > 690


def test_hundreds_of_hostile_descriptions(tmp_path: Path) -> None:
    """Any value in any place, with a checksum that fits: an error of ours, or a valid set."""
    queries = full_set(tmp_path)
    queries.save(tmp_path / "x.queries")
    _, arrays = queries_file._read(tmp_path / "x.queries")
    rng = np.random.default_rng(1)
    read = 0
    for _ in range(600):
        content, _ = queries_file._read(tmp_path / "x.queries")
        places = _leaves(content)
        container, key = places[int(rng.integers(len(places)))]
        container[key] = HOSTILE[int(rng.integers(len(HOSTILE)))]
        _write(tmp_path / "y", content, arrays)
        with suppress(QueryError):
            found = QuerySet.load(tmp_path / "y")
            read += 1
            found.save(tmp_path / "z")
            assert QuerySet.load(tmp_path / "z") == found
    assert 20 < read < 300


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 8), np.float32),
        np.zeros(8, np.float32),
        np.zeros((9, 8), np.float64),
        np.full((9, 8), np.nan, np.float32),
        np.zeros((9, 0), np.float32),
        None,
    ],
)
def test_hostile_embeddings(tmp_path: Path, array: Any) -> None:
    full_set(tmp_path).save(tmp_path / "x.queries")
    content, arrays = queries_file._read(tmp_path / "x.queries")
    assert arrays["texts.0"].shape == (9, 8)
    arrays.pop("texts.0")
    if array is not None:
        arrays["texts.0"] = array
    _write(tmp_path / "y", content, arrays)
    with pytest.raises(QueryError, match="damaged or none"):
        QuerySet.load(tmp_path / "y")


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ([60, 40], "found another one"),
        ([2**70, 60], "found another one"),
        # A small file that would decode to much more than it says is not decoded at all.
        ([20, 60], "expected at most 1200 pixels"),
    ],
)
def test_a_size_that_is_not_the_images(tmp_path: Path, size: list[int], found: str) -> None:
    full_set(tmp_path).save(tmp_path / "x.queries")
    content, arrays = queries_file._read(tmp_path / "x.queries")
    content["classes"][3]["examples"][0]["size"] = size
    content["models"] = []
    _write(tmp_path / "y", content, arrays)
    with pytest.raises(QueryError, match=found):
        QuerySet.load(tmp_path / "y")["mug"].examples[0].pixels()


def test_huge_shapes_are_not_allocated(tmp_path: Path) -> None:
    """A header that promises more than the file holds."""
    full_set(tmp_path).save(tmp_path / "x.queries")
    whole = (tmp_path / "x.queries").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["texts.0"]["shape"] = [2**40, 2**20]
    text = json.dumps(header).encode()
    (tmp_path / "y").write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    with pytest.raises(QueryError, match="damaged or none"):
        QuerySet.load(tmp_path / "y")
    (tmp_path / "y").write_bytes((2**62).to_bytes(8, "little") + whole[8:])
    with pytest.raises(QueryError, match="damaged or none"):
        QuerySet.load(tmp_path / "y")


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    full_set(tmp_path).save(tmp_path / "x.queries")
    arrays = load_file(tmp_path / "x.queries")
    assert sum(name.startswith("image.pixels:") for name in arrays) == 1
    assert arrays["examples.1"].shape == (4, 4)


def _write(path: Path, content: Any, arrays: Any) -> None:
    checksum = queries_file._checksum(content, arrays)
    whole = {"format": queries_file.FORMAT, "checksum": checksum, "content": content}
    save_file(arrays, path, metadata={"queries": json.dumps(whole)})


def _refused_or_equal(path: Path, content: bytes, queries: QuerySet) -> bool:
    path.write_bytes(content)
    try:
        assert QuerySet.load(path) == queries
    except QueryError:
        return True
    return False
