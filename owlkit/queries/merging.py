"""Two query sets as one."""

from typing import TypeVar

from owlkit.queries.example import Example
from owlkit.queries.query_class import QueryClass
from owlkit.queries.query_set import QuerySet

Source = TypeVar("Source")


def merge_queries(first: QuerySet, second: QuerySet) -> QuerySet:
    """The classes and embeddings of both; see :meth:`QuerySet.merged`."""
    others = {one.name: one for one in second.classes}
    both = [_joined(one, others.pop(one.name, one)) for one in first.classes]
    merged = QuerySet(
        [*both, *others.values()],
        ensemble=first.ensemble,
        combination=first.combination,
        background=_both(first.background, second.background),
        choice=first.choice,
    )
    # The first one's last, where both have encoded the same.
    for queries in (second, first):
        for identity in queries.models:
            table, own = queries.table(identity), merged.table(identity)
            own.texts.update(table.texts)
            own.examples.update(table.examples)
    return merged


def _joined(one: QueryClass, other: QueryClass) -> QueryClass:
    """A class with the sources of both; what both say is the first one's."""
    return QueryClass(
        one.name,
        prompts=_both(one.prompts, other.prompts),
        examples=_both_examples(one.examples, other.examples),
        negative_prompts=_both(one.negative_prompts, other.negative_prompts),
        negative_examples=_both_examples(one.negative_examples, other.negative_examples),
        threshold=other.threshold if one.threshold is None else one.threshold,
        colour=one.colour or other.colour,
        calibration=one.calibration or other.calibration,
        parent=one.parent or other.parent,
    )


def _both(some: tuple[Source, ...], more: tuple[Source, ...]) -> tuple[Source, ...]:
    """What is in either, once."""
    return tuple(dict.fromkeys((*some, *more)))


def _both_examples(some: tuple[Example, ...], more: tuple[Example, ...]) -> tuple[Example, ...]:
    """What is in either, once; of two that show the same, the one that knows its image."""
    known = {one: one for one in (*more, *some) if one.image is not None}
    return tuple(known.get(one, one) for one in _both(some, more))
