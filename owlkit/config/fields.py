"""Questions about a schema: its sections, its keys, and a table of them for people."""

import json
import textwrap
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_INDENT = " " * 4
_UNIONS = (Union, UnionType)
_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_TYPE_NAMES = {
    int: "integer",
    float: "number",
    bool: "true | false",
    str: "text",
    type(None): "null",
}


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Returns the section class in a field's annotation (`X` or `X | None`), if it is one."""
    candidates = get_args(annotation) if get_origin(annotation) in _UNIONS else (annotation,)
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def section_at(schema: type[BaseModel], path: tuple[str | int, ...]) -> type[BaseModel] | None:
    """Returns the section class that a dotted path leads to, or None if it leads elsewhere."""
    section: type[BaseModel] | None = schema
    for name in path:
        if section is None or name not in section.model_fields:
            return None
        section = section_of(section.model_fields[str(name)].annotation)
    return section


def walk_fields(schema: type[BaseModel], *, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yields (dotted key, field) of every value below `schema`, sections left out."""
    for name, field in schema.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            yield prefix + name, field
        else:
            yield from walk_fields(section, prefix=f"{prefix}{name}.")


def describe_fields(schema: type[BaseModel]) -> str:
    """Returns a table for people: dotted key and default, below them type, limits and meaning.

    Args:
        schema: Root or section class.

    Returns:
        Text of at most 100 columns, one entry per key in the order of the schema.
    """
    fields = dict(walk_fields(schema))
    key_width = max(len(key) for key in fields)
    lines = []
    for key, field in fields.items():
        lines.append(f"{key:<{key_width}}  {_default(field)}")
        meaning = f"{_type(field)}. {field.description or ''}"
        lines += textwrap.wrap(
            meaning, width=100, initial_indent=_INDENT, subsequent_indent=_INDENT
        )
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return value if isinstance(value, str) else json.dumps(value)


def _type(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in _LIMITS.items()
        if hasattr(limit, name)
    ]
    return ", ".join([_type_name(field.annotation), *limits])


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal or origin in _UNIONS:
        return " | ".join(
            argument if isinstance(argument, str) else _type_name(argument)
            for argument in arguments
        )
    if origin in (tuple, list):
        return f"[{', '.join(_type_name(argument) for argument in arguments)}]"
    if origin is dict:
        return f"{{{': '.join(_type_name(argument) for argument in arguments)}}}"
    if annotation is ...:
        return "..."
    if isinstance(annotation, type):
        return _TYPE_NAMES.get(annotation, annotation.__name__)
    return _TYPE_NAMES.get(annotation, str(annotation))
