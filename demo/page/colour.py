"""Colours that visitors choose."""

import re
from typing import Any

from owlkit.errors import QueryError
from owlkit.queries import QuerySet
from owlkit.visualize import class_palette

_HEX = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
_NUMBERS = re.compile(
    r"rgba?\((\d{1,3}(?:\.\d*)?), ?(\d{1,3}(?:\.\d*)?), ?(\d{1,3}(?:\.\d*)?)\b.*\)"
)


def read_colour(value: Any) -> tuple[int, int, int] | None:
    """RGB of a colour picker, whatever it was that arrived as its value; None if it is empty.

    Args:
        value: ``#rrggbb`` or ``rgba(r, g, b, a)``.

    Raises:
        QueryError: If it is neither.
    """
    if value in (None, ""):
        return None
    text = value if isinstance(value, str) else ""
    if found := _HEX.match(text):
        red, green, blue = (int(pair, 16) for pair in found.groups())
    elif found := _NUMBERS.match(text):
        red, green, blue = (min(255, round(float(number))) for number in found.groups())
    else:
        raise QueryError("expected a colour such as #d55e00")
    return red, green, blue


def shown_colour(queries: QuerySet, name: str) -> str:
    """The colour in which a class is drawn, as a colour picker takes it.

    Raises:
        QueryError: If there is no class of that name.
    """
    red, green, blue = class_palette(one.colour for one in queries.classes)[queries.row(name)]
    return f"#{red:02x}{green:02x}{blue:02x}"
