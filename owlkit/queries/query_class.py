"""One class of a query set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from owlkit.calibration import Calibration
from owlkit.errors import QueryError
from owlkit.queries.example import Example
from owlkit.queries.texts import as_texts, check_text

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class QueryClass:
    """What is asked for under one name: words, examples, and what must not be taken for it.

    Attributes:
        name: What detections are called.
        prompts: Texts that stand for the class together; their answers are averaged.
        examples: Boxes on images that show it.
        negative_prompts: Texts that compete with the class, each the average of its prompts: a box
            that fits one of them at least as well is no detection of this class.
        negative_examples: Boxes on images that show what is no member of the class, likewise. They
            are compared with its examples, which a class with negative examples should have:
            examples lie nearer to patches than texts do.
        threshold: Least score of its detections, in [0, 1]; None for the model's or the default.
        colour: In which it is drawn, RGB in [0, 255]; None for one of the palette's.
        calibration: What turns its logits into probabilities; None for the model's.
        parent: Name of the class in whose boxes this one is looked for; None for the whole image.

    Raises:
        QueryError: If a value is out of its range.
    """

    name: str
    prompts: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    negative_prompts: tuple[tuple[str, ...], ...] = ()
    negative_examples: tuple[Example, ...] = ()
    threshold: float | None = None
    colour: Colour | None = None
    calibration: Calibration | None = None
    parent: str | None = None

    def __post_init__(self) -> None:
        where = f"class {self.name!r}"
        check_text(self.name, "names")
        negatives: object = self.negative_prompts
        if isinstance(negatives, str) or not isinstance(negatives, Sequence):
            raise QueryError(f"{where}: negative_prompts: expected lists, found {negatives!r}")
        values: dict[str, Any] = {
            "prompts": as_texts(self.prompts, f"{where}: prompts"),
            "negative_prompts": tuple(
                as_texts(prompts, f"{where}: negative_prompts: {row}")
                for row, prompts in enumerate(negatives)
            ),
            "examples": _as_examples(self.examples, f"{where}: examples"),
            "negative_examples": _as_examples(
                self.negative_examples, f"{where}: negative_examples"
            ),
            "threshold": _checked_threshold(self.threshold, where),
            "colour": _checked_colour(self.colour, where),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if not all(self.negative_prompts):
            raise QueryError(f"{where}: negative_prompts: expected texts, found an empty list")
        if self.calibration is not None and not isinstance(self.calibration, Calibration):
            raise QueryError(
                f"{where}: calibration: expected a Calibration, found {self.calibration!r}"
            )
        if self.parent is not None:
            check_text(self.parent, f"{where}: parent")
            if self.parent == self.name:
                raise QueryError(f"{where}: parent: expected another class, found itself")

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts that must be encoded for it."""
        return (*self.prompts, *(text for prompts in self.negative_prompts for text in prompts))

    @property
    def all_examples(self) -> tuple[Example, ...]:
        """All examples that must be encoded for it."""
        return (*self.examples, *self.negative_examples)


def _as_examples(examples: object, what: str) -> tuple[Example, ...]:
    if not isinstance(examples, Sequence) or not all(
        isinstance(example, Example) for example in examples
    ):
        raise QueryError(f"{what}: expected a list of Example, found {examples!r}")
    return tuple(examples)


def _checked_threshold(threshold: object, where: str) -> float | None:
    if threshold is None:
        return None
    try:
        value = math.nan if isinstance(threshold, bool | str) else float(threshold)  # type: ignore[arg-type]  # whatever has a float value, such as numpy's scalars
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        raise QueryError(f"{where}: threshold: expected a number in [0, 1], found {threshold!r}")
    return value


def _checked_colour(colour: object, where: str) -> Colour | None:
    if colour is None:
        return None
    try:
        red, green, blue = (int(value) for value in colour)  # type: ignore[attr-defined]  # refused below if it is no triple
    except (TypeError, ValueError, OverflowError):
        red = green = blue = -1
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise QueryError(
            f"{where}: colour: expected RGB, three integers in [0, 255], found {colour!r}"
        )
    return red, green, blue
