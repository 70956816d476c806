"""What a set of queries holds, for people to read."""

from collections.abc import Sequence

from owlkit.queries import QueryClass, QuerySet

_COLUMNS = (
    *("prompts", "examples", "negatives", "threshold", "calibration", "colour", "part of"),
    "class",
)


def described_size(queries: QuerySet) -> str:
    """How much a set holds, in a line."""
    counts = (
        (len(queries), "class", "classes"),
        (sum(len(one.prompts) for one in queries.classes), "prompt", "prompts"),
        (sum(len(one.examples) for one in queries.classes), "example", "examples"),
        (sum(_negatives(one) for one in queries.classes), "negative", "negatives"),
        (len(queries.models), "model's embeddings", "models' embeddings"),
    )
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts)


def describe_queries(queries: QuerySet) -> str:
    """What a set holds: its size, settings, classes, and the models that have embedded it."""
    combination = queries.combination
    clusters = f" of {combination.prototypes} clusters" if combination.rule == "kmeans" else ""
    background = ", ".join(map(repr, queries.background)) or "none"
    kept = [example.image for example in queries.examples.values()]
    named = sum(isinstance(image, str) for image in kept)
    lines = [
        described_size(queries),
        f"  ensemble {queries.ensemble}, combination {combination.rule}{clusters} with text weight "
        f"{combination.text_weight:g}, choice {queries.choice or 'default'}",
        f"  background: {background}",
    ]
    if kept:
        lost = kept.count(None)
        inside = len(kept) - named - lost
        lines.append(f"  images of examples: {inside} inside, {named} by path or URL, {lost} lost")
    lines += ["", *_table([_COLUMNS, *(_row(one) for one in queries.classes)])]
    models = [_described_model(queries, identity) for identity in queries.models]
    return "\n".join([*lines, "", *(models or ["  embedded by no model"])])


def described_box(box: Sequence[float]) -> str:
    """A box as the command line takes it, to the pixel."""
    return ",".join(f"{number:.0f}" for number in box)


def _row(one: QueryClass) -> tuple[str, ...]:
    calibration = "-"
    if one.calibration is not None:
        calibration = "isotonic" if one.calibration.knots else "linear"
    return (
        str(len(one.prompts)),
        str(len(one.examples)),
        str(_negatives(one)),
        "-" if one.threshold is None else f"{one.threshold:.4g}",
        calibration,
        "-" if one.colour is None else "#{:02x}{:02x}{:02x}".format(*one.colour),
        "-" if one.parent is None else _printable(one.parent),
        _printable(one.name),
    )


def _negatives(one: QueryClass) -> int:
    return len(one.negative_prompts) + len(one.negative_examples)


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _described_model(queries: QuerySet, identity: str) -> str:
    table = queries.table(identity)
    texts = sum(text in table.texts for text in queries.texts)
    examples = sum(key in table.examples for key in queries.examples)
    return (
        f"  model {identity}: {texts} of {len(queries.texts)} texts, {examples} of "
        f"{len(queries.examples)} examples embedded"
    )
