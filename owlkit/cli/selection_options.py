"""The options that say which boxes are kept, shared by the commands that detect."""

import argparse
from typing import Any

from owlkit.errors import QueryError
from owlkit.postprocess import Selection
from owlkit.tiling import Tiling

_DEFAULT_THRESHOLD = 0.1


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options that :func:`detect_options` reads."""
    parser.add_argument(
        "--threshold",
        type=float,
        help="least score (default: the class's own, else the model's, else 0.1)",
    )
    parser.add_argument(
        "--nms-iou", type=float, default=0.5, help="overlap that duplicates exceed (default 0.5)"
    )
    parser.add_argument("--top-k", type=int, default=300, help="most boxes per image (default 300)")
    parser.add_argument("--exclusive", action="store_true", help="at most one class for each box")
    parser.add_argument(
        "--class-agnostic", action="store_true", help="boxes of different classes are duplicates"
    )
    parser.add_argument(
        "--soft-nms",
        choices=("linear", "gaussian"),
        help="lower the scores of duplicates instead of dropping them",
    )
    parser.add_argument(
        "--box-fusion", action="store_true", help="average duplicates instead of dropping them"
    )
    parser.add_argument(
        "--tile",
        default="0",
        metavar="SIZE",
        help='cut large images into tiles of so many pixels, or "model" for the size of the '
        "model's input; 0: do not (default)",
    )
    parser.add_argument(
        "--tile-overlap",
        type=float,
        default=0.25,
        help="share of a tile that its neighbour shows too (default 0.25)",
    )


def detect_options(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``Predictor.detect``.

    Raises:
        QueryError: If an option is out of its range, or two exclude each other.
    """
    found = {
        "nms_iou": options.nms_iou,
        "top_k": options.top_k,
        "one_label_per_box": options.exclusive,
        "class_agnostic": options.class_agnostic,
        "soft_nms": options.soft_nms,
        "box_fusion": options.box_fusion,
    }
    # Here, so that mistakes are found before a model is loaded.
    threshold = _DEFAULT_THRESHOLD if options.threshold is None else options.threshold
    Selection(threshold=threshold, **found)
    return {"threshold": options.threshold, "tiles": _tiling(options), **found}


def _tiling(options: argparse.Namespace) -> Tiling | None:
    if options.tile == "model":
        return Tiling(overlap=options.tile_overlap)
    try:
        size = int(options.tile)
    except ValueError:
        size = -1
    if size < 0:
        raise QueryError(
            f'--tile: expected a number of pixels, "model", or 0 for none; found {options.tile!r}'
        )
    return Tiling(size, overlap=options.tile_overlap) if size else None
