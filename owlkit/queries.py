"""What a user asks an image for."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from owlkit.errors import QueryError
from owlkit.prompts import TEMPLATES, fill, resolve_templates

Ensemble = Literal["logits", "embeddings"]


@dataclass(frozen=True)
class QuerySet:
    """An ordered list of classes, each asked for by one or more prompts.

    Attributes:
        names: What detections are called, one per class.
        prompts: The texts that stand for each class; all classes have equally many.
        ensemble: How several prompts of a class become one score. ``logits`` takes the mean of
            their logits, as OWL-ViT's evaluation does; ``embeddings`` the logit of the mean
            direction, as CLIP's zero-shot classification does.

    Raises:
        QueryError: If there is no class, or a class has no prompt.
    """

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    ensemble: Ensemble = "logits"

    def __post_init__(self) -> None:
        names = _as_texts(self.names, "names")
        if not isinstance(self.prompts, Sequence):
            raise QueryError(f"expected a list of prompts for each class, found {self.prompts!r}")
        prompts = tuple(_as_texts(texts, "prompts") for texts in self.prompts)
        # Tuples, so that a set of queries can be compared, hashed and kept.
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "prompts", prompts)
        if not names:
            raise QueryError("expected at least one query, found none")
        if len(names) != len(prompts) or not all(prompts):
            raise QueryError(
                f"expected prompts for each of {len(names)} classes, found "
                f"{[len(texts) for texts in prompts]}"
            )
        if self.ensemble not in ("logits", "embeddings"):
            raise QueryError(f"expected ensemble 'logits' or 'embeddings', found {self.ensemble!r}")

    @classmethod
    def from_text(
        cls,
        names: Sequence[str],
        *,
        templates: str | Sequence[str] | None = None,
        ensemble: Ensemble = "logits",
    ) -> "QuerySet":
        """Asks for things by their names.

        Args:
            names: One string per class, for example ``["cat", "remote control"]``.
            templates: None for the bare name; ``"ensemble7"`` or ``"ensemble81"`` for the published
                prompt sets, whose prompts are canonicalised (lower case, no punctuation) as the
                models saw them in training; or your own strings with one ``{}`` each, used as
                written.
            ensemble: How the templates' answers are combined.

        Raises:
            QueryError: If names or templates are not lists of strings, or there are none.
        """
        names = _as_texts(names, "names")
        filled = resolve_templates(templates)
        canonical = isinstance(templates, str) and filled != TEMPLATES["none"]
        prompts = tuple(
            tuple(fill(template, name, canonical=canonical) for template in filled)
            for name in names
        )
        return cls(names=names, prompts=prompts, ensemble=ensemble)

    def __len__(self) -> int:
        return len(self.names)


def _as_texts(texts: object, what: str) -> tuple[str, ...]:
    """The strings as a tuple, or a QueryError that says which one is none."""
    if isinstance(texts, str) or not isinstance(texts, Iterable) or isinstance(texts, Set):
        raise QueryError(f"{what}: expected a list of strings, found {texts!r}")
    found = tuple(texts)
    for position, text in enumerate(found):
        if not isinstance(text, str):
            raise QueryError(f"{what}: {position}: expected a string, found {text!r}")
        if not text.strip():
            raise QueryError(f"{what}: {position}: expected words, found {text!r}")
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise QueryError(f"{what}: {position}: expected valid Unicode, found {text!r}")
    return found
