"""The options that say how a model runs."""

import argparse
from typing import Any


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares device and precision, and the options of exported models."""
    parser.add_argument("--device", help="for example cpu or cuda; default: a GPU if there is one")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="(default float32)",
    )
    parser.add_argument(
        "--providers",
        help="of an exported model, instead of --device: execution providers of ONNX Runtime, the "
        "first one first, as in openvino,cpu",
    )
    parser.add_argument(
        "--threads", type=int, help="of an exported model on the CPU (default: one per core)"
    )


def model_options(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of :meth:`owlkit.Predictor.from_pretrained` for those options."""
    providers = options.providers
    return {
        "device": options.device,
        "precision": options.precision,
        "providers": None if providers is None else [name.strip() for name in providers.split(",")],
        "threads": options.threads,
    }
