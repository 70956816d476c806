"""What a user asks an image for."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import ArrayLike

from owlkit.errors import QueryError
from owlkit.images import ImageSource
from owlkit.patch_choice import ChoiceRule
from owlkit.prompts import TEMPLATES, fill, resolve_templates
from owlkit.queries.combination import Combination
from owlkit.queries.compiled import CompiledQueries
from owlkit.queries.compiling import compile_queries
from owlkit.queries.embeddings import EmbeddingTable, ExampleKey
from owlkit.queries.example import Example
from owlkit.queries.parents import check_parents, without_lost_parents
from owlkit.queries.query_class import QueryClass
from owlkit.queries.texts import as_texts, check_text

Ensemble = Literal["logits", "embeddings"]


class QuerySet:
    """An ordered list of classes, each asked for by texts, example boxes, or both.

    What a model makes of texts and examples is kept with them, under the identity of that model,
    and saved with them; another model makes its own from the same sources.

    >>> queries = QuerySet.from_text(["cat", "dog"])
    >>> queries.add_text("mug", ["a cup with a handle"])
    >>> queries.names
    ('cat', 'dog', 'mug')

    Args:
        classes: In the order of their labels.
        ensemble: How several prompts of a class become one answer. ``logits`` takes the mean of
            their logits, as OWL-ViT's evaluation does; ``embeddings`` the logit of the mean
            direction, as CLIP's zero-shot classification does.
        combination: How several examples, and texts and examples, become one class.
        background: Texts that compete with all classes, for example ``[""]`` or ``["background"]``:
            a box that fits one of them at least as well as a class is none of that class.
        choice: How the patch that stands for an example box is chosen; None for the default, see
            :func:`owlkit.patch_choice.choose_patch`.

    Raises:
        QueryError: If a value is none of these.
    """

    def __init__(
        self,
        classes: Iterable[QueryClass] = (),
        *,
        ensemble: Ensemble = "logits",
        combination: Combination | None = None,
        background: Sequence[str] = (),
        choice: ChoiceRule | None = None,
    ) -> None:
        found = tuple(classes)
        for row, one in enumerate(found):
            if not isinstance(one, QueryClass):
                raise QueryError(f"classes: {row}: expected a QueryClass, found {one!r}")
        if ensemble not in get_args(Ensemble):
            raise QueryError(f"expected ensemble 'logits' or 'embeddings', found {ensemble!r}")
        if choice is not None and choice not in get_args(ChoiceRule):
            raise QueryError(
                f"choice: expected one of {get_args(ChoiceRule)} or None, found {choice!r}"
            )
        if combination is not None and not isinstance(combination, Combination):
            raise QueryError(f"expected a Combination, found {combination!r}")
        self._ensemble: Ensemble = ensemble
        self._combination = Combination() if combination is None else combination
        self._background = as_texts(background, "background", blank=True)
        self._choice = choice
        self._tables: dict[str, EmbeddingTable] = {}
        self._replace_classes(found)

    @classmethod
    def from_text(
        cls,
        names: Sequence[str],
        *,
        templates: str | Sequence[str] | None = None,
        ensemble: Ensemble = "logits",
        background: Sequence[str] = (),
    ) -> "QuerySet":
        """Asks for things by their names.

        Args:
            names: One string per class, for example ``["cat", "remote control"]``.
            templates: None for the bare name; ``"ensemble7"`` or ``"ensemble81"`` for the published
                prompt sets, whose prompts are canonicalised (lower case, no punctuation) as the
                models saw them in training; or your own strings with one ``{}`` each, used as
                written.
            ensemble: How the templates' answers are combined.
            background: Texts that compete with all classes.

        Raises:
            QueryError: If names or templates are not lists of strings, or there are none.
        """
        texts = as_texts(names, "names")
        if not texts:
            raise QueryError("expected at least one query, found none")
        return cls(
            (QueryClass(name, prompts=_prompts(name, templates)) for name in texts),
            ensemble=ensemble,
            background=background,
        )

    @property
    def classes(self) -> tuple[QueryClass, ...]:
        """The classes in the order of their labels."""
        return self._classes

    @property
    def names(self) -> tuple[str, ...]:
        """What detections are called, one per class."""
        return tuple(one.name for one in self._classes)

    @property
    def ensemble(self) -> Ensemble:
        """How several prompts of a class become one answer."""
        return self._ensemble

    @property
    def combination(self) -> Combination:
        """How several examples, and texts and examples, become one class."""
        return self._combination

    @property
    def background(self) -> tuple[str, ...]:
        """Texts that compete with all classes."""
        return self._background

    @property
    def choice(self) -> ChoiceRule | None:
        """How the patch that stands for an example box is chosen."""
        return self._choice

    def __len__(self) -> int:
        return len(self._classes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuerySet):
            return NotImplemented
        return self._sources == other._sources and self.embeddings == other.embeddings

    # It can change.
    __hash__ = None  # type: ignore[assignment]  # as Python itself would set it

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.names[:5]))
        more = f", ... {len(self) - 5} more" if len(self) > 5 else ""
        return f"QuerySet({shown}{more})"

    def __getitem__(self, name: str) -> QueryClass:
        """The class of that name, the first one if there are several.

        Raises:
            QueryError: If there is none.
        """
        return self._classes[self.row(name)]

    def row(self, name: str) -> int:
        """Where the class of that name stands, the first one if there are several.

        Raises:
            QueryError: If there is none.
        """
        row = self._rows.get(name)
        if row is None:
            raise QueryError(f"expected a class of this query set, found {name!r}")
        return row

    def add_text(
        self,
        name: str,
        texts: Sequence[str],
        *,
        templates: str | Sequence[str] | None = None,
        negative: bool = False,
    ) -> None:
        """Adds texts to a class, which is made if it is not there.

        Args:
            name: Of the class.
            texts: What it is also called: their answers are averaged. Negative texts say what must
                not be taken for it; each of them competes with the class by itself.
            templates: See :meth:`from_text`.
            negative: Whether the texts are negative.

        Raises:
            QueryError: If the texts or templates cannot be used.
        """
        found = as_texts(texts, f"class {name!r}: texts")
        groups = tuple(_prompts(text, templates) for text in found)
        one = self._find(name)
        if negative:
            self._put(replace(one, negative_prompts=(*one.negative_prompts, *groups)))
        else:
            prompts = tuple(prompt for group in groups for prompt in group)
            self._put(replace(one, prompts=(*one.prompts, *prompts)))

    def add_example(
        self,
        name: str,
        image: ImageSource,
        boxes: ArrayLike | None = None,
        *,
        negative: bool = False,
    ) -> None:
        """Adds example boxes to a class, which is made if it is not there.

        Args:
            name: Of the class.
            image: A path, URL, PIL image or uint8 array [h, w, 3] with the object in its
                surroundings; a tight crop works less well, because models are trained on whole
                photographs.
            boxes: xyxy in pixels of the image [N, 4] or one box [4]; None for the image's most
                prominent object.
            negative: Whether they show what must not be taken for the class.

        Raises:
            ImageError: If the image cannot be read.
            QueryError: If a box is not on the image.
        """
        one = self._find(name)
        found = Example.read(image, boxes)
        if negative:
            self._put(replace(one, negative_examples=(*one.negative_examples, *found)))
        else:
            self._put(replace(one, examples=(*one.examples, *found)))

    def update(self, name: str, **changes: Any) -> None:
        """Changes fields of a class, for example ``threshold``, ``colour`` or ``calibration``.

        Args:
            name: Of the class.
            **changes: Fields of :class:`QueryClass` and their new values.

        Raises:
            QueryError: If there is no such class or field, or a value cannot be used.
        """
        one = self[name]
        unknown = [key for key in changes if key not in QueryClass.__dataclass_fields__]
        if unknown:
            known = ", ".join(QueryClass.__dataclass_fields__)
            raise QueryError(f"class {name!r}: expected one of {known}; found {unknown[0]!r}")
        self._put(replace(one, **changes))

    def remove(self, name: str) -> None:
        """Removes a class.

        Raises:
            QueryError: If there is none of that name, or it is the parent of another.
        """
        row = self.row(name)
        self._replace_classes((*self._classes[:row], *self._classes[row + 1 :]))

    def merged(self, other: "QuerySet") -> "QuerySet":
        """A new set with the classes of both; one that both have gets the sources of both.

        Settings, and whatever both say of a class, are those of this set.
        """
        from owlkit.queries.merging import merge_queries

        return merge_queries(self, other)

    def subset(self, names: Iterable[str]) -> "QuerySet":
        """Some of the classes, with the same settings and embeddings: it costs no network.

        A class whose parent is left out is looked for in the whole image.

        Raises:
            QueryError: If there is no class of a name.
        """
        wanted = as_texts(names, "names")
        part = QuerySet(
            without_lost_parents([self[name] for name in wanted]),
            ensemble=self._ensemble,
            combination=self._combination,
            background=self._background,
            choice=self._choice,
        )
        part._tables = self._tables
        return part

    def table(self, identity: str) -> EmbeddingTable:
        """What the model of that identity has made of the sources so far; it may be added to."""
        return self._tables.setdefault(identity, EmbeddingTable())

    @property
    def models(self) -> tuple[str, ...]:
        """Identities of the models that have encoded any of the sources."""
        return tuple(self.embeddings)

    @property
    def embeddings(self) -> dict[str, EmbeddingTable]:
        """What each model has made of the sources that are there now."""
        texts, keys = self.texts, self.examples
        parts = {identity: table.part(texts, keys) for identity, table in self._tables.items()}
        return {identity: part for identity, part in parts.items() if part}

    @property
    def texts(self) -> tuple[str, ...]:
        """All different texts that a model must encode."""
        texts = (text for one in self._classes for text in one.texts)
        return tuple(dict.fromkeys((*texts, *self._background)))

    @property
    def examples(self) -> dict[ExampleKey, Example]:
        """All different examples that a model must encode."""
        found: dict[ExampleKey, Example] = {}
        for one in self._classes:
            for example in one.all_examples:
                key = ExampleKey.of(example, self._choice)
                # Of several that show the same, one that knows where its image is.
                if key not in found or found[key].image is None:
                    found[key] = example
        return found

    def compiled(self, table: EmbeddingTable) -> CompiledQueries:
        """The vectors to multiply with patches.

        Args:
            table: Holds the embeddings of all sources.

        Raises:
            QueryError: If there is no class, or one has neither text nor example.
        """
        # Predictors of several models, in threads of their own, may share a query set.
        kept = self._compiled.get(id(table))
        # In a deep copy the tables are others than their ids say.
        if kept is None or kept[0] is not table:
            kept = self._compiled[id(table)] = table, compile_queries(self, table)
        return kept[1]

    def save(
        self, path: str | Path, *, images: Literal["memory", "all", "none"] = "memory"
    ) -> None:
        """Writes one file with the sources and the embeddings made of them so far.

        Args:
            path: Replaced if it is there, as a whole or not at all.
            images: Which images of examples the file holds itself: those that are in ``memory``
                alone, ``all`` of them, or ``none``. Of the others it holds the path or URL. A model
                that has not encoded an example needs its image.

        Raises:
            QueryError: If an image that is to be kept cannot be read, or the file not be written.
        """
        from owlkit.queries.file import save_queries

        save_queries(self, Path(path), images=images)

    @classmethod
    def load(cls, path: str | Path, *, follow: bool = True) -> "QuerySet":
        """Reads what :meth:`save` wrote.

        Args:
            path: Of the file.
            follow: Whether images that the file names by path or URL may be read when a model needs
                them; switch it off for files from strangers.

        Raises:
            QueryError: If the file is missing, damaged or no query set; nothing is read then.
        """
        from owlkit.queries.file import load_queries

        return load_queries(Path(path), follow=follow)

    @property
    def _sources(self) -> tuple[object, ...]:
        settings = (self._ensemble, self._combination, self._background, self._choice)
        return (self._classes, *settings)

    def _find(self, name: str) -> QueryClass:
        check_text(name, "name")
        return self[name] if name in self._rows else QueryClass(name)

    def _put(self, one: QueryClass) -> None:
        """Replaces the class of that name, or adds it."""
        row = self._rows.get(one.name, len(self))
        self._replace_classes((*self._classes[:row], one, *self._classes[row + 1 :]))

    def _replace_classes(self, classes: tuple[QueryClass, ...]) -> None:
        check_parents(classes)
        self._classes = classes
        # Where each name stands first.
        self._rows = {one.name: row for row, one in reversed([*enumerate(classes)])}
        # By the id of the table, which is kept too, so that no other one can have it.
        self._compiled: dict[int, tuple[EmbeddingTable, CompiledQueries]] = {}


def _prompts(name: str, templates: str | Sequence[str] | None) -> tuple[str, ...]:
    filled = resolve_templates(templates)
    canonical = isinstance(templates, str) and filled != TEMPLATES["none"]
    return tuple(fill(template, name, canonical=canonical) for template in filled)
