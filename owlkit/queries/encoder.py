"""Lets a model encode what query sets are made of, each text and example once."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from owlkit.backend import Backend
from owlkit.errors import QueryError, QueryWarning
from owlkit.queries.compiled import CompiledQueries
from owlkit.queries.embeddings import EmbeddedExample, EmbeddingTable, ExampleKey
from owlkit.queries.example import Example
from owlkit.queries.query_set import Ensemble, QuerySet
from owlkit.queries.texts import as_texts

# About 200 MB at width 512; a server that is asked new words for ever must not grow for ever.
REMEMBERED_TEXTS = 100_000
# Words that are given as strings are put together once, not for every image.
REMEMBERED_SETS = 16
# A chosen box that covers more of its image leaves no surroundings.
_MOST_COVERED = 0.9

EmbedExamples = Callable[[Example, Sequence[ExampleKey]], list[EmbeddedExample]]
Words = tuple[tuple[str, ...], str | tuple[str, ...] | None, Ensemble]


class QueryEncoder:
    """Encodes query sets for one backend and remembers the latest texts.

    Args:
        backend: What encodes the texts.
        embed_examples: What chooses and embeds the patches of boxes on the image of an example.
    """

    def __init__(self, backend: Backend, embed_examples: EmbedExamples) -> None:
        self._backend = backend
        self._embed_examples = embed_examples
        self._texts: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._words: OrderedDict[Words, tuple[QuerySet, EmbeddingTable]] = OrderedDict()
        self._lock = RLock()

    def of_words(
        self, names: Sequence[str], templates: str | Sequence[str] | None, ensemble: Ensemble
    ) -> tuple[QuerySet, CompiledQueries]:
        """The query set of names, see :meth:`QuerySet.from_text`, and its vectors."""
        names = as_texts(names, "names")
        if templates is not None and not isinstance(templates, str):
            templates = as_texts(templates, "templates")
        words = names, templates, ensemble
        with self._lock:
            if words not in self._words:
                queries = QuerySet.from_text(names, templates=templates, ensemble=ensemble)
                self._words[words] = queries, self._filled(queries, EmbeddingTable())
            self._words.move_to_end(words)
            while len(self._words) > REMEMBERED_SETS:
                self._words.popitem(last=False)
            queries, table = self._words[words]
            return queries, queries.compiled(table)

    def of_queries(self, queries: QuerySet) -> CompiledQueries:
        """The vectors of a query set, which keeps the embeddings that had to be made for it.

        Raises:
            QueryError: If an example has not been encoded by this model and its image is not there.
        """
        with self._lock:
            return queries.compiled(self._filled(queries, queries.table(self._backend.identity)))

    def _filled(self, queries: QuerySet, table: EmbeddingTable) -> EmbeddingTable:
        """The table with whatever it lacked."""
        missing = [text for text in queries.texts if text not in table.texts]
        if missing:
            table.texts.update(self._encode_texts(missing))
        by_image: dict[str, dict[ExampleKey, Example]] = {}
        for key, example in queries.examples.items():
            if key not in table.examples:
                by_image.setdefault(key.digest, {})[key] = example
        for examples in by_image.values():
            table.examples.update(self._encode_examples(queries, examples))
        return table

    def _encode_texts(self, texts: list[str]) -> dict[str, NDArray[np.float32]]:
        new = [text for text in texts if text not in self._texts]
        if new:
            self._texts.update(zip(new, self._backend.encode_texts(new), strict=True))
        for text in texts:
            self._texts.move_to_end(text)
        found = {text: self._texts[text] for text in texts}
        while len(self._texts) > REMEMBERED_TEXTS:
            self._texts.popitem(last=False)
        return found

    def _encode_examples(
        self, queries: QuerySet, examples: dict[ExampleKey, Example]
    ) -> dict[ExampleKey, EmbeddedExample]:
        """What stands for examples on one image."""
        # Any of them that knows where the image is.
        example = max(examples.values(), key=lambda one: one.image is not None)
        name = next(one.name for one in queries.classes if example in one.all_examples)
        try:
            embedded = self._embed_examples(example, list(examples))
        except QueryError as error:
            identity = self._backend.identity
            known = ", ".join(model[:8] for model in queries.models if model != identity)
            raise QueryError(
                f"class {name!r}: an example cannot be encoded for this model ({identity[:8]}; the "
                f"query set holds embeddings of {known or 'no other'}): {error}"
            ) from error
        for one in embedded:
            _warn_of_crop(name, example, one)
        return dict(zip(examples, embedded, strict=True))


def _warn_of_crop(name: str, example: Example, embedded: EmbeddedExample) -> None:
    (height, width), (x0, y0, x1, y1) = example.size, embedded.box
    if (x1 - x0) * (y1 - y0) > _MOST_COVERED * height * width:
        warnings.warn(
            f"class {name!r}: the example fills its image ({example.where}); models know things by "
            "their surroundings, so a box on the whole photograph finds more",
            QueryWarning,
            stacklevel=2,
        )
