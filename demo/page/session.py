"""What a visitor has said so far: one query set, built by words and by boxes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from owlkit.queries import Example, QueryClass, QuerySet

Kind = Literal["examples", "negative_examples"]


@dataclass(frozen=True, eq=False)
class Session:
    """Queries of one visitor. Never changed: every step makes another session.

    Attributes:
        words: What the tab *Text* asks for.
        kept: Examples, and what was loaded from files or added beside them.
    """

    words: QuerySet = field(default_factory=QuerySet)
    kept: QuerySet = field(default_factory=QuerySet)

    @cached_property
    def queries(self) -> QuerySet:
        """All classes; one that has words and examples is asked for by both."""
        return self.kept.merged(self.words)

    @cached_property
    def like(self) -> QuerySet:
        """The classes that have an example of what to look for."""
        return self.kept.subset([one.name for one in self.kept.classes if one.examples])

    @cached_property
    def examples(self) -> QuerySet:
        """All examples, negative ones too, as classes that a model can encode.

        It shares its embeddings with :attr:`kept`, so that later steps have them.
        """
        some = self.kept.subset([one.name for one in self.kept.classes if one.all_examples])
        for one in some.classes:
            sources = {"prompts": (), "negative_prompts": (), "negative_examples": ()}
            some.update(one.name, examples=one.all_examples, **sources)
        return some

    def with_words(self, words: QuerySet) -> "Session":
        """With other words; a class keeps the threshold and colour that it was given."""
        told = _copied(words)
        for old in self.words.classes:
            if old.name in words.names and (old.threshold, old.colour) != (None, None):
                colour = words[old.name].colour or old.colour
                told.update(old.name, threshold=old.threshold, colour=colour)
        return replace(self, words=told)

    def with_kept(self, queries: QuerySet) -> "Session":
        """With further classes, or further words and examples of those that are there."""
        return replace(self, kept=self.kept.merged(queries))

    def with_file(self, loaded: QuerySet, *, mix: bool) -> "Session":
        """With what a file held, beside what is there or in place of it."""
        return self.with_kept(loaded) if mix else Session(kept=loaded)

    def with_examples(
        self, name: str, positive: Sequence[Example], negative: Sequence[Example] = ()
    ) -> "Session":
        """With further examples of a class.

        Raises:
            QueryError: If the name is empty.
        """
        images = {one.digest: one.image for one in _all_examples(self.kept)}
        # However many boxes lie on a picture, its file is in memory once.
        positive, negative = (
            tuple(replace(one, image=images.get(one.digest, one.image)) for one in some)
            for some in (positive, negative)
        )
        return self.with_kept(
            QuerySet([QueryClass(name, examples=positive, negative_examples=negative)])
        )

    def without_example(self, name: str, kind: Kind, row: int) -> "Session":
        """Without one of the examples of a class, and without the class if that was all of it.

        Raises:
            QueryError: If there is no such class.
        """
        left = list(getattr(self.kept[name], kind))
        del left[row : row + 1]
        changed = _changed(self.kept, name, {kind: left})
        rest = changed[name].texts or changed[name].all_examples
        return replace(self, kept=changed if rest else _without(changed, name))

    def without(self, name: str) -> "Session":
        """Without a class."""
        return Session(*(_without(part, name) for part in (self.words, self.kept)))

    def with_class(self, name: str, **changes: Any) -> "Session":
        """With other fields of a class, see :meth:`owlkit.QuerySet.update`.

        Raises:
            QueryError: If a value cannot be used.
        """
        return Session(*(_changed(part, name, changes) for part in (self.words, self.kept)))


def _all_examples(queries: QuerySet) -> list[Example]:
    return [example for one in queries.classes for example in one.all_examples]


def _copied(queries: QuerySet) -> QuerySet:
    return queries.subset(queries.names)


def _without(queries: QuerySet, name: str) -> QuerySet:
    return queries.subset([one for one in queries.names if one != name])


def _changed(queries: QuerySet, name: str, changes: dict[str, Any]) -> QuerySet:
    changed = _copied(queries)
    if name in changed.names:
        changed.update(name, **changes)
    return changed
