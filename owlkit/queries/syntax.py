"""Queries as one line of words, such as ``face [nose, eye], cat``."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from owlkit.errors import QueryError
from owlkit.queries.query_set import QuerySet

# A name in quotes, where two quotes stand for one; a bare name; or a mark. A quote inside a bare
# name is part of it, as in: 6" pipe.
_TOKEN = re.compile(
    r'\s*+(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<mark>[\[\],])|(?P<bare>[^\[\],"][^\[\],]*))'
)


@dataclass(frozen=True)
class _Token:
    text: str
    position: int
    is_mark: bool


@dataclass(frozen=True)
class _Word:
    """A name, the row of the word that it is a part of, and where it stands (from 1)."""

    name: str
    parent: int | None
    position: int


def parse_words(text: str, templates: str | Sequence[str] | None = None) -> QuerySet:
    """Reads queries from one line.

    Names are separated by commas. Brackets after a name hold its parts, which are looked for in the
    boxes of that name alone, and may have parts of their own. A name with commas or brackets stands
    in double quotes, and a double quote inside those is doubled. A part of several things, as in
    ``car [wheel], cart [wheel]``, makes one class for each of them: ``car/wheel``, ``cart/wheel``.

    >>> queries = parse_words('face [nose, eye], "salt, pepper"')
    >>> [(one.name, one.parent) for one in queries.classes]
    [('face', None), ('nose', 'face'), ('eye', 'face'), ('salt, pepper', None)]

    Args:
        text: The words.
        templates: Prompt templates; see :meth:`QuerySet.from_text`.

    Raises:
        QueryError: If there is a bracket or quote without its partner, a name that is empty or
            stands twice in one place, or the templates cannot be used; says at which character.
    """
    words = _parse(text)
    names = _unique_names(words, text)
    plain = QuerySet.from_text([word.name for word in words], templates=templates)
    return QuerySet(
        replace(one, name=name, parent=None if word.parent is None else names[word.parent])
        for one, name, word in zip(plain.classes, names, words, strict=True)
    )


def _parse(text: str) -> list[_Word]:
    words: list[_Word] = []
    open_brackets: list[tuple[int, int]] = []  # row of the word before it, its position
    before = ","  # What came last: "," or "[" ask for a name, "" is a name.
    for token in _tokens(text):
        wants_name = before in (",", "[")
        if wants_name == token.is_mark:
            raise _error("words" if wants_name else "',', '[' or ']'", token, text)
        if not token.is_mark:
            parent = open_brackets[-1][0] if open_brackets else None
            words.append(_Word(token.text, parent, token.position))
        elif token.text == "[":
            if before == "]":
                raise _error("',' or ']'", token, text)
            open_brackets.append((len(words) - 1, token.position))
        elif token.text == "]":
            if not open_brackets:
                raise _error("a '[' before it", token, text)
            open_brackets.pop()
        before = token.text if token.is_mark else ""
    if before in (",", "["):
        raise _error("words", None, text)
    if open_brackets:
        raise _error(f"']' for the '[' at character {open_brackets[-1][1]}", None, text)
    return words


def _tokens(text: str) -> Iterator[_Token]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            quote = text.index('"', position) + 1
            raise QueryError(
                f"queries: expected a second quote for the one at character {quote}, found the end "
                f"of {text!r}"
            )
        kind = match.lastgroup or ""
        found = match[kind].replace('""', '"') if kind == "quoted" else match[kind].strip()
        start = match.start(kind) - (kind == "quoted") + 1
        token = _Token(found, start, kind == "mark")
        if not found.strip():
            raise _error("words", _Token('""', start, is_mark=False), text)
        yield token
        position = match.end()


def _unique_names(words: Sequence[_Word], text: str) -> list[str]:
    """What each class is called: its word, with those of its parents where it stands twice."""
    paths: list[tuple[str, ...]] = []
    for word in words:
        paths.append((*(() if word.parent is None else paths[word.parent]), word.name))
    times = Counter(word.name for word in words)
    names = [path[-1] if times[path[-1]] == 1 else "/".join(path) for path in paths]
    times = Counter(names)
    for row, name in enumerate(names):
        if times[name] > 1 and name in names[:row]:
            raise QueryError(
                f"queries: expected {name!r} once, found it again at character "
                f"{words[row].position} in {text!r}"
            )
    return names


def _error(expected: str, found: _Token | None, text: str) -> QueryError:
    where = (
        f"the end of {text!r}"
        if found is None
        else f"{found.text!r} at character {found.position} in {text!r}"
    )
    return QueryError(f"queries: expected {expected}, found {where}")
