"""What every section of a configuration is: strict, closed, frozen.

A section refuses keys that it does not know and values of the wrong type (`"3"` is not a number,
`true` is not 1), and cannot be changed once it is made. The string under a field is its
documentation, shown by `owlkit.config.describe_fields`. Defaults live in the sections and nowhere
else; a YAML file lists only what differs from them.
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: unknown keys refused, types checked strictly, values frozen."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def refuse_changed(
    values: Section, names: Iterable[str], *, decided_by: str, section: str = ""
) -> None:
    """Raises ValueError if a key that another key decides does not hold its default."""
    fields = type(values).model_fields
    changed = [
        section + name
        for name in names
        if getattr(values, name) != fields[name].get_default(call_default_factory=True)
    ]
    if changed:
        raise ValueError(f"{', '.join(changed)} cannot be set as well: {decided_by} decides it")
