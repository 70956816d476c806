"""Configuration files: YAML plus `key=value` overrides to a checked, frozen config, and back."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import BaseModel, ValidationError

from owlkit.config.faults import KeyPath, describe_faults, dotted
from owlkit.config.schema import DetectorConfig
from owlkit.config.yaml_text import format_yaml, parse_yaml
from owlkit.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


@overload
def load_config(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> DetectorConfig: ...


@overload
def load_config(
    path: str | os.PathLike[str], overrides: Iterable[str] = (), *, schema: type[ConfigT]
) -> ConfigT: ...


def load_config(
    path: str | os.PathLike[str],
    overrides: Iterable[str] = (),
    *,
    schema: type[BaseModel] = DetectorConfig,
) -> BaseModel:
    """Reads a YAML file, applies overrides and checks everything against the schema.

    An empty file, or one of comments only, is the defaults.

    Args:
        path: YAML file.
        overrides: `key=value` with a dotted key, for example `model.vision.image_size=960`. The
            value is read as YAML, so `1e-4` is a number, `[1, 2]` a list and nothing is null. A
            section given as a value replaces the section of the file. The last one wins.
        schema: Root class of the configuration.

    Raises:
        ConfigError: The file cannot be read, is not a YAML mapping, or anything in it or in the
            overrides does not fit; all faults are listed, one a line.
    """
    values, faults = _read(Path(path))
    given: list[tuple[KeyPath, str]] = []
    for override in overrides:
        try:
            keys, value, duplicates = _parse_override(override)
            given.append((_assign(values, keys, value, origin=f"override {override}"), override))
            faults += duplicates
        except ConfigError as error:
            faults.append(str(error))

    def origin_of(fault: KeyPath) -> str:
        return _origin(fault, given, file=str(path))

    try:
        config = schema.model_validate(values)
    except ValidationError as error:
        faults += describe_faults(error, schema=schema, values=values, origin_of=origin_of)
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def dump_config(config: BaseModel) -> str:
    """Returns YAML with every key, defaults included; `load_config` reads it back as equal."""
    return format_yaml(config.model_dump(mode="json"))


def _read(path: Path) -> tuple[dict[Any, Any], list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    values, faults = parse_yaml(text, origin=str(path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        found = type(values).__name__
        raise ConfigError(f"{path}: expected keys and values (`seed: 0`), found a {found}")
    return values, faults


def _parse_override(override: str) -> tuple[KeyPath, Any, list[str]]:
    key, separator, text = override.partition("=")
    keys = tuple(key.strip().split("."))
    if not separator or not all(keys):
        raise ConfigError(f"override {override!r}: expected key=value with a dotted key")
    value, duplicates = parse_yaml(text, origin=f"override {override}")
    return keys, value, duplicates


def _assign(values: dict[Any, Any], keys: KeyPath, value: Any, *, origin: str) -> KeyPath:
    """Sets a nested value; returns the path of what is new: the key, or a section made for it."""
    section = values
    new = keys
    for depth, key in enumerate(keys[:-1], start=1):
        # A section whose keys are all commented out reads as null.
        if section.get(key) is None:
            section[key] = {}
            new = min(new, keys[:depth], key=len)
        if not isinstance(section[key], dict):
            raise ConfigError(f"{origin}: {dotted(keys[:depth])} is a value, not a section")
        # A YAML alias can make two sections one dict; only this one is meant.
        section[key] = dict(section[key])
        section = section[key]
    section[keys[-1]] = value
    return new


def _origin(fault: KeyPath, given: Sequence[tuple[KeyPath, str]], *, file: str) -> str:
    """Names the override that made the faulty key, or the file, and the overrides below the key."""
    above = [override for keys, override in given if fault[: len(keys)] == keys]
    below = [
        override
        for keys, override in given
        if len(keys) > len(fault) and keys[: len(fault)] == fault
    ]
    if above:
        return f"override {', '.join(above[-1:] + below)}"
    return f"{file} with {', '.join(below)}" if below else file
