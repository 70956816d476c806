"""``owlkit export``: a model as ONNX graphs that run without torch."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from owlkit.cli.files import find_sources
from owlkit.errors import ConfigError
from owlkit.prompts import TEMPLATES

if TYPE_CHECKING:
    from owlkit.export import ExportReport, Step, Tolerance
    from owlkit.export.quantize import Measure
    from owlkit.models import DualEncoder, OwlDetector

SUMMARY = "write a model as ONNX graphs, prove that they are right, and quantise them"

_SIZE = re.compile(r"(\d+)(?:x(\d+))?")
_PHOTOGRAPHS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("model", metavar="MODEL", help="folder or hub id of a detector or encoder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=_size,
        metavar="SIZE",
        help="of the images in pixels, one graph for each, the first is the default: 768 or "
        "512x640 (height x width); default: the model's own",
    )
    parser.add_argument(
        "--tolerance",
        nargs=2,
        type=float,
        metavar=("BOXES", "LOGITS"),
        help="largest differences to torch that are accepted (default 1e-4 1e-3, or more for an "
        "untrained model that rounding moves by more); of attention maps a hundredth of LOGITS",
    )
    parser.add_argument(
        "--fused",
        action="store_true",
        help="write detector.onnx too: scores, top-k and NMS inside the graph",
    )
    parser.add_argument(
        "--attention",
        action="store_true",
        help="write attention.onnx too: where a vision transformer looks, for Predictor.attention",
    )
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", action="store_true", help="compute in half precision")
    precision.add_argument(
        "--int8", choices=["dynamic", "static"], help="compute in 8 bits; static needs images"
    )
    parser.add_argument(
        "--calibration-images",
        metavar="DIR",
        help="what 8-bit ranges are measured on: a few hundred images like those to come",
    )
    parser.add_argument(
        "--optimize", action="store_true", help="let ONNX Runtime fold and fuse for good"
    )
    parser.add_argument("--annotations", metavar="JSON", help="COCO boxes to measure AP on")
    parser.add_argument("--images", metavar="DIR", help="their images")
    parser.add_argument(
        "--templates",
        choices=sorted(TEMPLATES),
        default="ensemble7",
        help="prompts around the classes' names when AP is measured (default ensemble7)",
    )


def run(options: argparse.Namespace) -> int:
    """Exports, compares, prints the table; returns 0.

    Raises:
        ConfigError: If options do not go together, or the model cannot be expressed in ONNX.
        InputSizeError: If the model cannot take images of one of the sizes.
        TokenError: If attention maps are asked for, and the image tower is no vision transformer.
        CheckpointError: If the model cannot be loaded, graphs differ from it, or there is something
            else in the folder.
        ImageError: If an image cannot be read.
    """
    _check(options)
    photographs = _photographs(options)

    from owlkit.models.detector import OwlDetector
    from owlkit.models.loading import load_model

    model = load_model(options.model)
    if isinstance(model, OwlDetector):
        report = _export_detector(model, options, photographs)
    else:
        report = _export_encoder(model, options, photographs)
    print(report.parity.table())
    for name, found in report.measured.items():
        print(f"\n{name}", *_lines(found), sep="\n")
    print(f"\n{model.vision.name}: {options.out}")
    return 0


def _lines(found: object, indent: str = "  ") -> Iterator[str]:
    """What a step measured, one number a line; long lists are in the folder's owlkit.json."""
    if not isinstance(found, Mapping):
        return
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}"
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, list | tuple):
            yield f"{indent}{key}: {len(value)}"
        else:
            yield f"{indent}{key}: {f'{value:.4g}' if isinstance(value, float) else value}"


def _size(text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    if found is None or "0" in (found[1], found[2]):
        raise argparse.ArgumentTypeError(f"expected 768 or 512x640, found {text!r}")
    return int(found[1]), int(found[2] or found[1])


def _check(options: argparse.Namespace) -> None:
    """Sees that options go together before anything is loaded."""
    if (options.annotations is None) != (options.images is None):
        raise ConfigError("expected --annotations and --images together, found one of them")
    if options.int8 == "static" and options.calibration_images is None:
        raise ConfigError("--int8 static: expected --calibration-images, found none")
    for option in ("images", "calibration_images"):
        folder = getattr(options, option)
        if folder is not None and not Path(folder).is_dir():
            name = option.replace("_", "-")
            raise ConfigError(f"--{name}: expected a folder of images, found none at {folder}")
    if not all(limit > 0 for limit in options.tolerance or ()):
        raise ConfigError(f"--tolerance: expected positive numbers, found {options.tolerance}")


def _photographs(options: argparse.Namespace) -> Sequence[str]:
    """A few of the images that the command line names, to compare graph and model on."""
    folder = options.images or options.calibration_images
    return [] if folder is None else find_sources([folder], options.out)[:_PHOTOGRAPHS]


def _export_detector(
    model: "OwlDetector", options: argparse.Namespace, photographs: Sequence[str]
) -> "ExportReport":
    from owlkit.export import export_detector

    return export_detector(
        model,
        options.out,
        sizes=options.sizes,
        tolerance=_tolerance(options),
        photographs=photographs,
        attention=options.attention,
        steps=_steps(model, options),
    )


def _export_encoder(
    model: "DualEncoder", options: argparse.Namespace, photographs: Sequence[str]
) -> "ExportReport":
    from owlkit.export.dual_encoder import export_dual_encoder

    asked = ("fused", "attention", "fp16", "int8", "optimize", "annotations")
    for_detectors = [f"--{name}" for name in asked if getattr(options, name)]
    if for_detectors:
        raise ConfigError(
            f"{', '.join(for_detectors)}: expected a detector, found the encoder {options.model}"
        )
    return export_dual_encoder(
        model,
        options.out,
        sizes=options.sizes,
        tolerance=_tolerance(options),
        photographs=photographs,
    )


def _tolerance(options: argparse.Namespace) -> "Tolerance":
    from owlkit.export import Tolerance

    if options.tolerance is None:
        return Tolerance()
    boxes, logits = options.tolerance
    return Tolerance(boxes=boxes, logits=logits, attention=logits / 100, rounding=0)


def _steps(model: "OwlDetector", options: argparse.Namespace) -> "list[Step]":
    """What the options ask for beyond the float32 graphs, in the order in which it is done."""
    measure: Measure | None = None
    if options.annotations is not None:
        from owlkit.evaluation.exported import ExportedAccuracy
        from owlkit.evaluation.predictions import PredictionSettings

        measure = ExportedAccuracy(
            Path(options.annotations),
            Path(options.images),
            settings=PredictionSettings(templates=options.templates),
        )

    from owlkit.export.half import halve_folder
    from owlkit.export.quantize import Int8Settings, quantize_folder
    from owlkit.export.steps import accuracy_step, fused_step, optimize_step

    steps: list[Step] = []
    if options.optimize:
        steps.append(optimize_step(model.text))
    if options.fp16:
        steps.append(partial(halve_folder, measure=measure))
    if options.int8:
        # Noise says little about which layers lose most.
        folder = options.calibration_images or options.images
        images = [] if folder is None else find_sources([folder], options.out)
        settings = Int8Settings(mode=options.int8)
        steps.append(partial(quantize_folder, settings=settings, images=images, measure=measure))
    if measure is not None and not (options.fp16 or options.int8):
        steps.append(accuracy_step(measure))
    if options.fused:
        steps.append(fused_step(model.calibration))
    return steps
