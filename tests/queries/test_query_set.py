"""Query sets: names, texts, examples, and how they combine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owlkit import QuerySet
from owlkit.errors import ImageError, QueryError, QueryWarning
from owlkit.queries import Combination, Example, QueryClass
from owlkit.queries.combination import spherical_kmeans
from owlkit.queries.compiled import CompiledQueries
from owlkit.queries.embeddings import EmbeddedExample, EmbeddingTable, ExampleKey

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, dtype=np.float32)
    return vector / np.linalg.norm(vector)


def table_of(queries: QuerySet, texts: dict[str, np.ndarray], *examples: np.ndarray) -> Any:
    """A table of these embeddings, examples in the order of the query set's."""
    table = EmbeddingTable(texts=dict(texts))
    for key, vector in zip(queries.examples, examples, strict=True):
        table.examples[key] = EmbeddedExample(vector, 0, (0, 0, 1, 1), 1.0, None)
    return table


def test_bare_names_are_used_as_written() -> None:
    queries = QuerySet.from_text(["Cat!", "remote control"])
    assert queries.names == ("Cat!", "remote control")
    assert [one.prompts for one in queries.classes] == [("Cat!",), ("remote control",)]
    assert len(queries) == 2


def test_published_templates_are_canonicalised() -> None:
    queries = QuerySet.from_text(["Tennis_Racket (big)"], templates="ensemble7")
    assert queries.names == ("Tennis_Racket (big)",)
    assert len(queries.classes[0].prompts) == 7
    assert queries.classes[0].prompts[0] == "itap of a tennis racket big"


def test_own_templates_are_used_as_written() -> None:
    queries = QuerySet.from_text(["Cat"], templates=["One {}.", "two {}"])
    assert queries.classes[0].prompts == ("One Cat.", "two Cat")


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


def test_classes_are_made_and_added_to() -> None:
    queries = QuerySet()
    queries.add_text("mug", ["a mug", "a cup"])
    queries.add_text("mug", ["a glass"], negative=True)
    queries.add_example("mug", PHOTO, [[1, 2, 30, 20], [5, 5, 10, 10]])
    queries.add_example("mug", PHOTO, [30, 20, 60, 40], negative=True)
    queries.add_example("owl", PHOTO)
    assert queries.names == ("mug", "owl")
    mug, owl = queries.classes
    assert mug.prompts == ("a mug", "a cup")
    assert mug.negative_prompts == (("a glass",),)
    assert [one.box for one in mug.examples] == [(1, 2, 30, 20), (5, 5, 10, 10)]
    assert [one.box for one in mug.negative_examples] == [(30, 20, 60, 40)]
    assert owl.examples[0].box is None
    assert owl.examples[0].size == (40, 60)
    queries.update("owl", threshold=0.3, colour=[1, 2, 3], parent="mug")
    assert (queries["owl"].threshold, queries["owl"].colour) == (0.3, (1, 2, 3))
    queries.remove("owl")
    assert queries.names == ("mug",)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        pytest.param([0, 0, 100, 20], "inside 60x40 pixels", id="outside"),
        pytest.param([10, 10, 10, 20], "with an area", id="no width"),
        pytest.param([20, 10, 10, 20], "with an area", id="swapped"),
        pytest.param([0, 0, np.nan, 20], "with an area", id="not a number"),
        pytest.param([0, 0, 10], r"shape \[3\]", id="three numbers"),
        pytest.param([], r"one or more boxes", id="none"),
        pytest.param([["a", 0, 1, 1]], "of numbers", id="words"),
    ],
)
def test_a_box_must_be_on_the_image(boxes: Any, message: str) -> None:
    queries = QuerySet.from_text(["cat"])
    with pytest.raises(QueryError, match=message):
        queries.add_example("cat", PHOTO, boxes)
    assert queries.classes[0].examples == ()


def test_a_box_one_pixel_out_is_clipped() -> None:
    (example,) = Example.read(PHOTO, [-1, 0, 61, 40])
    assert example.box == (0, 0, 60, 40)


def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        QuerySet().add_example("cat", tmp_path / "no.jpg", [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1.5}, r"threshold: expected a number in \[0, 1\], found 1.5"),
        ({"threshold": "0.5"}, "threshold"),
        ({"colour": (1, 2)}, "colour: expected RGB"),
        ({"colour": (1, 2, 256)}, "colour: expected RGB"),
        ({"colour": (1, 2, np.inf)}, "colour: expected RGB"),
        ({"calibration": 0.5}, "expected a Calibration"),
        ({"parent": "dog"}, "parent: expected a class, found 'dog'"),
        ({"parent": "cat"}, "expected another class"),
        ({"treshold": 0.5}, "found 'treshold'"),
        ({"examples": [3]}, "expected a list of Example"),
    ],
)
def test_fields_of_a_class_are_checked(changes: dict[str, Any], message: str) -> None:
    queries = QuerySet.from_text(["cat"])
    before = queries.classes
    with pytest.raises(QueryError, match=message):
        queries.update("cat", **changes)
    assert queries.classes == before


def test_parents_make_no_circle() -> None:
    queries = QuerySet.from_text(["face", "eye", "iris"])
    queries.update("eye", parent="face")
    queries.update("iris", parent="eye")
    with pytest.raises(QueryError, match="circle"):
        queries.update("face", parent="iris")
    with pytest.raises(QueryError, match="found 'face'"):
        queries.remove("face")
    with pytest.raises(QueryError, match="'eye': expected one of that name among parts"):
        queries.subset(["face", "eye", "eye"])
    assert queries.subset(["face", "face"]).names == ("face", "face")
    assert queries.subset(["iris"])["iris"].parent is None
    assert queries.subset(["eye", "iris"])["iris"].parent == "eye"


@pytest.mark.parametrize("ensemble", ["logits", "embeddings"])
def test_prompts_of_a_class_are_averaged(ensemble: Any) -> None:
    texts = {"a": unit(1, 0, 0), "b": unit(0, 1, 0), "c": unit(1, 2, 3)}
    queries = QuerySet([QueryClass("x", ("a", "b")), QueryClass("y", ("c",))], ensemble=ensemble)
    compiled = queries.compiled(table_of(queries, texts))
    mean = np.array([0.5, 0.5, 0]) if ensemble == "logits" else unit(1, 1, 0)
    np.testing.assert_allclose(compiled.prototypes, [mean, texts["c"]], rtol=1e-6)
    assert len(compiled.negatives) == 0


@pytest.mark.parametrize(
    ("combination", "expected"),
    [
        (Combination(), [[0.5, 0.25, 0.25]]),
        (Combination(text_weight=0), [[0, 0.5, 0.5]]),
        (Combination("max", text_weight=0.25), [[0.25, 0.75, 0], [0.25, 0, 0.75]]),
        (Combination("kmeans", prototypes=1), [[0.5, 0.25, 0.25]]),
        (Combination("kmeans", prototypes=5, text_weight=0), [[0, 1, 0], [0, 0, 1]]),
    ],
)
def test_texts_and_examples_of_a_class(combination: Combination, expected: list[Any]) -> None:
    queries = QuerySet([QueryClass("x", ("t",))], combination=combination)
    queries.add_example("x", PHOTO, [[0, 0, 9, 9], [9, 9, 20, 20]])
    table = table_of(queries, {"t": unit(1, 0, 0)}, unit(0, 1, 0), unit(0, 0, 1))
    rows = np.array(expected, dtype=np.float64)
    if combination.rule != "max":
        # The examples' part is a direction of length 1, whatever their mean's length.
        share = 1 - combination.text_weight
        part = rows[:, 1:]
        rows[:, 1:] = share * part / np.linalg.norm(part, axis=1, keepdims=True)
    np.testing.assert_allclose(queries.compiled(table).prototypes, rows, atol=1e-6)


def test_kmeans_finds_the_sides_of_a_thing() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32)[:3]
    noisy = np.repeat(centres, 20, axis=0) + 0.1 * rng.normal(size=(60, 8)).astype(np.float32)
    units = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    found = spherical_kmeans(units[rng.permutation(60)], 3)
    assert sorted(found[:, :3].argmax(axis=1)) == [0, 1, 2]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    expected = np.stack([units[k * 20 : k * 20 + 20].mean(axis=0) for k in range(3)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found[np.argsort(found[:, :3].argmax(axis=1))], expected, atol=1e-5)


@pytest.mark.parametrize("values", [{"rule": "median"}, {"prototypes": 0}, {"text_weight": 1.1}])
def test_a_combination_is_checked(values: dict[str, Any]) -> None:
    with pytest.raises(QueryError, match="expected"):
        Combination(**values)


@pytest.mark.parametrize("few", [1, 256])
def test_negatives_and_background_compete_without_changing_scores(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a loop: classes of both kinds, of texts, of examples; all at once or in pieces."""
    monkeypatch.setattr("owlkit.queries.compiled._FEW_VECTORS", few)
    rng = np.random.default_rng(0)
    texts = {name: unit(*rng.normal(size=6)) for name in ["t", "u", "n", "m", "b"]}
    queries = QuerySet(
        [QueryClass("x", ("t",), negative_prompts=(("n",), ("n", "m"))), QueryClass("y", ("u",))],
        background=["b"],
        combination=Combination("max", text_weight=0.25),
    )
    for box in ([0, 0, 9, 9], [0, 0, 8, 8]):
        queries.add_example("x", PHOTO, box)
    queries.add_example("x", PHOTO, [0, 0, 7, 7], negative=True)
    queries.add_example("z", PHOTO, [0, 0, 6, 6])
    queries.add_example("z", PHOTO, [0, 0, 5, 5], negative=True)
    examples = [unit(*rng.normal(size=6)) for _ in range(5)]
    table = table_of(queries, texts, *examples)
    patches = rng.normal(size=(200, 6)).astype(np.float32)

    found = queries.compiled(table).logits(lambda vectors: patches @ vectors.T)

    both = unit(*(examples[0] + examples[1]))
    prototypes = [
        [0.25 * texts["t"] + 0.75 * one for one in examples[:2]],
        [texts["u"]],
        [examples[3]],
    ]
    negative_texts = [texts["n"], (texts["n"] + texts["m"]) / 2, texts["b"]]
    rivals = [
        [
            *(0.25 * one + 0.75 * both for one in negative_texts),
            0.25 * texts["t"] + 0.75 * examples[2],
        ],
        [],
        [examples[4]],
    ]
    for patch, row in zip(patches, found, strict=True):
        for logit, own, against in zip(row, prototypes, rivals, strict=True):
            value = max(patch @ one for one in own)
            best = max(patch @ rival for rival in [*against, texts["b"]])
            assert logit == (pytest.approx(value, abs=1e-5) if value > best else -1e6)
    assert 50 < (found > -1e6).sum() < 550


def test_negative_examples_of_texts_alone_are_warned_of() -> None:
    queries = QuerySet([QueryClass("x", ("t",))])
    queries.add_example("x", PHOTO, [0, 0, 9, 9], negative=True)
    table = table_of(queries, {"t": unit(1, 0)}, unit(0, 1))
    with pytest.warns(QueryWarning, match="class 'x': negative examples compete"):
        compiled = queries.compiled(table)
    np.testing.assert_array_equal(compiled.negatives, [[0, 1]])


def test_some_classes_keep_their_negatives() -> None:
    rng = np.random.default_rng(0)
    texts = {name: unit(*rng.normal(size=6)) for name in "abcnm"}
    queries = QuerySet(
        [
            QueryClass("x", ("a",)),
            QueryClass("y", ("b",), negative_prompts=(("n",),)),
            QueryClass("z", ("c",)),
        ],
        background=["m"],
    )
    table = table_of(queries, texts)
    patches = rng.normal(size=(50, 6)).astype(np.float32)
    whole = queries.compiled(table)
    part = whole.of_classes([2, 1]).logits(lambda vectors: patches @ vectors.T)
    np.testing.assert_allclose(
        part, whole.logits(lambda vectors: patches @ vectors.T)[:, [2, 1]], rtol=1e-6
    )
    queries_part = queries.subset(["z", "y"])
    again = queries_part.compiled(table).logits(lambda vectors: patches @ vectors.T)
    np.testing.assert_array_equal(again, part)


def test_no_product_is_larger_than_the_answer() -> None:
    """A thousand prototypes of a few hundred classes, and as many negatives."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 8, 300)
    groups = [rng.normal(size=(count, 4)).astype(np.float32) for count in counts]
    rivals = [rng.normal(size=(count - 1, 4)).astype(np.float32) for count in counts[::-1]]
    compiled = CompiledQueries.of(groups, rivals, np.zeros((1, 4), np.float32))
    patches = rng.normal(size=(5, 4)).astype(np.float32)
    widths = []

    def score(vectors: np.ndarray) -> np.ndarray:
        widths.append(len(vectors))
        return patches @ vectors.T

    found = compiled.logits(score)
    assert max(widths) <= 300
    best = np.stack([(patches @ rows.T).max(axis=1) for rows in groups], axis=1)
    against = np.stack([(patches @ rows.T).max(axis=1, initial=0) for rows in rivals], axis=1)
    np.testing.assert_allclose(found, np.where(best > against, best, -1e6), rtol=1e-5)


def test_several_models_share_a_set() -> None:
    """Each gets the vectors of its own embeddings, which are put together once."""
    queries = QuerySet.from_text(["cat"])
    tables = [table_of(queries, {"cat": unit(*axis)}) for axis in np.eye(2)]
    compiled = [queries.compiled(table) for table in tables]
    assert [queries.compiled(table) for table in tables] == compiled
    for one, table in zip(compiled, tables, strict=True):
        np.testing.assert_array_equal(one.prototypes, [table.texts["cat"]])


def test_nothing_to_ask_for() -> None:
    with pytest.raises(QueryError, match="at least one query"):
        QuerySet().compiled(EmbeddingTable())
    queries = QuerySet()
    queries.add_text("cat", ["dog"], negative=True)
    with pytest.raises(QueryError, match="class 'cat': expected a text or an example, found only"):
        queries.compiled(EmbeddingTable(texts={"dog": unit(1, 0)}))


def test_merging_takes_the_sources_of_both() -> None:
    one, other = QuerySet.from_text(["cat", "dog"]), QuerySet.from_text(["owl", "cat"])
    one.update("cat", threshold=0.3)
    other.add_text("cat", ["kitten"])
    other.update("cat", threshold=0.9, colour=(1, 2, 3))
    one.table("model").texts["cat"] = unit(1, 0)
    other.table("model").texts["owl"] = unit(0, 1)
    both = one.merged(other)
    assert both.names == ("cat", "dog", "owl")
    assert both["cat"].prompts == ("cat", "kitten")
    assert (both["cat"].threshold, both["cat"].colour) == (0.3, (1, 2, 3))
    assert both.table("model").texts.keys() == {"cat", "owl"}
    assert one.names == ("cat", "dog")


def test_an_example_that_knows_its_image_stands_for_one_that_does_not() -> None:
    queries = QuerySet()
    queries.add_example("mug", PHOTO, [0, 0, 9, 9])
    (example,) = queries["mug"].examples
    without = QuerySet([QueryClass("mug", examples=(replace(example, image=None),))])
    for one, other in ((queries, without), (without, queries)):
        merged = one.merged(other)["mug"].examples
        assert [example.image is PHOTO for example in merged] == [True]
        both = QuerySet([one["mug"], replace(other["mug"], name="cup")])
        assert [example.image is PHOTO for example in both.examples.values()] == [True]


def test_equal_examples_are_known_by_what_they_show(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    (from_a,), (from_b,) = (
        Example.read(tmp_path / name, [0, 0, 9, 9]) for name in ("a.png", "b.png")
    )
    assert from_a == from_b
    assert ExampleKey.of(from_a, None) == ExampleKey.of(from_b, None)
    (from_array,) = Example.read(PHOTO, [0, 0, 9, 9])
    (from_picture,) = Example.read(Image.fromarray(PHOTO), [0, 0, 9, 9])
    assert from_array == from_picture
    np.testing.assert_array_equal(from_a.pixels(), PHOTO)
    Image.fromarray(PHOTO[::-1]).save(tmp_path / "a.png")
    with pytest.raises(QueryError, match="found another one"):
        from_a.pixels()
