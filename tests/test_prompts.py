"""Prompt templates are the published ones, and canonical text is what OWL-ViT was trained on."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from owlkit.errors import QueryError
from owlkit.prompts import ALIASES, TEMPLATES, canonicalize, fill, resolve_templates


def test_ensemble81_is_the_bare_name_and_the_80_templates_of_clip_in_order() -> None:
    templates = TEMPLATES["ensemble81"]
    assert len(templates) == len(set(templates)) == 81
    assert templates[0] == "{}"
    assert templates[1] == "a bad photo of a {}."
    assert templates[36] == "a {} in a video game."
    assert templates[80] == "a tattoo of the {}."
    # Pins wording and order to the published list.
    digest = hashlib.sha256("\n".join(templates[1:]).encode()).hexdigest()
    assert digest == "4f976686fb651bb5803d4689dcd849f75efe0ef19a3c801355bc9a6f03c8a5af"


def test_ensemble7_is_part_of_the_80() -> None:
    templates = TEMPLATES["ensemble7"]
    assert len(set(templates)) == 7
    assert templates[0] == "itap of a {}."
    assert templates[-1] == "a photo of the small {}."
    assert set(templates) < set(TEMPLATES["ensemble81"])


def test_cifar_is_the_published_list_in_order() -> None:
    templates = TEMPLATES["cifar"]
    assert len(templates) == len(set(templates)) == 18
    looks = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
    for article, part in (("a", templates[:9]), ("the", templates[9:])):
        assert part[:7] == tuple(f"a {look}photo of {article} {{}}." for look in looks)
        assert part[7:] == tuple(f"a photo of {article} {size} {{}}." for size in ("small", "big"))


@pytest.mark.parametrize(
    ("domain", "count", "prompt"),
    [
        ("aerial", 18, "aerial view of the owl."),
        ("aircraft", 2, "a photo of the owl, a type of aircraft."),
        ("birds", 1, "a photo of a owl, a type of bird."),
        ("cars", 8, "i love my owl!"),
        ("countries", 5, "a photo i took while visiting owl."),
        ("digits", 1, 'a photo of the number: "owl".'),
        ("emotions", 6, "look at how owl they are."),
        ("flowers", 1, "a photo of a owl, a type of flower."),
        ("food", 1, "a photo of owl, a type of food."),
        ("histopathology", 1, "this is a photo of owl"),
        ("objects", 34, "a doodle of the owl."),
        ("pets", 1, "a photo of a owl, a type of pet."),
        ("photo", 1, "a photo of a owl."),
        ("satellite", 3, "a centered satellite photo of a owl."),
        ("scenes", 2, "a photo of the owl."),
        ("textures", 8, "a photo of the owl pattern."),
        ("traffic_signs", 3, 'a close up photo of a "owl" traffic sign.'),
    ],
)
def test_domains_have_the_sentences_that_clip_published(
    domain: str, count: int, prompt: str
) -> None:
    prompts = [fill(template, "owl") for template in resolve_templates(domain)]
    assert len(prompts) == len(set(prompts)) == count
    assert prompt in prompts


def test_objects_are_the_published_list_in_order() -> None:
    templates = TEMPLATES["objects"]
    assert templates[0] == "a photo of a {}."
    assert templates[10] == "a {} in a video game."
    # The second half is the first one with another article.
    for one, other in zip(templates[:17], templates[17:], strict=True):
        assert other == one.replace("a {}", "the {}") or other[4:] == one[2:]


def test_data_sets_have_the_list_of_their_domain() -> None:
    assert resolve_templates("EuroSAT") == TEMPLATES["satellite"]
    assert resolve_templates("cifar100") == TEMPLATES["cifar"]
    assert not ALIASES.keys() & TEMPLATES.keys()
    assert set(ALIASES.values()) <= set(TEMPLATES)


def test_no_two_names_are_the_same_list() -> None:
    assert len(set(TEMPLATES.values())) == len(TEMPLATES)


def test_every_template_has_one_slot() -> None:
    assert [t for each in TEMPLATES.values() for t in each if t.count("{}") != 1] == []


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        pytest.param("tennis_racket_(big)", "tennis racket big", id="punctuation is a space"),
        pytest.param("  A\tCat\n", "a cat", id="case and white space"),
        pytest.param("close--up - photo", "close-up - photo", id="hyphens stay, runs shrink"),
        pytest.param("#person", "#person", id="marker in front"),
        pytest.param(" ##no #1 c#", "#no 1 c", id="markers elsewhere go"),
        pytest.param("a # b", "a b", id="a lone marker leaves no double space"),
        pytest.param("caf\u00e9", "caf", id="letters outside a-z go"),
        pytest.param("\u732b", "", id="nothing left"),
        pytest.param("4x4", "4x4", id="digits stay"),
    ],
)
def test_canonicalize(text: str, canonical: str) -> None:
    assert canonicalize(text) == canonical


@given(st.text(st.characters() | st.sampled_from("aB1-# _"), max_size=30))
def test_canonical_text_is_clean_and_stays_the_same(text: str) -> None:
    canonical = canonicalize(text)
    assert set(canonical) <= set("abcdefghijklmnopqrstuvwxyz0123456789-# ")
    assert canonical == canonical.strip()
    assert "  " not in canonical
    assert "--" not in canonical
    assert "#" not in canonical[1:]
    assert canonicalize(canonical) == canonical


def test_fill_keeps_the_name_as_it_is() -> None:
    assert fill("a photo of a {}.", "Red {} mug") == "a photo of a Red {} mug."
    assert fill("a {} in a video game.", "\\1 {0}") == "a \\1 {0} in a video game."


def test_fill_can_canonicalise() -> None:
    assert fill("a photo of a {}.", "T-Shirt", canonical=True) == "a photo of a t-shirt"
    assert fill("{}", "#person", canonical=True) == "#person"


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{name}"])
def test_fill_refuses_a_template_without_exactly_one_slot(template: str) -> None:
    with pytest.raises(QueryError, match="exactly one"):
        fill(template, "cat")


@pytest.mark.parametrize("name", ["", "\u732b", "#", "-"])
def test_a_name_of_which_nothing_is_left_is_refused(name: str) -> None:
    with pytest.raises(QueryError, match="no letter a-z or digit is left of"):
        fill("a photo of a {}.", name, canonical=True)


def test_templates_by_name_by_list_and_by_default() -> None:
    assert resolve_templates(None) == resolve_templates("none") == ("{}",)
    assert resolve_templates("ensemble7") == TEMPLATES["ensemble7"]
    assert resolve_templates(["the {}", "my {}"]) == ("the {}", "my {}")


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("ensemble8", "no templates are named 'ensemble8'; did you mean ensemble81"),
        ("imagenet", "there are none, ensemble7, ensemble81"),
        ("the {}", r"pass a list to use it as a template: \['the \{\}'\]"),
        ([], "at least one template"),
        (["the {}", "cat"], r"template 1: expected text with exactly one '\{\}', found 'cat'"),
        (["{} {}"], "template 0: expected text with exactly one"),
        ([None], "template 0: expected text with exactly one '{}', found None"),
    ],
)
def test_templates_that_make_no_sense(templates: str | Sequence[str], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        resolve_templates(templates)


def test_prompts_need_no_torch() -> None:
    code = "import sys, owlkit.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
