"""What a model made of texts and examples."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from owlkit.patch_choice import ChoiceRule
from owlkit.queries.example import Box, Example


@dataclass(frozen=True)
class ExampleKey:
    """What the embedding of an example depends on, beside the model."""

    digest: str
    box: Box | None
    choice: ChoiceRule | None

    @classmethod
    def of(cls, example: Example, choice: ChoiceRule | None) -> "ExampleKey":
        """The key of an example whose patch is chosen by this rule."""
        return cls(example.digest, example.box, choice)


@dataclass(frozen=True, eq=False)
class EmbeddedExample:
    """The patch that stands for an example.

    Attributes:
        vector: Its class embedding, a unit vector [E], float32.
        patch: Its index in the row-major grid.
        box: The box that the model predicts there, xyxy in pixels of the example's image: what was
            taken for the object.
        iou: Of that box with the example's, or with the whole image where the example has none, in
            [0, 1].
        objectness: Probability that the patch holds any object; None for models without that head.
    """

    vector: NDArray[np.float32] = field(repr=False)
    patch: int
    box: Box
    iou: float
    objectness: float | None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EmbeddedExample):
            return NotImplemented
        return np.array_equal(self.vector, other.vector) and (
            (self.patch, self.box, self.iou, self.objectness)
            == (other.patch, other.box, other.iou, other.objectness)
        )

    __hash__ = None  # type: ignore[assignment]  # as Python itself would set it


@dataclass(eq=False)
class EmbeddingTable:
    """The embeddings that one model made of the sources of a query set.

    Attributes:
        texts: Unit vector of each text [E], float32.
        examples: What stands for each example.
    """

    texts: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    examples: dict[ExampleKey, EmbeddedExample] = field(default_factory=dict)

    def part(self, texts: Iterable[str], keys: Iterable[ExampleKey]) -> "EmbeddingTable":
        """What it holds of these texts and examples, in their order."""
        return EmbeddingTable(
            texts={text: self.texts[text] for text in texts if text in self.texts},
            examples={key: self.examples[key] for key in keys if key in self.examples},
        )

    def __len__(self) -> int:
        return len(self.texts) + len(self.examples)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EmbeddingTable):
            return NotImplemented
        return (
            self.examples == other.examples
            and self.texts.keys() == other.texts.keys()
            and all(
                np.array_equal(vector, other.texts[text]) for text, vector in self.texts.items()
            )
        )

    __hash__ = None  # type: ignore[assignment]  # as Python itself would set it
