"""Queries as one line of words."""

import random

import pytest

from owlkit.errors import QueryError
from owlkit.queries import QuerySet
from owlkit.queries.syntax import parse_words


def classes_of(text):
    return [(one.name, one.prompts, one.parent) for one in parse_words(text).classes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", [("cat", None)]),
        (" a cat ,remote control", [("a cat", None), ("remote control", None)]),
        (
            "face [nose, eye], cat",
            [("face", None), ("nose", "face"), ("eye", "face"), ("cat", None)],
        ),
        ("a[b[c[d]],e]", [("a", None), ("b", "a"), ("c", "b"), ("d", "c"), ("e", "a")]),
        ('"salt, pepper", "[x]" [y]', [("salt, pepper", None), ("[x]", None), ("y", "[x]")]),
        ('6" pipe, "a ""b"""', [('6" pipe', None), ('a "b"', None)]),
        ("Füße, 猫 [爪]", [("Füße", None), ("猫", None), ("爪", "猫")]),
    ],
)
def test_words(text, expected):
    found = classes_of(text)
    assert [(name, parent) for name, _, parent in found] == expected
    assert [prompts for _, prompts, _ in found] == [(name,) for name, _ in expected]


def test_a_part_of_several_things_is_a_class_of_each():
    assert classes_of("car [wheel, door], cart [wheel]") == [
        ("car", ("car",), None),
        ("car/wheel", ("wheel",), "car"),
        ("door", ("door",), "car"),
        ("cart", ("cart",), None),
        ("cart/wheel", ("wheel",), "cart"),
    ]
    assert [name for name, _, _ in classes_of("wheel, car [wheel [nut]], cart [wheel [nut]]")] == [
        *("wheel", "car", "car/wheel", "car/wheel/nut", "cart", "cart/wheel", "cart/wheel/nut")
    ]


def test_without_parts_it_is_a_list_of_words():
    expected = QuerySet.from_text(["cat", "dog"], templates="ensemble7")
    assert parse_words("cat, dog", templates="ensemble7") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "words, found the end of ''"),
        (" ", "words, found the end"),
        (",cat", "words, found ',' at character 1"),
        ("cat,, dog", "words, found ',' at character 5"),
        ("cat, dog,", "words, found the end"),
        ("face []", r"words, found '\]' at character 7"),
        ("face [nose,]", r"words, found '\]' at character 12"),
        ("[nose]", r"words, found '\[' at character 1"),
        ("face [[nose]]", r"words, found '\[' at character 7"),
        ("face [nose", r"'\]' for the '\[' at character 6, found the end"),
        ("a [b [c]", r"'\]' for the '\[' at character 3"),
        ("face nose]", r"a '\[' before it, found '\]' at character 10"),
        ("face [nose] eye", r"',', '\[' or '\]', found 'eye' at character 13"),
        ("face [nose] [eye]", r"',' or '\]', found '\[' at character 13"),
        ('"cat" dog', "found 'dog' at character 7"),
        ('a, "cat, dog', "second quote for the one at character 4"),
        ('a, "", b', "words, found '\"\"' at character 4"),
        ('a, " "', "words, found '\"\"' at character 4"),
        ("cat, dog, cat", "'cat' once, found it again at character 11"),
        ("car [wheel, wheel]", "'car/wheel' once, found it again at character 13"),
        ('car [wheel], cart [wheel], "car/wheel"', "'car/wheel' once"),
        ("a\ud800", "valid Unicode"),
    ],
)
def test_faults_say_where(text, message):
    with pytest.raises(QueryError, match=message):
        parse_words(text)


def test_any_text_is_read_or_refused():
    generator = random.Random(0)
    read = 0
    for _ in range(3000):
        text = "".join(generator.choices('ab ,[]"', k=generator.randint(0, 12)))
        try:
            queries = parse_words(text)
        except QueryError:
            continue
        read += 1
        assert text.count("[") >= len({one.parent for one in queries.classes} - {None})
    assert read > 100
    deep = 2000
    assert len(parse_words(" [".join(f"x{row}" for row in range(deep)) + "]" * (deep - 1))) == deep
    with pytest.raises(QueryError):
        parse_words("x[" * 50_000)
