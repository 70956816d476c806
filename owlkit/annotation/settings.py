"""The settings of a job, which all its processes must share."""

import json
from pathlib import Path
from typing import Any

from owlkit.errors import ConfigError

FORMAT = "owlkit annotation 1"
SETTINGS_FILE = "settings.json"


def read_settings(path: Path) -> dict[str, Any]:
    """Reads what a job was begun with.

    Raises:
        ConfigError: If no job has begun, or the file is none of a job.
    """
    try:
        settings = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path.parent}: expected a job that has begun, found none") from None
    except ValueError as error:
        raise ConfigError(f"{path}: expected settings of a job, found {error}") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise ConfigError(f"{path}: expected settings of a job ({FORMAT}), found something else")
    return settings


def check_equal(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to mix results of different settings.

    Args:
        folder: Of the progress, for the message.
        found: What the job was begun with.
        wanted: All or some of the settings now.

    Raises:
        ConfigError: If one differs; names the first that does.
    """
    for key, value in wanted.items():
        if key not in found or found[key] != value:
            raise ConfigError(
                f"{folder}: expected to go on with the job there, found that it was begun with "
                f"{key} {found.get(key)!r}, now {value!r}; use the same settings, or choose "
                "another folder"
            )
