"""Commands that are told what to do by a configuration file and `key=value` words."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from owlkit.errors import ConfigError

if TYPE_CHECKING:
    from owlkit.config import RunConfig

    RunT = TypeVar("RunT", bound=RunConfig)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the configuration file, its overrides, and two ways of looking at them."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG key=value",
        help="configuration file, and values that replace the file's",
    )
    parser.set_defaults(usage=f"usage: {parser.prog} CONFIG [key=value ...]")
    parser.add_argument("--print-config", action="store_true", help="show all values and stop")
    parser.add_argument("--list-fields", action="store_true", help="explain all keys and stop")


def read_run(options: argparse.Namespace, schema: "type[RunT]") -> "RunT | None":
    """The configuration of a run; None after showing what was asked for.

    A run without a name gets that of its file.

    Raises:
        ConfigError: If there is not one file, or anything in it does not fit.
    """
    from owlkit.config import describe_fields, dump_config, load_config

    if options.list_fields:
        print(describe_fields(schema))
        return None
    files = [word for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    if len(files) != 1:
        raise ConfigError(
            f"expected one configuration file and key=value words, found {files}\n{options.usage}"
        )
    config = load_config(files[0], overrides, schema=schema)
    if config.name is None:
        config = config.model_copy(update={"name": Path(files[0]).stem})
    if options.print_config:
        print(dump_config(config), end="")
        return None
    return config
