"""``owlkit make-detector``: a detector folder from a configuration."""

import argparse
from pathlib import Path

from owlkit.errors import ConfigError

SUMMARY = "make a detector from a configuration: untrained, or on trained towers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG OUT key=value",
        help="configuration file, folder to write, and values that replace the file's",
    )
    parser.add_argument("--huggingface", action="store_true", help="write for transformers instead")
    parser.add_argument("--print-config", action="store_true", help="show all values and stop")
    parser.add_argument("--list-fields", action="store_true", help="explain all keys and stop")


def run(options: argparse.Namespace) -> int:
    """Builds and saves; returns 0."""
    from owlkit.config import DetectorConfig, describe_fields, dump_config, load_config

    if options.list_fields:
        print(describe_fields(DetectorConfig))
        return 0
    paths = [word for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    if len(paths) not in (1, 2) or (len(paths) == 1 and not options.print_config):
        raise ConfigError(f"expected a configuration file and a folder to write, found {paths}")
    config = load_config(paths[0], overrides)
    if options.print_config:
        print(dump_config(config), end="")
        return 0
    # Imported here, because it loads torch, which showing a configuration does not need.
    from owlkit.build import build_detector

    detector = build_detector(config.model, seed=config.seed)
    out = Path(paths[1])
    if options.huggingface:
        detector.save_huggingface(out)
    else:
        detector.save_pretrained(out)
    millions = sum(parameter.numel() for parameter in detector.parameters()) / 1e6
    print(f"{detector.vision.name}, {millions:.1f} M parameters: {out}")
    return 0
