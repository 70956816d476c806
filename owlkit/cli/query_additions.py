"""What a command line adds to a set of queries and changes in it."""

import argparse
import math
from dataclasses import replace
from typing import Any, get_args

from PIL import ImageColor

from owlkit.errors import ConfigError, QueryError
from owlkit.patch_choice import ChoiceRule
from owlkit.prompts import TEMPLATES
from owlkit.queries import Combination, Ensemble, QuerySet
from owlkit.queries.combination import Rule
from owlkit.queries.syntax import parse_words

_WHOLE = "whole"


def add_query_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options; those that are not given are None."""
    parser.add_argument("--words", help='classes by name: "cat, face [nose, eye]"')
    several: dict[str, Any] = {"action": "append"}
    example = {**several, "nargs": 3, "metavar": ("NAME", "IMAGE", "BOX")}
    text = {**several, "nargs": 2, "metavar": ("NAME", "TEXT")}
    parser.add_argument(
        "--example",
        **example,
        help="path or URL of a picture that shows the class in its surroundings, and where: "
        f"x0,y0,x1,y1 in pixels, or '{_WHOLE}' for what stands out; may be repeated, as most may",
    )
    parser.add_argument("--negative-example", **example, help="what must not be taken for it")
    parser.add_argument("--text", **text, help="what the class is also called")
    parser.add_argument("--negative-text", **text, help="what must not be taken for it")
    parser.add_argument("--templates", choices=sorted(TEMPLATES), help="for the words given here")
    parser.add_argument(
        "--background", **several, metavar="TEXT", help='competes with all classes; may be ""'
    )
    parser.add_argument(
        "--threshold", **several, nargs=2, metavar=("NAME", "SCORE"), help="least score of a class"
    )
    parser.add_argument(
        "--colour", **several, nargs=2, metavar=("NAME", "COLOUR"), help="'#ff8800', or its name"
    )
    parser.add_argument(
        "--ensemble", choices=get_args(Ensemble), help="how prompts of a class become one"
    )
    parser.add_argument(
        "--combination", choices=get_args(Rule), help="how examples of a class become one"
    )
    parser.add_argument("--prototypes", type=int, help="clusters of --combination kmeans")
    parser.add_argument(
        "--text-weight", type=float, help="share of the words in a class that has examples too"
    )
    parser.add_argument(
        "--choice", choices=get_args(ChoiceRule), help="which box is taken for an example"
    )


def settled(old: QuerySet, options: argparse.Namespace) -> QuerySet:
    """The classes and embeddings of a set, with the settings that are asked for.

    Raises:
        ConfigError: If prototypes are asked for without clusters.
        QueryError: If a setting cannot be used.
    """
    changes = {
        "rule": options.combination,
        "prototypes": options.prototypes,
        "text_weight": options.text_weight,
    }
    combination: Combination = replace(
        old.combination, **{key: value for key, value in changes.items() if value is not None}
    )
    if options.prototypes is not None and combination.rule != "kmeans":
        raise ConfigError("--prototypes: expected together with --combination kmeans")
    queries = QuerySet(
        old.classes,
        ensemble=options.ensemble or old.ensemble,
        combination=combination,
        background=tuple(dict.fromkeys((*old.background, *(options.background or ())))),
        choice=options.choice or old.choice,
    )
    for identity in old.models:
        queries.table(identity).texts.update(old.table(identity).texts)
        queries.table(identity).examples.update(old.table(identity).examples)
    return queries


def additions_to(old: QuerySet, options: argparse.Namespace) -> QuerySet:
    """The words and examples that are asked for.

    Raises:
        ImageError: If the image of an example cannot be read.
        QueryError: If words or a box cannot be used, or a class is a part of something else
            already.
    """
    templates = options.templates
    new = QuerySet() if options.words is None else parse_words(options.words, templates=templates)
    for one in new.classes:
        before = old[one.name].parent if one.name in old.names else None
        if before is not None and one.parent not in (None, before):
            raise QueryError(
                f"--words: {one.name!r}: expected a part of {before!r}, as it is in "
                f"{options.source}; found a part of {one.parent!r}"
            )
    # What a class is comes first, so that labels follow that order.
    for negative in (False, True):
        for name, text in (options.negative_text if negative else options.text) or ():
            new.add_text(name, [text], templates=templates, negative=negative)
        for name, image, box in (options.negative_example if negative else options.example) or ():
            new.add_example(name, image, _parsed_box(name, box), negative=negative)
    return new


def changed_classes(queries: QuerySet, options: argparse.Namespace) -> None:
    """Sets the thresholds and colours that are asked for.

    Raises:
        QueryError: If one cannot be used, or there is no such class.
    """
    for option, field, parsed in (
        ("--threshold", "threshold", _parsed_threshold),
        ("--colour", "colour", _parsed_colour),
    ):
        for name, text in getattr(options, field) or ():
            try:
                queries.update(name, **{field: parsed(text)})
            except QueryError as error:
                raise QueryError(f"{option}: {error}") from error


def _parsed_box(name: str, text: str) -> list[float] | None:
    if text.strip() == _WHOLE:
        return None
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise QueryError(
            f"class {name!r}: expected a box x0,y0,x1,y1 in pixels or {_WHOLE!r}, found {text!r}"
        )
    return numbers


def _parsed_threshold(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        # What the class refuses, in words of its own.
        return math.nan


def _parsed_colour(text: str) -> tuple[int, ...]:
    colour: tuple[int, ...] = ()
    try:
        colour = ImageColor.getrgb(text)
    except ValueError:
        pass
    if len(colour) != 3:
        raise QueryError(f"expected '#rrggbb' or the name of a colour, found {text!r}")
    return colour
