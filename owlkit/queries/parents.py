"""Which class is looked for in the boxes of which other one."""

from collections.abc import Sequence
from dataclasses import replace

from owlkit.errors import QueryError
from owlkit.queries.query_class import QueryClass


def check_parents(classes: Sequence[QueryClass]) -> None:
    """Whether each parent is a class that can be found before its parts.

    Raises:
        QueryError: If a parent is no class, parents form a circle, or two classes of one name stand
            where one may be the parent of another.
    """
    parents = {one.name: one.parent for one in classes}
    if len(parents) < len(classes) and any(one.parent is not None for one in classes):
        names = [one.name for one in classes]
        twice = next(name for name in names if names.count(name) > 1)
        raise QueryError(f"class {twice!r}: expected one of that name among parts, found several")
    # Classes whose parents have been followed to the end.
    known: set[str] = set()
    for name, parent in parents.items():
        if parent is not None and parent not in parents:
            raise QueryError(f"class {name!r}: parent: expected a class, found {parent!r}")
        seen = {name}
        while parent is not None and parent not in known:
            if parent in seen:
                raise QueryError(f"class {name!r}: parent: expected no circle, found one")
            seen.add(parent)
            parent = parents.get(parent)
        known |= seen


def without_lost_parents(classes: Sequence[QueryClass]) -> list[QueryClass]:
    """The classes, those without a parent whose parent is not among them."""
    names = {one.name for one in classes}
    return [
        one if one.parent is None or one.parent in names else replace(one, parent=None)
        for one in classes
    ]
