"""Checks of the strings that a query set is made of."""

from collections.abc import Iterable, Set

from owlkit.errors import QueryError


def as_texts(texts: object, what: str, *, blank: bool = False) -> tuple[str, ...]:
    """The strings as a tuple.

    Args:
        texts: A list of strings or the like; no single string, whose letters would pass for texts,
            and no set, which has no order.
        what: What they are, for messages.
        blank: Whether one of them may say nothing.

    Raises:
        QueryError: If something else is found; says which one it is.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable) or isinstance(texts, Set):
        raise QueryError(f"{what}: expected a list of strings, found {texts!r}")
    found = tuple(texts)
    for position, text in enumerate(found):
        check_text(text, f"{what}: {position}", blank=blank)
    return found


def check_text(text: object, what: str, *, blank: bool = False) -> str:
    """The text itself.

    Raises:
        QueryError: If it is no string, says nothing (unless ``blank``), or is no valid Unicode.
    """
    if not isinstance(text, str):
        raise QueryError(f"{what}: expected a string, found {text!r}")
    if not blank and not text.strip():
        raise QueryError(f"{what}: expected words, found {text!r}")
    if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise QueryError(f"{what}: expected valid Unicode, found {text!r}")
    return text
