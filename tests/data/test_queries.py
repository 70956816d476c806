"""Which queries are asked, and in which words."""

import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from owlkit.data.queries import QuerySampler, name_counts
from owlkit.errors import ConfigError, DatasetError, QueryError
from owlkit.prompts import TEMPLATES, canonicalize

NAMES = tuple("abcdefghij")


def sampler(names=NAMES, counts=None, *, exhaustive=False, templates="none", **options):
    counts = np.ones(len(names), np.int64) if counts is None else np.asarray(counts)
    return QuerySampler(names, counts, exhaustive=exhaustive, templates=templates, **options)


def ask(queries, labels=(), *, absent=(), unknown=(), seed=0):
    return queries(
        np.array(labels, np.int64),
        absent=absent,
        unknown=unknown,
        generator=np.random.default_rng(seed),
        templates=np.random.default_rng(seed),
    )


def test_positives_in_order_of_appearance_then_annotated_then_random_negatives():
    asked = ask(sampler(random_negatives=4), [3, 1, 3, 0], absent=[7, 1, 5], unknown=[2, 4, 6])
    assert asked.texts[:5] == ("d", "b", "a", "h", "f")
    assert sorted(asked.texts[5:]) == ["i", "j"]
    np.testing.assert_array_equal(
        asked.labels, np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]) @ np.eye(3, 7)
    )


def test_annotated_negatives_are_not_cut_to_the_number_of_random_ones():
    asked = ask(sampler(random_negatives=2), [0], absent=[1, 2, 3, 4])
    assert asked.texts == ("a", "b", "c", "d", "e")
    assert ask(sampler(random_negatives=0), [0]).texts == ("a",), "only certain negatives"


def test_a_negative_of_one_tile_outweighs_doubt_about_another_only_in_federated_data():
    options = {"absent": [1], "unknown": [1]}
    assert ask(sampler(random_negatives=0), [0], **options).texts == ("a", "b")
    certain = sampler(random_negatives=0, exhaustive=True, negatives="sampled")
    assert ask(certain, [0], **options).texts == ("a",)


def test_at_most_max_queries_and_what_overflows_loses_its_label_but_is_no_negative():
    queries = sampler(max_queries=3, random_negatives=9)
    for seed in range(20):
        asked = ask(queries, [4, 3, 2, 1, 4], absent=[9], seed=seed)
        assert asked.texts == ("e", "d", "c")
        np.testing.assert_array_equal(asked.labels.any(axis=1), [True, True, True, False, True])
        assert ask(queries, [4], absent=[9, 8, 7], seed=seed).texts == ("e", "j", "i")
    everything = sampler(max_queries=4, exhaustive=True, negatives="all")
    for seed in range(20):
        asked = ask(everything, [4, 3, 4], seed=seed).texts
        assert len(set(asked)) == 4
        assert asked[:2] == ("e", "d")


def test_random_negatives_are_drawn_in_proportion_to_frequency_without_replacement():
    counts = [5, 8, 1, 2, 0, 4]
    queries = sampler("abcdef", counts, random_negatives=2)
    generator = np.random.default_rng(0)
    drawn = Counter()
    for _ in range(4000):
        texts = queries(
            np.array([0]), absent=(), unknown=(), generator=generator, templates=generator
        ).texts
        drawn[tuple(sorted(texts[1:]))] += 1
    weights = {"b": 8, "c": 1, "d": 2, "f": 4}
    total = sum(weights.values())
    for pair in ("bc", "bd", "bf", "cd", "cf", "df"):
        one, two = (weights[name] for name in pair)
        wanted = one / total * two / (total - one) + two / total * one / (total - two)
        assert drawn[tuple(pair)] / 4000 == pytest.approx(wanted, abs=0.025)
    assert sum(drawn.values()) == 4000
    assert not any("e" in pair for pair in drawn), "never seen, never drawn"
    assert len(ask(sampler("abcdef", counts), [0]).texts) == 5, "all that there are"


def test_all_negatives_in_order_except_unknown_ones():
    queries = sampler(exhaustive=True, negatives="all")
    assert "".join(ask(queries, [5, 2], unknown=[0, 2, 9]).texts) == "fcbdeghi"


def test_a_random_part_of_all_where_there_is_no_room():
    queries = sampler(exhaustive=True, negatives="all", max_queries=5)
    seen = Counter()
    for seed in range(600):
        texts = ask(queries, [5], seed=seed).texts
        assert list(texts[1:]) == sorted(texts[1:])
        seen.update(texts[1:])
    assert set(seen) == set(NAMES) - {"f"}
    assert all(abs(count / 600 - 4 / 9) < 0.08 for count in seen.values())


@pytest.mark.parametrize(
    ("exhaustive", "max_queries", "count"),
    [
        pytest.param(True, 10, 10, id="exhaustive and all fit: all"),
        pytest.param(True, 9, 4, id="exhaustive but too many: sampled"),
        pytest.param(False, 10, 4, id="not exhaustive: sampled"),
    ],
)
def test_auto(exhaustive, max_queries, count):
    queries = sampler(exhaustive=exhaustive, max_queries=max_queries, random_negatives=3)
    assert len(ask(queries, [0]).texts) == count


def test_all_negatives_of_federated_data_are_refused():
    with pytest.raises(ConfigError, match=r"negatives: expected auto or sampled .* found all"):
        sampler(negatives="all")


def test_each_query_of_each_example_draws_its_own_template():
    names = ("Tennis_Racket (big)", "cat")
    queries = sampler(names, exhaustive=True, templates="ensemble81")
    sentences = [
        {canonicalize(template.replace("{}", name)) for template in TEMPLATES["ensemble81"]}
        for name in names
    ]
    seen: list[set[str]] = [set(), set()]
    same = 0
    for seed in range(800):
        texts = ask(queries, [0, 1, 0], seed=seed).texts
        for texts_seen, text in zip(seen, texts, strict=True):
            texts_seen.add(text)
        same += texts[0].replace("tennis racket big", "cat") == texts[1]
    assert seen == sentences
    assert same < 30, "independent of each other"


def test_spelling_and_marks():
    names = ("#Red Mug!", "Éclair", "Blue-Mug", "a  b")
    assert ask(sampler(names, templates=["my {}."]), [0, 1, 2, 3]).texts == (
        "red mug",
        "my clair",
        "my blue-mug",
        "my a b",
    )
    as_written = sampler(names, templates=["my {}."], canonicalize=False)
    assert ask(as_written, [0, 1, 2, 3]).texts == (
        "Red Mug!",
        "my Éclair.",
        "my Blue-Mug.",
        "my a  b.",
    )


def test_names_that_are_spelled_alike_are_one_query():
    names = ("hot_dog", "cat", "Hot dog!", "#cat", "owl", "eel")
    queries = sampler(names, [1, 1, 1, 1, 1, 0], templates="ensemble7", random_negatives=3)
    asked = ask(queries, [2, 0, 1], absent=[3, 0])
    assert [text.count("hot dog") for text in asked.texts] == [1, 0, 0]
    np.testing.assert_array_equal(asked.labels, [[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert not any("cat" in text for text in ask(queries, [4], unknown=[3]).texts)


def test_templates_that_make_one_sentence_of_two_names_make_one_query():
    queries = sampler(("cat", "a cat"), exhaustive=True, templates=["{}", "a {}"])
    found = {ask(queries, [1], seed=seed).texts for seed in range(40)}
    assert found == {("a cat",), ("a cat", "cat"), ("a a cat", "cat"), ("a a cat", "a cat")}


@pytest.mark.parametrize(
    ("names", "canonical", "message"),
    [
        (("cat", "猫"), True, r"canonicalize: true.* class 1 '猫'"),
        (("# -", "cat"), True, "class 0 '# -'"),
        (("cat", " "), False, "found nothing in class 1 ' '"),
        (("猫",) * 12, True, "and 2 more"),
    ],
)
def test_names_without_anything_to_ask_for(names, canonical, message):
    with pytest.raises(DatasetError, match=message):
        sampler(names, canonicalize=canonical)


def test_unknown_templates():
    with pytest.raises(QueryError, match="ensemble81"):
        sampler(templates="ensemble80")


def test_other_scripts_are_asked_for_as_they_are():
    assert ask(sampler(("猫", "犬"), canonicalize=False), [1], absent=[0]).texts == ("犬", "猫")


def test_counts_are_boxes_and_annotated_absences():
    dataset = SimpleNamespace(
        class_counts=lambda: np.array([2, 0, 1]),
        images=[SimpleNamespace(absent=(1, 2)), SimpleNamespace(absent=())],
    )
    np.testing.assert_array_equal(name_counts(dataset), [2, 1, 2])


def test_nothing_to_ask_and_pickling():
    asked = ask(sampler(random_negatives=0))
    assert asked.texts == ()
    assert asked.labels.shape == (0, 0)
    queries = sampler(templates="ensemble81")
    first = ask(queries, [0], seed=3).texts
    assert ask(pickle.loads(pickle.dumps(queries)), [0], seed=3).texts == first


def test_names_that_become_one_are_logged(caplog):
    sampler(("Red_Cup", "owl", "red cup", "#red cup"))
    (message,) = caplog.messages
    assert message.endswith("as one: 'Red_Cup' and 'red cup' and '#red cup' as 'red cup'")
    caplog.clear()
    sampler(("cat", "owl"))
    assert caplog.messages == []
