"""The options that say how an exported model runs."""

import argparse
from typing import Any


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of exported models."""
    parser.add_argument(
        "--providers",
        help="of an exported model, instead of --device: execution providers of ONNX Runtime, the "
        "first one first, as in openvino,cpu",
    )
    parser.add_argument(
        "--threads", type=int, help="of an exported model on the CPU (default: one per core)"
    )


def runtime_options(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of :meth:`owlkit.Predictor.from_pretrained` for those options."""
    providers = options.providers
    return {
        "providers": None if providers is None else [name.strip() for name in providers.split(",")],
        "threads": options.threads,
    }
