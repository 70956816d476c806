"""Paths in a configuration: ``~`` and environment variables are filled in."""

import os
from collections.abc import Sequence
from pathlib import Path

from owlkit.errors import ConfigError


def filled_in(text: str, *, key: str) -> str:
    """The value of a key that names a folder or a hub id; a hub id comes back as it is.

    Args:
        text: Value of the key.
        key: Its name, for the message.

    Raises:
        ConfigError: If it names an environment variable that is not set.
    """
    filled = os.path.expandvars(os.path.expanduser(text))
    if "$" in filled:
        raise ConfigError(f"{key}: {text} names an environment variable that is not set")
    return filled


def expanded(path: str | None, *, key: str, expected: str) -> Path:
    """The path that a key holds, with ``~`` and environment variables filled in.

    Args:
        path: Value of the key.
        key: Its name, for the message.
        expected: What should be there, in words.

    Raises:
        ConfigError: If there is no value, or it names an environment variable that is not set.
    """
    if path is None:
        raise ConfigError(f"{key}: expected {expected}, found nothing")
    return Path(filled_in(path, key=key))


def shard_urls(urls: Sequence[str], *, key: str) -> tuple[str, ...]:
    """The shards that a key names; the shell that a pipe starts fills in its own variables.

    Args:
        urls: Paths, patterns and pipes.
        key: Their key, for the message.

    Raises:
        ConfigError: If one names an environment variable that is not set.
    """
    return tuple(url if url.startswith("pipe:") else filled_in(url, key=key) for url in urls)
