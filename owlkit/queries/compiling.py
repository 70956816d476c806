"""From the embeddings of texts and examples to the vectors of classes.

Shapes: E embedding width, K vectors of a class.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from owlkit.errors import QueryError, QueryWarning
from owlkit.queries.combination import directions
from owlkit.queries.compiled import CompiledQueries
from owlkit.queries.embeddings import EmbeddingTable, ExampleKey
from owlkit.queries.example import Example
from owlkit.queries.query_class import QueryClass

if TYPE_CHECKING:
    from owlkit.queries.query_set import QuerySet

Vector = NDArray[np.float32]


def compile_queries(queries: "QuerySet", table: EmbeddingTable) -> CompiledQueries:
    """The vectors of a query set, made of the embeddings of all its sources.

    Raises:
        QueryError: If there is no class, or one has neither text nor example.
    """
    if not queries.classes:
        raise QueryError("expected at least one query, found none")
    compiler = _Compiler(queries, table)
    return CompiledQueries.of(
        [compiler.prototypes(one) for one in queries.classes],
        [compiler.negatives(one) for one in queries.classes],
        compiler.stacked([table.texts[text] for text in queries.background]),
    )


class _Compiler:
    """Combines embeddings as a query set says."""

    def __init__(self, queries: "QuerySet", table: EmbeddingTable) -> None:
        self._queries = queries
        self._table = table
        vectors = (*table.texts.values(), *(one.vector for one in table.examples.values()))
        self._width = len(vectors[0]) if vectors else 0

    def prototypes(self, one: QueryClass) -> Vector:
        """What stands for a class [K, E]."""
        if not one.prompts and not one.examples:
            only = "only negatives" if one.negative_prompts or one.negative_examples else "neither"
            raise QueryError(f"class {one.name!r}: expected a text or an example, found {only}")
        text = self._mean(one.prompts) if one.prompts else None
        examples = self.stacked(self._units(one.examples))
        return self._queries.combination.prototypes_of(text, examples)

    def negatives(self, one: QueryClass) -> Vector:
        """What competes with a class, as it is asked for itself [K, E].

        Beside a class of texts and examples, a negative takes the place of its own kind in the
        mixture and the class's other half stays: so texts are compared with texts and examples
        with examples, which are far nearer to patches.
        """
        texts = [self._mean(prompts) for prompts in one.negative_prompts]
        examples = self._units(one.negative_examples)
        if one.prompts and one.examples:
            own_text = self._mean(one.prompts)
            own_example = directions(self.stacked(self._units(one.examples)).mean(axis=0))
            background = [self._table.texts[text] for text in self._queries.background]
            mixed = self._queries.combination.mixed
            return self.stacked(
                [
                    *(mixed(text, own_example) for text in (*texts, *background)),
                    *(mixed(own_text, example) for example in examples),
                ]
            )
        if examples and not one.examples:
            warnings.warn(
                f"class {one.name!r}: negative examples compete with a class that is asked for by "
                "texts alone; as examples are nearer to patches than texts are, they may hide what "
                "it is: give it an example, too",
                QueryWarning,
                stacklevel=2,
            )
        return self.stacked([*texts, *examples])

    def stacked(self, vectors: Sequence[Vector]) -> Vector:
        """Vectors as rows [K, E], also if there are none."""
        return np.array(vectors, dtype=np.float32).reshape(len(vectors), self._width)

    def _mean(self, prompts: Sequence[str]) -> Vector:
        """The vector whose logit is the answer of prompts together [E]."""
        mean: Vector = self.stacked([self._table.texts[prompt] for prompt in prompts]).mean(axis=0)
        return directions(mean) if self._queries.ensemble == "embeddings" else mean

    def _units(self, examples: Sequence[Example]) -> list[Vector]:
        keys = (ExampleKey.of(example, self._queries.choice) for example in examples)
        return [self._table.examples[key].vector for key in keys]
