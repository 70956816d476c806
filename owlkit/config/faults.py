"""Validation errors of pydantic in owlkit's words: where, which key, what is wrong, what to do.

One fault, one line, for example
`configs/x.yaml: model.vision.nmae is not a field of VisionSection; did you mean name?`
"""

import difflib
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from owlkit.config.fields import section_at, walk_fields

KeyPath = tuple[str | int, ...]


def describe_faults(
    error: ValidationError,
    *,
    schema: type[BaseModel],
    values: Any,
    origin_of: Callable[[KeyPath], str],
) -> list[str]:
    """Returns one line per fault, in the order of the schema.

    Args:
        error: What pydantic found.
        schema: Root class the values were checked against.
        values: The checked values: nested dicts and lists.
        origin_of: Says which file or override a key path came from.
    """
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        grouped.setdefault(_path_of(details, values), []).append(details)
    return [
        f"{origin_of(path)}: {_sentence(path, group, schema)}" for path, group in grouped.items()
    ]


def dotted(path: KeyPath) -> str:
    """Returns `model.preprocessing.std[0]` for ("model", "preprocessing", "std", 0)."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _path_of(details: ErrorDetails, values: Any) -> KeyPath:
    """Returns the location in the values, without the names of union members pydantic appends."""
    location = details["loc"]
    if details["type"] == "missing":
        return location
    path: list[str | int] = []
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            break
        path.append(part)
    return tuple(path)


def _sentence(path: KeyPath, group: list[ErrorDetails], schema: type[BaseModel]) -> str:
    first = group[0]
    key = dotted(path) or "the file"
    match first["type"]:
        case "extra_forbidden":
            return _unknown_key(path, schema)
        case "invalid_key":
            return f"{key} is not a field name: names are text"
        case "missing":
            return f"{key} is missing"
        case "value_error":
            message = first["msg"].removeprefix("Value error, ")
            # What is said about the whole file names its keys itself.
            return f"{key}: {message}" if path else message
        case "model_type":
            section = first["ctx"]["class_name"]
            expected = [f"should be a section of keys ({section})"]
        case _:
            expected = [details["msg"].removeprefix("Input ") for details in group]
    wanted = " or ".join([expected[0], *(text.removeprefix("should be ") for text in expected[1:])])
    return f"{key} {wanted}, found {_shown(first['input'])}"


def _unknown_key(path: KeyPath, schema: type[BaseModel]) -> str:
    section = section_at(schema, path[:-1])
    name = str(path[-1])
    if section is None:
        return f"{dotted(path)} is not a field"
    fields = list(section.model_fields)
    near = difflib.get_close_matches(name, fields, n=1)
    elsewhere = [key for key, _ in walk_fields(schema) if key.rpartition(".")[2] == name]
    if near:
        hint = f"did you mean {near[0]}?"
    elif elsewhere:
        hint = f"did you mean {' or '.join(elsewhere)}?"
    else:
        hint = f"its fields are {', '.join(fields)}"
    return f"{dotted(path)} is not a field of {section.__name__}; {hint}"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
