"""``owlkit make-queries``: makes, extends and shows files of queries."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from owlkit.cli.example_sheet import SHEET_FORMATS, Taken, draw_examples
from owlkit.cli.files import check_nothing_is_overwritten, prepare_file
from owlkit.cli.query_additions import add_query_arguments, additions_to, changed_classes, settled
from owlkit.cli.query_description import describe_queries, described_box, described_size
from owlkit.errors import ConfigError, QueryError, QueryWarning
from owlkit.queries import Example, QuerySet
from owlkit.queries.file import Images
from owlkit.whole_file import written_whole

if TYPE_CHECKING:
    from owlkit.predictor import Predictor

SUMMARY = "make or extend a file of queries, of words and example boxes, or show what one holds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "out",
        type=Path,
        metavar="FILE",
        help="query file to write, usually NAME.queries; without any option: file to show",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="query file to extend; the file to write itself may be it",
    )
    add_query_arguments(parser)
    parser.add_argument(
        "--model", help="folder or hub id; embeds everything, so that the file answers by itself"
    )
    parser.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")
    parser.add_argument(
        "--images",
        choices=get_args(Images),
        help="which images of examples the file holds itself; of others it holds the path or URL "
        "(default memory: those that came from a file of queries)",
    )
    parser.add_argument(
        "--sheet", type=Path, help="picture file: each example, the given and the taken box"
    )


def run(options: argparse.Namespace) -> int:
    """Makes the queries, embeds them, says what was taken for each example, writes; returns 0.

    Raises:
        ConfigError: If an option or the file to write cannot be used.
        ImageError: If an image of an example cannot be read.
        QueryError: If a query, a box or the file to extend cannot be used.
        CheckpointError: If the model cannot be loaded.
    """
    given = {name for name, value in vars(options).items() if value is not None} - {"out"}
    if not given:
        return _show(options.out)
    # Whatever can be found wrong is, before a large model is loaded.
    _check_options(options, given)
    old = QuerySet() if options.source is None else QuerySet.load(options.source)
    queries = settled(old, options).merged(additions_to(old, options))
    changed_classes(queries, options)
    _check_answerable(queries, old, options)
    _check_places(queries, options)
    taken = [] if options.model is None else _embed(queries, options)
    queries.save(options.out, images=options.images or "memory")
    if options.sheet is not None:
        picture = draw_examples(taken)
        with written_whole(options.sheet) as scratch:
            picture.save(scratch, format=SHEET_FORMATS[options.sheet.suffix.lower()])
    print(f"{options.out}: {described_size(queries)}")
    return 0


def _show(path: Path) -> int:
    if not path.is_file():
        raise ConfigError(
            f"{path}: expected a query file to show, or what to put into a new one: --words, "
            "--example, --from"
        )
    print(f"{path}: {describe_queries(QuerySet.load(path))}")
    return 0


def _check_options(options: argparse.Namespace, given: set[str]) -> None:
    """Finds options that do not go together, and a file that would be lost."""
    for option in ("device", "sheet"):
        if option in given and options.model is None:
            raise ConfigError(f"--{option}: expected together with --model")
    if "templates" in given and not given & {"words", "text", "negative_text"}:
        raise ConfigError("--templates: expected with --words, --text or --negative-text")
    sheet, out, source = options.sheet, options.out, options.source
    if sheet is not None:
        if sheet.suffix.lower() not in SHEET_FORMATS:
            known = ", ".join(SHEET_FORMATS)
            raise ConfigError(f"--sheet: expected a name that ends in {known}; found {sheet}")
        if any(path is not None and _same(sheet, path) for path in (out, source)):
            raise ConfigError(f"--sheet: expected another file than that of queries, found {sheet}")
    if out.is_file() and not (source is not None and _same(out, source)):
        raise ConfigError(
            f"{out}: expected the name of a new file, found one that exists; extend it with "
            f"--from {out}, or choose another name"
        )


def _same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def _check_answerable(queries: QuerySet, old: QuerySet, options: argparse.Namespace) -> None:
    """Finds classes of which no model could know what they are."""
    if not len(queries):
        raise QueryError("expected at least one class (--words, --text, --example), found none")
    for one in queries.classes:
        where = f"class {one.name!r}"
        if not one.prompts and not one.examples:
            raise QueryError(f"{where}: expected words or an example, found only what it is not")
    embedded = {key for identity in queries.models for key in queries.table(identity).examples}
    keys = {example: key for key, example in queries.examples.items()}
    before = set(old.examples.values())
    for one in queries.classes:
        for example in one.all_examples:
            if keys[example] not in embedded:
                _check_encodable(example, one.name, example in before, options)


def _check_encodable(
    example: Example, name: str, is_old: bool, options: argparse.Namespace
) -> None:
    """Finds an example of which no model has made anything, and none could."""
    if options.model is None:
        named = isinstance(example.image, str)
        if example.image is None or (options.images == "none" and not named):
            raise QueryError(
                f"class {name!r}: expected an example whose image is kept, or that a model has "
                f"encoded; found neither ({example.where}): use --model or --images memory"
            )
    elif is_old:
        # New ones have just been read.
        try:
            example.pixels()
        except QueryError as error:
            raise QueryError(f"class {name!r}: {error}") from error


def _check_places(queries: QuerySet, options: argparse.Namespace) -> None:
    """Finds places that cannot be written to, or that hold what would be lost."""
    examples = queries.examples.values()
    sources = [example.image for example in examples if isinstance(example.image, str)]
    targets = {"FILE": options.out, "--sheet": options.sheet}
    if options.sheet is not None and not examples:
        raise ConfigError("--sheet: expected examples to draw, found none")
    check_nothing_is_overwritten(sources, [path for path in targets.values() if path is not None])
    for option, path in targets.items():
        if path is not None:
            prepare_file(path, option=option)


def _embed(queries: QuerySet, options: argparse.Namespace) -> list[Taken]:
    """Embeds everything; says and returns what was taken for the examples."""
    from owlkit.predictor import Predictor

    predictor = Predictor.from_pretrained(options.model, device=options.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", QueryWarning)
        predictor.embed(queries)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    taken = _taken(predictor, queries)
    for title, example, embedded in taken:
        given = "whole" if example.box is None else described_box(example.box)
        line = f"{title}: {example.where} {given}: took {described_box(embedded.box)}"
        if example.box is not None:
            line += f", IoU {embedded.iou:.2f}"
        if embedded.objectness is not None:
            line += f", objectness {embedded.objectness:.2f}"
        print(line)
    return taken


def _taken(predictor: "Predictor", queries: QuerySet) -> list[Taken]:
    """All examples in their order."""
    found: list[Taken] = []
    for one in queries.classes:
        chosen = iter(predictor.chosen(queries, one.name)) if one.all_examples else iter(())
        titles = [one.name] * len(one.examples)
        titles += [f"not {one.name}"] * len(one.negative_examples)
        found += list(zip(titles, one.all_examples, chosen, strict=True))
    return found
