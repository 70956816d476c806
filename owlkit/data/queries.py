"""Which queries are asked about a training example, and in which words.

Shapes: N boxes, C classes, Q queries. A *name* is a class as it is asked for: classes whose names
are spelled alike share one.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from owlkit.data.coco import DetectionDataset
from owlkit.errors import ConfigError, DatasetError
from owlkit.prompts import canonicalize as canonical_spelling
from owlkit.prompts import fill, resolve_templates

_logger = logging.getLogger(__name__)

NO_TEMPLATE = "#"
"""In front of a name: it is asked for as it is, without a template, and without this mark."""


@dataclass(frozen=True, eq=False)
class ExampleQueries:
    """What is asked about one example.

    Attributes:
        texts: Distinct queries, Q of them: what is there, then what is not.
        labels: True where a box is an instance of a query [N, Q]. A row without any belongs to a
            box whose query found no place.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.bool_]


def name_counts(dataset: DetectionDataset) -> NDArray[np.int64]:
    """Returns how often each class is annotated, as boxes or as absent from an image [C]."""
    counts = dataset.class_counts().copy()
    for record in dataset.images:
        counts[list(record.absent)] += 1
    return counts


class QuerySampler:
    """Chooses the queries of an example.

    First come the classes that have boxes, then negatives: queries that are right nowhere in the
    image.

    - `sampled`: the classes annotated as absent, then random ones, drawn without replacement in
      proportion to how often they are annotated (OWL-ViT [0]), until there are
      ``random_negatives`` in all. Annotated negatives count, but none is left out for that number.
    - `all`: every class; in the order of the classes, or, where there is no room for all, a random
      part of them.

    A class that is unknown in the example is never a random negative. In a data set that is not
    exhaustive a class without boxes may be there all the same: only annotated negatives are
    certain, and random ones are wrong now and then, as published; ``random_negatives=0`` asks for
    certain ones only. In a mosaic, a class is absent if it is absent from one tile and has no box
    in any.

    - [0]: Simple Open-Vocabulary Object Detection, 2022, https://arxiv.org/abs/2205.06230

    Args:
        names: Names of the classes [C]; "#" in front asks for the name without a template.
        counts: How often each class is annotated [C], see :func:`name_counts`.
        exhaustive: Whether a class without a box is absent unless it is unknown.
        negatives: `all`, `sampled`, or `auto`: all where the data set is exhaustive and has at most
            ``max_queries`` names, else sampled.
        random_negatives: Number to which sampled negatives are filled up.
        max_queries: Most queries per example; those that come last are left out.
        templates: A name of :data:`owlkit.prompts.TEMPLATES` or templates; each query of each
            example draws one.
        canonicalize: Ask in the spelling of :func:`owlkit.prompts.canonicalize`.

    Raises:
        ConfigError: All negatives are wanted of a data set that is not exhaustive.
        DatasetError: Names of which nothing is left to ask for.
        QueryError: There are no such templates.
    """

    def __init__(
        self,
        names: Sequence[str],
        counts: NDArray[np.int64],
        *,
        exhaustive: bool,
        negatives: Literal["auto", "all", "sampled"] = "auto",
        random_negatives: int = 50,
        max_queries: int = 99,
        templates: str | Sequence[str] = "ensemble81",
        canonicalize: bool = True,
    ) -> None:
        if negatives == "all" and not exhaustive:
            raise ConfigError(
                "data.queries.negatives: expected auto or sampled for a data set that is not "
                "exhaustive, because a class without boxes may be there all the same; found all"
            )
        spelled = spell_names(names, canonicalize=canonicalize)
        _report_merged(names, spelled)
        bare = [name.removeprefix(NO_TEMPLATE).strip() for name in spelled]
        self._names = tuple(dict.fromkeys(bare))
        row = {name: row for row, name in enumerate(self._names)}
        self._name_of_class = np.array([row[name] for name in bare], dtype=np.int64)
        self._counts = np.bincount(self._name_of_class, counts, minlength=len(self._names))
        self._exhaustive = exhaustive
        self._ask_all = negatives == "all" or (
            negatives == "auto" and exhaustive and len(self._names) <= max_queries
        )
        self._random_negatives = random_negatives
        self._max_queries = max_queries
        in_templates = {row[name] for name in spelled if name in row}
        self._prompts = _Prompts(
            [
                name if number in in_templates else f"{NO_TEMPLATE}{name}"
                for number, name in enumerate(self._names)
            ],
            resolve_templates(templates),
            canonical=canonicalize,
        )

    def __call__(
        self,
        labels: NDArray[np.int64],
        *,
        absent: Iterable[int],
        unknown: Iterable[int],
        generator: np.random.Generator,
        templates: np.random.Generator,
    ) -> ExampleQueries:
        """Draws the queries of one example.

        Args:
            labels: Class of each box [N].
            absent: Classes annotated as absent from the image or one tile; those with boxes are
                passed over.
            unknown: Classes of which nobody knows whether they are there.
            generator: Draws negatives.
            templates: Draws a template for every class. Examples with generators in the same state
                ask for a class in the same words.
        """
        named = self._name_of_class[labels]
        positives = list(dict.fromkeys(named.tolist()))[: self._max_queries]
        # Of what found no place nothing is asked: it is there.
        forbidden = {*named.tolist(), *self._rows(unknown)}
        room = self._max_queries - len(positives)
        if self._ask_all:
            negatives = self._all(forbidden, room, generator)
        else:
            certain = forbidden if self._exhaustive else set(named.tolist())
            annotated = [name for name in self._rows(absent) if name not in certain][:room]
            wanted = min(self._random_negatives, room) - len(annotated)
            negatives = annotated + self._drawn(forbidden.union(annotated), wanted, generator)
        return self._ask(named, [*positives, *negatives], templates)

    def _rows(self, classes: Iterable[int]) -> list[int]:
        """The distinct names of classes, in their order."""
        return list(dict.fromkeys(self._name_of_class[list(classes)].tolist()))

    def _all(self, forbidden: set[int], room: int, generator: np.random.Generator) -> list[int]:
        """Every other name, or as many as there is room for."""
        names = [name for name in range(len(self._names)) if name not in forbidden]
        if len(names) <= room:
            return names
        kept = generator.choice(len(names), room, replace=False)
        return [names[index] for index in np.sort(kept).tolist()]

    def _drawn(self, forbidden: set[int], wanted: int, generator: np.random.Generator) -> list[int]:
        """Other names, each in proportion to its count among those not yet drawn."""
        weights = self._counts.copy()
        weights[list(forbidden)] = 0.0
        candidates = np.flatnonzero(weights)
        wanted = min(wanted, len(candidates))
        if wanted <= 0:
            return []
        # The first arrivals of independent Poisson processes: one draw a name instead of one pass
        # over all names a draw.
        arrivals = generator.exponential(size=len(candidates)) / weights[candidates]
        drawn: list[int] = candidates[np.argsort(arrivals)[:wanted]].tolist()
        return drawn

    def _ask(
        self, named: NDArray[np.int64], asked: list[int], templates: np.random.Generator
    ) -> ExampleQueries:
        """Puts names into words and boxes into columns."""
        prompts = [self._prompts[number] for number in self._prompts.draw(asked, templates)]
        # Templates can make one sentence of two names; that is one query, too.
        columns = {text: column for column, text in enumerate(dict.fromkeys(prompts))}
        column_of_name = np.full(len(self._names), -1, dtype=np.int64)
        column_of_name[asked] = [columns[text] for text in prompts]
        column = column_of_name[named]
        labels = column[:, None] == np.arange(len(columns))
        return ExampleQueries(texts=tuple(columns), labels=labels)


class _Prompts(dict[int, str]):
    """Names in templates by number; made when first asked for, because spelling takes its time."""

    def __init__(self, names: Sequence[str], templates: Sequence[str], *, canonical: bool) -> None:
        super().__init__()
        self._names = names
        self._templates = templates
        self._canonical = canonical

    def draw(self, asked: list[int], generator: np.random.Generator) -> list[int]:
        """The number of a random prompt for each name."""
        count = len(self._templates)
        # One for every name, so that what is drawn for one does not depend on which are asked.
        drawn = generator.integers(count, size=len(self._names))
        numbers: list[int] = (np.array(asked, dtype=np.int64) * count + drawn[asked]).tolist()
        return numbers

    def __missing__(self, number: int) -> str:
        name, template = divmod(number, len(self._templates))
        self[number] = fill_unless_marked(
            self._templates[template], self._names[name], canonical=self._canonical
        )
        return self[number]


def fill_unless_marked(template: str, name: str, *, canonical: bool) -> str:
    """The prompt of a spelled name: in the template, or as it is where :data:`NO_TEMPLATE` says so.

    Args:
        template: Text with exactly one "{}".
        name: Of :func:`spell_names`.
        canonical: Canonicalise the filled prompt.
    """
    if name.startswith(NO_TEMPLATE):
        return name.removeprefix(NO_TEMPLATE).strip()
    return fill(template, name, canonical=canonical)


def spell_names(names: Sequence[str], *, canonicalize: bool) -> list[str]:
    """The names as they are asked for, some with the mark in front.

    Args:
        names: Of classes.
        canonicalize: Spell them as :func:`owlkit.prompts.canonicalize` does.

    Raises:
        DatasetError: If nothing is left of a name; lists them.
    """
    spell: Callable[[str], str] = canonical_spelling if canonicalize else str.strip
    spelled = [spell(name) for name in names]
    empty = [
        f"class {index} {name!r}"
        for index, (name, left) in enumerate(zip(names, spelled, strict=True))
        if not left.strip(f"{NO_TEMPLATE}- ")
    ]
    if empty:
        listed = ", ".join(empty[:10]) + (f" and {len(empty) - 10} more" if empty[10:] else "")
        hint = (
            " after canonicalisation (data.queries.canonicalize: true, for English names only; "
            "--as-written leaves it out)"
            if canonicalize
            else ""
        )
        raise DatasetError(f"expected class names to ask for, found nothing{hint} in {listed}")
    return spelled


def _report_merged(names: Sequence[str], spelled: Sequence[str]) -> None:
    """Logs which names are one query, because they differ in what spelling takes away."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name, spelling in zip(names, spelled, strict=True):
        alike[spelling.removeprefix(NO_TEMPLATE).strip()].append(name)
    merged = [
        f"{' and '.join(map(repr, group))} as {spelling!r}"
        for spelling, group in alike.items()
        if len(group) > 1
    ]
    if merged:
        _logger.warning("classes that are asked for as one: %s", "; ".join(merged))
