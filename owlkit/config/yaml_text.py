"""YAML text to plain values and back, with the scalars that people expect.

PyYAML follows YAML 1.1, where `1e-4` and `3e-6` are strings, `010` is 8, `12:30` is 750 and `on` is
true. Here scalars follow the core schema of YAML 1.2 [0], so that all of these read as they look;
underscores in integers (`1_000`) stay allowed. A key given twice is a fault, not a silent override.

- [0]: YAML Ain't Markup Language 1.2.2, section 10.3, 2021, https://yaml.org/spec/1.2.2/
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from owlkit.errors import ConfigError

_MERGE_TAG = "tag:yaml.org,2002:merge"
# (tag, pattern, first characters by which PyYAML finds the pattern); the first match wins.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9](_?[0-9])*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first_characters in _SCALARS:
        for character in first_characters:
            entry = (f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"))
            table.setdefault(character, []).append(entry)
    return table


class _Loader(yaml.SafeLoader):
    """Reads core-schema scalars and notes, in `duplicates`, every key that is given twice."""

    yaml_implicit_resolvers = _resolvers()

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.duplicates: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Builds one mapping; a repeated key is noted and its last value kept."""
        first_lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            identity = (key.tag, str(key.value))
            line = key.start_mark.line + 1
            if identity in first_lines and key.tag != _MERGE_TAG:
                where = f"line {line}, first on line {first_lines[identity]}"
                self.duplicates.append(f"{key.value} is given twice ({where})")
            first_lines.setdefault(identity, line)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that `_Loader` would read as something else."""

    yaml_implicit_resolvers = _resolvers()


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes these line breaks as they are between plain quotes and reads them as a space.
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def parse_yaml(text: str, *, origin: str) -> tuple[Any, list[str]]:
    """Parses one YAML document.

    Args:
        text: The document; empty text is null.
        origin: What to call the text in messages: a file name, or the override it came from.

    Returns:
        The value and, for every key given twice in one mapping, a line that says so.

    Raises:
        ConfigError: The text is not YAML; the message names the line.
    """
    loader = _Loader(text)
    try:
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{origin}: {where}not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: an explicit tag that its text does not fit, as in `!!int abc`.
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()
    return value, [f"{origin}: {duplicate}" for duplicate in loader.duplicates]


def format_yaml(value: Any) -> str:
    """Returns YAML text, keys in the given order, that `parse_yaml` reads back as equal."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
